"""Sentences on wrong labels where none was found: a report of none is no proof that there are none."""

from __future__ import annotations

from coevo_ray.reporting.wording import integer

_CHECK = "check the labels of some rows drawn at random"
_FEW = 1000  # rows; up to 70 % of the labels doubted among fewer were right: benchmarks/results/battery-doubt_rows.md


def not_judged(fewest: float | None) -> str:
    """The sentence for too few labels.

    Args:
        fewest: labels from which they are judged, see `core.probes.noise_matrix.fewest_rows`.
    """
    return (
        f"Labels were not judged: of fewer than {integer(fewest)} with these classes, wrong labels cannot be "
        f"distinguished from hard rows. Some may be wrong; to learn how many, {_CHECK}."
    )


def none_doubted(wrong: float | None = None) -> str:
    """The sentence where no label is more likely wrong than right.

    Args:
        wrong: labels that are estimated to be wrong; None where that is not known.
    """
    if wrong:
        return (
            f"About {integer(wrong)} labels are estimated to be wrong, but the targets do not show which: each label "
            f"alone is more likely right than wrong. To learn more, {_CHECK}."
        )
    return (
        "No wrong labels were found. Those of hard rows, and a few of some classes alone, do not show by this method; "
        f"to rule them out, {_CHECK}."
    )


def doubted_of_few(rows: float | None) -> str:
    """A further sentence on labels that are doubted among few rows; nothing where there are enough.

    Args:
        rows: that were judged; None where that is not known.
    """
    if rows is None or rows > _FEW:
        return ""
    return " Of so few rows, half of them or more may be right: look before you change one."
