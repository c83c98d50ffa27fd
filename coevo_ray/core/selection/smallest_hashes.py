"""Rows with the smallest hashes of very many groups, in one pass over the rows (docs/design.md#smallest-hashes).

Hashes are uniform, so how many rows of a group lie below a bound is known beforehand, up to a few standard deviations.
Rows below that window are taken and rows above it are not; the pass counts the former and keeps those inside, among
which an exact sort decides. A group whose quota ends outside its window, which the counts tell, is looked at again with
a wider one. The result depends on hashes and quotas alone, not on windows, chunks or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coevo_ray.core.arrays import BoolArray, Float64Array, Int64Array, UInt64Array
from coevo_ray.core.rows.chunks import Chunk, map_ahead
from coevo_ray.core.rows.row_set import RowSet

# Rows of a step, whose temporaries stay in a core's own cache, and of a span, which shares the cost of counters of
# all groups among its steps. Multiples of 8, so that they end between bytes of packed bits.
STEP_ROWS = 1 << 16
SPAN_ROWS = 1 << 20
# Standard deviations of a window. One draw in some hundreds, with 100 000 groups, takes a second look.
_DEVIATIONS = 5.5
# Rows inside windows that are kept at a time, 12 bytes each, and rows that a thread sorts at a time.
_MOST_KEPT = 1 << 24
_MOST_SORTED = 1 << 21
# Bounds are in units of 2^-31, so that one fits uint32: 2^31, above all hashes, does too.
_UNIT = 31
_ALL = 1 << _UNIT


class HashedRows(NamedTuple):
    """Rows of a step.

    Attributes:
        always: bool[stop - start], rows to take whatever their hash; changed by the caller.
        at: int64[n], increasing, other rows that may be taken: positions from the start of the step.
        group: int64[n], from 0.
        hashes: uint64[n], uniform, distinct within a group.
    """

    always: BoolArray
    at: Int64Array
    group: Int64Array
    hashes: UInt64Array


class Quotas(NamedTuple):
    """Rows of each group.

    Attributes:
        take: int64[groups], rows to take, at most those that are there.
        there: int64[groups], rows that `read` gives.
        before: int64[groups], rows with smaller hashes that it does not give, as far as that is known: of all of these
            together the hashes are uniform. Only the time depends on it.
    """

    take: Int64Array
    there: Int64Array
    before: Int64Array


class _Kept(NamedTuple):
    """Rows of a span inside their windows: positions uint32[n] from its start, and keys uint64[n]."""

    at: npt.NDArray[np.uint32]
    keys: UInt64Array


def steps_of(span: Chunk) -> Iterator[Chunk]:
    """Cuts a span into steps."""
    for start in range(span.start, span.stop, STEP_ROWS):
        yield Chunk(start, min(span.stop, start + STEP_ROWS))


def spans_of(rows: int) -> list[Chunk]:
    """Cuts rows into spans."""
    return [Chunk(start, min(rows, start + SPAN_ROWS)) for start in range(0, rows, SPAN_ROWS)]


def take_smallest_hashes(
    size: int,
    read: Callable[[Chunk], HashedRows],
    hash_of: Callable[[Int64Array, Int64Array], UInt64Array],
    groups: Quotas,
) -> RowSet:
    """Finds the positions of the smallest hashes of each group, and of the rows to take in any case.

    Args:
        size: number of positions.
        read: step -> its rows; called in threads, and again for a second look, so it must be a pure function.
        hash_of: positions int64[n], groups int64[n] -> the rows' hashes uint64[n].
        groups: rows to take of each group.

    Returns:
        A set of positions, uint8[ceil(size / 8)] bits.
    """
    result = RowSet.empty(size)
    deviations: Float64Array = np.full(len(groups.take), _DEVIATIONS)
    for part in _parts(groups, deviations):
        look = _Look(size, read, hash_of, part, deviations)
        while len(outside := look.outside()):
            deviations[outside] = 4 * deviations[outside] + 1
            look = _Look(size, read, hash_of, part, deviations)
        result.update(look.taken())
    return result


def _parts(groups: Quotas, deviations: Float64Array) -> Iterator[Quotas]:
    """Yields the quotas of ranges of groups that keep about `_MOST_KEPT` rows, with 0 for all other groups."""
    low, high = _windows(groups, deviations)
    part = (np.cumsum((high - low) / _ALL * (groups.there + groups.before)) / _MOST_KEPT).astype(np.int64)
    for number in range(int(part.max(initial=0)) + 1):
        yield groups._replace(take=np.where(part == number, groups.take, 0))


def _windows(groups: Quotas, deviations: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Returns bounds of the hashes float64[groups], in [0, 2^31], between which the quotas end but for bad luck."""
    rows, middle = np.maximum(groups.there + groups.before, 1), groups.take + groups.before
    room = deviations * (np.sqrt(middle * (1.0 - middle / rows)) + 1.0)
    low = np.clip(np.floor((middle - room) / rows * _ALL), 0, _ALL)
    high = np.clip(np.ceil((middle + room) / rows * _ALL), 0, _ALL)
    whole, some = groups.take == groups.there, groups.take > 0
    return np.where(whole, _ALL, low) * some, np.where(whole, _ALL, high) * some


