"""Trust in groups of near-duplicates, from the labels within them (docs/design.md#gate-sharing, #copies-by-labels)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array, IntArray

# Before any pair is labelled: nine of ten agree, with the weight of ten pairs. Real copies soon say more.
_AGREE_BEFORE, _PAIRS_BEFORE = 9.0, 10.0
_TRUSTED = 0.85  # agreement below which the pool's own copies share nothing


class Chances(NamedTuple):
    """Chances that two given labels agree: those of rows of one true class, and of different ones."""

    same: float
    other: float


_NO_MISTAKES = Chances(1.0, 0.0)


@dataclass(frozen=True)
class Agreement:
    """Agreement of labels within groups of near-duplicates.

    Attributes:
        pairs: further labels in groups that have one already: each is a trial of what sharing would have said.
        agreeing: of these, the expected number that a random other label of the group would have said rightly.
        chances: see `Chances`.
    """

    pairs: int
    agreeing: float
    chances: Chances = _NO_MISTAKES

    @classmethod
    def of(cls, group: IntArray, labels: IntArray) -> Agreement:
        """Counts it.

        A group with L labels, n_c of them of class c, has L - 1 trials, with success sum_c n_c (n_c - 1) / (L (L - 1)):
        that of two random ones of its labels.

        Args:
            group: int[n], equal for the labelled rows of a group.
            labels: int[n].

        Examples:
            >>> Agreement.of(np.array([7, 7, 7, 9]), np.array([1, 1, 0, 1]))
            Agreement(pairs=2, agreeing=0.6666666666666666)
        """
        _, place, size = np.unique(group, return_inverse=True, return_counts=True)
        cells, count = np.unique(np.stack([place, labels.astype(np.int64)]), axis=1, return_counts=True)
        same: Int64Array = np.bincount(cells[0], weights=count * (count - 1), minlength=len(size))
        return cls(int((size - 1).sum()), float((same / np.maximum(size, 1)).sum()))

    @property
    def precision(self) -> float:
        """Expected share of right labels among shared ones: the mean of Beta(9 + agreeing, 1 + the others).

        Agreeing are as many pairs of one true class as explain the labels, right and wrong ones.
        """
        same, other = self.chances
        agreeing = min(max((self.agreeing - other * self.pairs) / (same - other), 0.0), float(self.pairs))
        return (_AGREE_BEFORE + agreeing) / (_PAIRS_BEFORE + self.pairs)

    @property
    def trusted(self) -> bool:
        """True if the groups' rows are copies, which may share labels and turns."""
        return self.precision >= _TRUSTED


def chances_to_agree(noise: Float64Array, prior: Float64Array) -> Chances:
    """Chances that two labels agree where some are wrong.

    Args:
        noise: float64[C, C], P(given label | true class), of which most labels are right.
        prior: float64[C], shares of the true classes.
    """
    same = (noise**2).sum(axis=1)
    of_any = float(((prior @ noise) ** 2).sum())
    differ = 1.0 - float((prior**2).sum())
    other = (of_any - float(prior**2 @ same)) / differ if differ > 0 else 0.0
    return Chances(float(prior @ same), other)


def groups_of_copies(
    group: Int64Array, alone: Int64Array, labels: IntArray, chances: Chances | None = None
) -> tuple[Int64Array, Agreement]:
    """Groups whose rows are copies as far as their labels tell: all of them, or none.

    Versions of a package and questions of one form are near each other, too, and yet have labels of their own.

    Args:
        group: int64[n], equal for the rows of a group.
        alone: int64[n], what stands for a group of a single row, unlike all others.
        labels: int64[n].
        chances: that labels agree under their mistakes; None takes them as they are.

    Returns:
        The groups, or `alone` where their labels disagree too often; and the agreement.
    """
    found = replace(Agreement.of(group, labels), chances=chances or _NO_MISTAKES)
    return (group if found.trusted else alone), found
