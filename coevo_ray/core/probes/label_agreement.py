"""Trust in groups of near-duplicates, from the labels within them (docs/design.md#gate-sharing, #copies-by-labels)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array, IntArray

# Before any pair is labelled: nine of ten agree, with the weight of ten pairs. Real copies soon say more.
_AGREE_BEFORE, _PAIRS_BEFORE = 9.0, 10.0
_TRUSTED = 0.85  # agreement below which the pool's own copies share nothing


@dataclass(frozen=True)
class Agreement:
    """Agreement of labels within groups of near-duplicates.

    Attributes:
        pairs: further labels in groups that have one already: each is a trial of what sharing would have said.
        agreeing: of these, the expected number that a random other label of the group would have said rightly.
        by_mistakes: share of pairs of labels of one true class that agree all the same where some labels are wrong.
    """

    pairs: int
    agreeing: float
    by_mistakes: float = 1.0

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

        Pairs that wrong labels alone set apart count as agreeing.
        """
        agreeing = min(self.agreeing / self.by_mistakes, float(self.pairs))
        return (_AGREE_BEFORE + agreeing) / (_PAIRS_BEFORE + self.pairs)

    @property
    def trusted(self) -> bool:
        """True if the groups' rows are copies, which may share labels and turns."""
        return self.precision >= _TRUSTED


def agree_by_mistakes(noise: Float64Array, prior: Float64Array) -> float:
    """Chance that two labels of one true class agree: sum_t prior_t sum_j noise_tj^2.

    Args:
        noise: float64[C, C], P(given label | true class).
        prior: float64[C], shares of the true classes.
    """
    return float(prior @ (noise**2).sum(axis=1))


def groups_of_copies(
    group: Int64Array, alone: Int64Array, labels: IntArray, by_mistakes: float = 1.0
) -> tuple[Int64Array, Agreement]:
    """Groups whose rows are copies as far as their labels tell: all of them, or none.

    Versions of a package and questions of one form are near each other, too, and yet have labels of their own.

    Args:
        group: int64[n], equal for the rows of a group.
        alone: int64[n], what stands for a group of a single row, unlike all others.
        labels: int64[n].
        by_mistakes: see `agree_by_mistakes`; 1 takes labels as they are.

    Returns:
        The groups, or `alone` where their labels disagree too often; and the agreement.
    """
    found = replace(Agreement.of(group, labels), by_mistakes=by_mistakes)
    return (group if found.trusted else alone), found
