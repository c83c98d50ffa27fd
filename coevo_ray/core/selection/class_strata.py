"""Phases of the strata (class, factor): spread a factor's rows over a cycle across classes (docs/design.md#rotation).

Classes rotate each for itself. With the same offset of a factor in all of them, its rows would come all in one epoch.
"""

from __future__ import annotations

import threading

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array, IntArray
from coevo_ray.core.rows.chunks import Chunk, each_chunk
from coevo_ray.core.rows.row_set import Rows, RowSet
from coevo_ray.core.selection.rotation import OffsetsOf, noise

# Classes x factors that a table of flags may have, a byte each, and strata that are sorted: larger strata hold so many
# rows of each factor that offsets matter little.
_MOST_PAIRS = 1 << 27
_MOST_STRATA = 1 << 18
_ROUNDS = 2


class ClassStrata:
    """The strata (class, factor) of candidates, and the offsets of their phases.

    Offsets begin at random. In turn, those of each class's strata, then those of each factor's, are replaced by evenly
    spaced ones in the same order; what is even over a factor's classes stays nearly so over a class's factors, whose
    order alone decides, since a class takes as many rows as its quota says. More than 2^18 strata stay random.

    Args:
        candidates: int64[n] or a set.
        label, factor: int[N], labels 0 or above.
        seed: of the offsets.
    """

    def __init__(self, candidates: Rows, label: IntArray, factor: IntArray, seed: int) -> None:
        self._seed, self._first = seed, int(factor.min())
        self._width = int(factor.max()) - self._first + 1
        self._pairs = self._find(candidates, label, factor)
        self._offsets: dict[int, Float64Array] = {}
        self._lock = threading.Lock()

    def of_class(self, label: int) -> OffsetsOf:
        """Returns a function of (factors int64[s], increasing; cycle): the offsets float64[s] of a class's strata."""

        def offsets(factors: Int64Array, cycle: int) -> Float64Array:
            if self._pairs is None:
                return random_offsets(label, self._seed, factors, cycle)
            first, end = np.searchsorted(self._pairs, [label * self._width, (label + 1) * self._width])
            found = np.full(len(factors), 0.5)  # of factors without rows here
            mine = self._pairs[first:end] - label * self._width + self._first
            found[np.searchsorted(factors, mine)] = self._in_cycle(cycle)[first:end]
            return found

        return offsets

    def _find(self, candidates: Rows, label: IntArray, factor: IntArray) -> Int64Array | None:
        """Returns the pairs class * width + factor that have rows, int64[s], increasing; None if there are too many."""
        classes = int(label.max()) + 1
        if classes * self._width > _MOST_PAIRS:
            return None
        there = np.zeros(classes * self._width, dtype=bool)

        def mark(chunk: Chunk) -> None:
            if isinstance(candidates, RowSet):
                flags = candidates.flags(chunk)
                of, with_factor = label[chunk.slice][flags], factor[chunk.slice][flags]
            else:
                of, with_factor = label[candidates[chunk.slice]], factor[candidates[chunk.slice]]
            there[of.astype(np.int64) * self._width + (with_factor.astype(np.int64) - self._first)] = True

        each_chunk(candidates.size if isinstance(candidates, RowSet) else len(candidates), mark)
        pairs = np.flatnonzero(there)
        return pairs if len(pairs) <= _MOST_STRATA else None

    def _in_cycle(self, cycle: int) -> Float64Array:
        with self._lock:  # classes are in the same cycles, and select in threads
            if cycle not in self._offsets:
                assert self._pairs is not None
                self._offsets[cycle] = spread(self._pairs // self._width, self._pairs % self._width, self._seed, cycle)
            return self._offsets[cycle]


def spread(classes: Int64Array, factors: Int64Array, seed: int, cycle: int) -> Float64Array:
    """Spreads the offsets of strata evenly over each factor's classes, and nearly so over each class's factors.

    Args:
        classes, factors: int64[s], class and factor of each stratum, no two alike.
        seed, cycle: what the offsets depend on, beside the strata.

    Returns:
        float64[s] in (0, 1).

    Examples:
        >>> offsets = spread(np.arange(4), np.zeros(4, np.int64), seed=0, cycle=0)
        >>> np.diff(np.sort(offsets)).round(6).tolist()
        [0.25, 0.25, 0.25]
    """
    offsets = noise(np.arange(len(classes)), seed + 1, -1 - cycle)
    for _ in range(_ROUNDS):
        for groups, stream in ((classes, seed + 2), (factors, seed)):
            sizes = np.bincount(groups)
            offsets = (_ranks(groups, offsets, sizes) + noise(groups, stream, -1 - cycle)) / sizes[groups]
    return offsets


def random_offsets(label: int, seed: int, factors: Int64Array, cycle: int) -> Float64Array:
    """Returns offsets of the phases of a class's strata that are independent of the other classes': float64[s]."""
    return noise(factors + (label + 1) * (1 << 32), seed + 1, -1 - cycle)


def _ranks(groups: Int64Array, keys: Float64Array, sizes: Int64Array) -> Int64Array:
    """Returns the rank of each key among its group's, int64[s], from 0."""
    order = np.lexsort((keys, groups))
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - (np.cumsum(sizes) - sizes)[groups[order]]
    return ranks