class _Look:
    """One look at all rows, with given windows."""

    def __init__(
        self,
        size: int,
        read: Callable[[Chunk], HashedRows],
        hash_of: Callable[[Int64Array, Int64Array], UInt64Array],
        groups: Quotas,
        deviations: Float64Array,
    ) -> None:
        self._read, self._hash_of = read, hash_of
        self._low, self._high = (bound.astype(np.uint32) for bound in _windows(groups, deviations))
        # A key is the group above the hash's leading bits: one sort orders all groups.
        self._bits = max(1, len(groups.take).bit_length())
        self._shift = np.uint64(64 - self._bits)
        self._spans = spans_of(size)
        self._result = RowSet.empty(size)
        self._kept: list[_Kept] = []
        self._need, self._inside = groups.take.copy(), np.zeros_like(groups.take)

    def outside(self) -> Int64Array:
        """Looks at the rows, and returns the groups whose quotas end outside their windows: int64[n]."""
        for below, kept in map_ahead(self._look, self._spans):
            self._need -= below
            self._inside += self._count(self._group(kept.keys))
            self._kept.append(kept)
        return np.flatnonzero((self._need < 0) | (self._need > self._inside))

    def taken(self) -> RowSet:
        """Returns the rows taken, once no quota ends outside."""
        self._take(*self._edges())
        return self._result

    def _look(self, span: Chunk) -> tuple[Int64Array, _Kept]:
        """Takes the rows of a span below their windows: how many of each group int64[groups], and those inside."""
        below, at, keys = [], [], []
        for step in steps_of(span):
            always, rows, group, hashes = self._read(step)
            high = (hashes >> np.uint64(64 - _UNIT)).astype(np.uint32)
            under = np.flatnonzero(high < self._high.take(group))
            group, rows = group.take(under), rows.take(under)
            sure = high.take(under) < self._low.take(group)
            always[rows[sure]] = True
            self._result.bits[step.start // 8 : -(-step.stop // 8)] = np.packbits(always)
            below.append(group[sure])
            near = np.flatnonzero(~sure)
            key = hashes.take(under.take(near)) >> np.uint64(self._bits)
            key |= group.take(near).astype(np.uint64) << self._shift
            keys.append(key)
            at.append((rows.take(near) + (step.start - span.start)).astype(np.uint32))
        return self._count(np.concatenate(below)), _Kept(np.concatenate(at), np.concatenate(keys))

    def _count(self, group: Int64Array) -> Int64Array:
        return np.bincount(group, minlength=len(self._low))

    def _group(self, keys: UInt64Array) -> Int64Array:
        return (keys >> self._shift).view(np.int64)

    def _edges(self) -> tuple[UInt64Array, Int64Array]:
        """Finds the last key of each group that is taken, uint64[groups], and how many rows with that very key are."""
        edges, ties = np.zeros(len(self._need), dtype=np.uint64), np.zeros(len(self._need), dtype=np.int64)

        def find(groups: tuple[int, int]) -> None:
            first, end = groups
            low, high = first << int(self._shift), (end << int(self._shift)) - 1
            keys = np.concatenate([part.keys[(part.keys >= low) & (part.keys <= high)] for part in self._kept])
            keys.sort()
            need, inside = self._need[first:end], self._inside[first:end]
            some = np.flatnonzero(need)
            starts = (np.cumsum(inside) - inside)[some]
            edge = keys[starts + need[some] - 1]
            edges[first + some] = edge
            ties[first + some] = need[some] - (np.searchsorted(keys, edge) - starts)

        for _ in map_ahead(find, _cut(self._inside)):
            pass
        return edges, ties

    def _take(self, edges: UInt64Array, ties: Int64Array) -> None:
        """Takes the kept rows below the edges, and of those at an edge the ones with the smallest hashes."""

        def mark(item: tuple[Chunk, _Kept]) -> tuple[Int64Array, Int64Array]:
            span, (at, keys) = item
            edge = edges.take(self._group(keys))
            flags = self._result.flags(span)
            flags[at[keys < edge]] = True
            self._result.bits[span.start // 8 : -(-span.stop // 8)] = np.packbits(flags)
            tied = np.flatnonzero(keys == edge)
            return at[tied].astype(np.int64) + span.start, self._group(keys[tied])

        marked = map_ahead(mark, list(zip(self._spans, self._kept, strict=True)))
        at, group = (np.concatenate(part) for part in zip(*marked, strict=True))
        order = np.lexsort((self._hash_of(at, group), group))
        at, group = at[order], group[order]
        rank = np.arange(len(at)) - np.searchsorted(group, group)
        self._result.add(at[rank < ties[group]])


def _cut(rows: Int64Array) -> list[tuple[int, int]]:
    """Cuts groups of int64[groups] rows into ranges of about `_MOST_SORTED` rows."""
    of = np.cumsum(rows) // _MOST_SORTED
    ends = [*np.flatnonzero(np.diff(of)) + 1, len(rows)]
    return [(int(first), int(end)) for first, end in zip([0, *ends[:-1]], ends, strict=True)]
