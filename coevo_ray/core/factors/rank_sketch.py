"""Ranks without gathering: mergeable histograms of float32 values, built shard by shard.

Bins are fixed, not fitted to the data: a value's bin is its float32 bit pattern without the last bits, which preserves
the order of values >= 0. A sum of sketches, and so every rank, is therefore the same for any sharding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int64Array, UInt32Array
from coevo_ray.errors import InputError

_KEPT_BITS = 14  # of the 23 of a float32's mantissa: 16 384 bins from each power of two to the next
_DROPPED_BITS = 23 - _KEPT_BITS


@dataclass(frozen=True)
class RankSketch:
    """Counts of values per non-empty bin.

    A bin has a relative width of 2^-14: scores that spread over a few powers of two take some ten thousand bins of 16
    bytes, whatever the number of rows; float32 allows at most 4.2 million bins.

    Attributes:
        lowest, highest: float32[bins], extremes of the values of each bin, increasing.
        counts: int64[bins].
    """

    lowest: Float32Array
    highest: Float32Array
    counts: Int64Array

    @classmethod
    def empty(cls) -> RankSketch:
        """Makes a sketch without values: bounds float32[0], counts int64[0]."""
        return cls(np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def of(cls, x: Float32Array) -> RankSketch:
        """Sketches values float32[n], finite and >= 0.

        Raises:
            InputError: a value is negative or not finite.
        """
        if not (np.isfinite(x) & (x >= 0)).all():
            raise InputError("scores that are negative or not finite", "check the features for NaN and infinity")
        ordered = np.sort(x) + np.float32(0)  # -0.0 becomes 0.0, whose bit pattern is the lowest
        return _collect(ordered, ordered, np.ones(len(x), dtype=np.int64))

    def __add__(self, other: RankSketch) -> RankSketch:
        order = np.argsort(_bins(np.concatenate([self.lowest, other.lowest])), kind="stable")
        low = np.concatenate([self.lowest, other.lowest])[order]
        high = np.concatenate([self.highest, other.highest])[order]
        return _collect(low, high, np.concatenate([self.counts, other.counts])[order])

    @property
    def rows(self) -> int:
        """Number of values seen, an int: the sum of counts int64[bins]."""
        return int(self.counts.sum())

    @property
    def largest_error(self) -> float:
        """Bound on the error of `ranks` against exact ranks in [0, 1]; 0 if no bin mixes different values."""
        mixed = self.counts[self.lowest < self.highest]
        return float((mixed.max() - 1) / 2 / (self.rows - 1)) if mixed.size else 0.0

    def ranks(self, x: Float32Array) -> Float32Array:
        """Computes the mean rank of each value's bin, scaled to [0, 1].

        Ranks are monotone in the values, and equal `scores.rank_normalise` of all values within `largest_error`.

        Args:
            x: float32[n], some of the values that were sketched.

        Returns:
            float32[n]; 0 if only one value was seen.

        Raises:
            InputError: a value is in none of the bins: the sketch is of other rows.
        """
        bins = _bins(self.lowest)
        wanted = _bins(x + np.float32(0))
        index = np.searchsorted(bins, wanted)
        if len(x) and (index.max() == len(bins) or (bins[index] != wanted).any()):
            raise InputError(
                "scores that were not counted", "the shards changed since they were counted; score into another folder"
            )
        if self.rows < 2:
            return np.zeros(len(x), dtype=np.float32)
        mean_rank = np.cumsum(self.counts) - (self.counts + 1) / 2.0
        return (mean_rank[index] / (self.rows - 1)).astype(np.float32)


def _bins(x: Float32Array) -> UInt32Array:
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return (bits >> np.uint32(_DROPPED_BITS)).astype(np.uint32)


def _collect(low: Float32Array, high: Float32Array, counts: Int64Array) -> RankSketch:
    """Merges entries of the same bin; entries are sorted by bin."""
    bins = _bins(low)
    starts = np.flatnonzero(np.concatenate([[True], bins[1:] != bins[:-1]])) if len(bins) else np.zeros(0, np.int64)
    if not len(starts):
        return RankSketch.empty()
    return RankSketch(
        np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts), np.add.reduceat(counts, starts)
    )
