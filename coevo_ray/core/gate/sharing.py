"""Trust in labels that near-duplicates share, from the labels within their groups (docs/design.md#gate-sharing)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import Int64Array, IntArray

# Before any pair is labelled: nine of ten agree, with the weight of ten pairs. Real copies soon say more.
_AGREE_BEFORE, _PAIRS_BEFORE = 9.0, 10.0
_TRUSTED = 0.85  # agreement below which the pool's own copies share nothing


@dataclass(frozen=True)
class Agreement:
    """Agreement of labels within groups of near-duplicates.

    Attributes:
        pairs: further labels in groups that have one already: each is a trial of what sharing would have said.
        agreeing: of these, the expected number that a random other label of the group would have said rightly.
    """

    pairs: int
    agreeing: float

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
        """Expected share of right labels among shared ones: the mean of Beta(9 + agreeing, 1 + the others)."""
        return (_AGREE_BEFORE + self.agreeing) / (_PAIRS_BEFORE + self.pairs)

    @property
    def trusted(self) -> bool:
        """True if the groups may share labels."""
        return self.precision >= _TRUSTED
