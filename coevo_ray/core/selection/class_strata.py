"""Phases of the strata (class, factor): spread a factor's rows over a cycle across classes (docs/design.md#rotation).

Classes rotate each for itself. With the same offset of a factor in all of them, its rows would come all in one epoch.
"""

from __future__ import annotations

import threading

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float64Array, Int64Array, IntArray
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
        there: bool[classes, factors], the strata that have rows; None if there are too many to be sorted.
        first: number of the first factor.
        seed: of the offsets.
    """

    def __init__(self, there: BoolArray | None, first: int, seed: int) -> None:
        self._seed, self._first = seed, first
        pairs = None if there is None else np.flatnonzero(there)  # class * factors + factor, increasing
        self._pairs = None if pairs is None or len(pairs) > _MOST_STRATA else pairs
        self._width = 0 if there is None else there.shape[1]
        self._offsets: dict[int, Float64Array] = {}
        self._lock = threading.Lock()

    @classmethod
    def of_rows(cls, candidates: Rows, label: IntArray, factor: IntArray, seed: int) -> ClassStrata:
        """Makes the strata of candidates, int64[n] or a set.

        Args:
            candidates: int64[n] or a set.
            label, factor: int[N], labels 0 or above.
            seed: of the offsets.
        """
        first = int(factor.min())
        return cls(_flags(candidates, label, factor, first, int(factor.max()) - first + 1), first, seed)

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

    def _in_cycle(self, cycle: int) -> Float64Array:
        with self._lock:  # classes are in the same cycles, and select in threads
            if cycle not in self._offsets:
                assert self._pairs is not None
                self._offsets[cycle] = spread(self._pairs // self._width, self._pairs % self._width, self._seed, cycle)
            return self._offsets[cycle]


def _flags(candidates: Rows, label: IntArray, factor: IntArray, first: int, width: int) -> BoolArray | None:
    """Flags the strata that have rows: bool[classes, width]; None if there are too many."""
    classes = int(label.max()) + 1
    if classes * width > _MOST_PAIRS:
        return None
    there = np.zeros(classes * width, dtype=bool)

    def mark(chunk: Chunk) -> None:
        if isinstance(candidates, RowSet):
            flags = candidates.flags(chunk)
            of, with_factor = label[chunk.slice][flags], factor[chunk.slice][flags]
        else:
            of, with_factor = label[candidates[chunk.slice]], factor[candidates[chunk.slice]]
        there[of.astype(np.int64) * width + (with_factor.astype(np.int64) - first)] = True

    each_chunk(candidates.size if isinstance(candidates, RowSet) else len(candidates), mark)
    return there.reshape(-1, width)


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
    order = _order(groups, keys)
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - (np.cumsum(sizes) - sizes)[groups[order]]
    return ranks


def _order(groups: Int64Array, keys: Float64Array) -> Int64Array:
    """Orders keys in [0, 1] within groups from 0, as `numpy.lexsort((keys, groups))` does: int64[s].

    One sort of numbers made of group, leading bits of the key and index is several times faster; it is the same order
    unless two keys of a group have the same leading bits.
    """
    at, top = max(1, (len(keys) - 1).bit_length()), max(1, int(groups.max(initial=0)).bit_length())
    bits = min(52, 64 - at - top)
    if bits < 1:
        return _lexsort(groups, keys)
    # The largest key may have been rounded to 1.
    packed = np.minimum(keys * 2.0**bits, 2.0**bits - 1).astype(np.uint64)
    packed |= groups.astype(np.uint64) << np.uint64(bits)
    packed <<= np.uint64(at)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    leading = packed >> np.uint64(at)
    if (leading[1:] == leading[:-1]).any():
        return _lexsort(groups, keys)
    return (packed & np.uint64((1 << at) - 1)).view(np.int64)


def _lexsort(groups: Int64Array, keys: Float64Array) -> Int64Array:
    order: Int64Array = np.lexsort((keys, groups))
    return order
