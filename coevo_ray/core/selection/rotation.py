"""Whose turn it is: rotation of rows, windows along evenly spaced phases, random rows, and choice by key.

The arithmetic beneath the policies (DESIGN section 5.3). Every function depends on its arguments alone. Rows come as
row_ids or as a `RowSet`, and the rows taken come back in the same form; arrays of N have a value for every row of the
pool. Arrays are read in chunks, so that nothing of 8 bytes per row is ever held for all rows of a set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float64Array, Int64Array, IntArray
from coevo_ray.core.rows.chunks import Chunk, each_chunk, map_chunks
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.rows.row_set import Rows, RowSet
from coevo_ray.core.selection.smallest_keys import Members, MembersOf, sortable, take_smallest

# Numbers without a stratum that are not worth a table.
_MOST_EMPTY = 1 << 16


def take_turns(rows: Rows, usage: IntArray, count: int, seed: int, strata: IntArray | None = None) -> Rows:
    """The `count` rows whose turn it is: least used first, among equals by the phases of that cycle.

    Usage never differs by more than 1 if it did not before: while rows used c times are left they are taken before any
    row used c + 1 times, and no row is taken twice at once, so {c, c + 1} becomes {c, c + 1} or {c + 1, c + 2}.

    Rows of a stratum have the phases (k + offset) / n in a cycle, k = 0 to n - 1, with one random offset in (0, 1). Of
    those used c times in cycle c each epoch takes what lies in the next window along the phases: where `done` rows of
    the stratum have been used in this cycle, the phases with k >= done that are below the window's end. A window of
    width w so takes floor(w n) or ceil(w n) of each stratum; its end is where the count is met. Which rows of the
    stratum they are goes by a hash that changes with the cycle: nothing is sorted, and nothing kept from one epoch to
    the next but usage.

    Args:
        rows: candidates.
        usage: int[N], usage counts, or turns that were taken.
        count: from 1 to the number of rows.
        seed: seed of the phases and the hash.
        strata: int[N]; rows of a stratum are spread evenly over a cycle.
    """
    at_most = np.cumsum(_count(rows, lambda part: usage[part.pick]))
    # Rows used less often than this all have their turn; among those used just so often the phases decide.
    cycle = int(np.searchsorted(at_most, count))
    left = count - (int(at_most[cycle - 1]) if cycle else 0)
    groups = None if strata is None else _Groups(rows, strata)
    quotas = np.array([left], dtype=np.int64) if groups is None else _quotas(rows, usage, cycle, left, seed, groups)
    tie_seed = stream_seed(seed, cycle + 1)

    def members(chunk: Chunk) -> Members:
        part = _part(rows, chunk)
        here = np.flatnonzero(usage[part.pick] == cycle)
        ids = part.ids.take(here)
        group = None if groups is None else groups.of(part).take(here)
        return Members(part.at.take(here), ids, group, hash_rows(ids, tie_seed))

    behind = None if left == count else (lambda part: usage[part.pick] < cycle)
    return _taken(rows, members, quotas, tie_seed, behind)


def _quotas(rows: Rows, usage: IntArray, cycle: int, count: int, seed: int, groups: _Groups) -> Int64Array:
    """Rows to take of each stratum among those used `cycle` times."""

    def progress(part: _Part) -> Int64Array:
        used, key = usage[part.pick], groups.of(part) * 3
        key += used >= cycle
        key += used > cycle
        return key

    # Strata x (used less often than the cycle's rows, just so often, more often).
    counts = _count(rows, progress, 3 * len(groups.names)).reshape(-1, 3)
    offset = noise(groups.names, seed, -1 - cycle)
    return window(counts.sum(axis=1), counts[:, 2], counts[:, 1], count, offset)


def window(total: Int64Array, done: Int64Array, open_: Int64Array, count: int, offset: Float64Array) -> Int64Array:
    """How many rows of each stratum lie in the next window that holds `count` rows in all; see `take_turns`.

    Args:
        total: int64[s], rows of each stratum, n above.
        done: int64[s], those used in this cycle.
        open_: int64[s], those that may be taken.
        count: at most the sum of `open_`.
        offset: float64[s] in (0, 1).

    Returns:
        int64[s].
    """

    def taken(end: float) -> Int64Array:
        reached = np.ceil(end * total - offset).astype(np.int64) - done
        within: Int64Array = np.minimum(np.maximum(reached, 0), open_)
        return within

    low, high = 0.0, 2.0  # all phases are below 1, and rounding is far below 1
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if int(taken(middle).sum()) <= count else (low, middle)
    quotas = taken(low)
    # Between two neighbouring numbers: phases that are equal, of which the first strata's are taken.
    more = np.flatnonzero(taken(high) > quotas)
    quotas[more[: count - int(quotas.sum())]] += 1
    return quotas


def draw(rows: Rows, count: int, seed: int) -> Rows:
    """`count` random rows, 1 or more."""

    def members(chunk: Chunk) -> Members:
        part = _part(rows, chunk)
        return Members(part.at, part.ids, None, hash_rows(part.ids, seed))

    return _taken(rows, members, np.array([count], dtype=np.int64), seed)


def highest(rows: Rows, score: Callable[[Int64Array], Float64Array], count: int, seed: int) -> Rows:
    """The `count` rows of the highest score.

    Args:
        rows: candidates.
        score: row_ids int64[n] -> float64[n] without NaN; is called for parts of the rows, more than once and in
            threads, and must always give the same.
        count: 1 or more.
        seed: seed of a hash that chooses among equal scores.
    """

    def members(chunk: Chunk) -> Members:
        part = _part(rows, chunk)
        return Members(part.at, part.ids, None, ~sortable(score(part.ids)))

    return _taken(rows, members, np.array([count], dtype=np.int64), seed)


def noise(rows: Int64Array, seed: int, stream: int) -> Float64Array:
    """Uniform in (0, 1), a function of (row, seed, stream)."""
    bits = hash_rows(rows, stream_seed(seed, stream))
    # 52 bits, so that adding a half is exact: with 53 the largest would round to 1.
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52


def stream_seed(seed: int, stream: int) -> int:
    """A seed of its own for each use of the run's seed."""
    return seed * 1_000_003 + stream


def mark_smallest(keys: Float64Array, count: int, rows: Int64Array, tie_seed: int) -> BoolArray:
    """Marks the `count` smallest keys, bool[n], in linear time; 1 <= count.

    Equal keys at the edge are chosen by their rows' hash: which of them a partition puts first differs between
    processors, and the same subset must come back after a restart elsewhere.
    """
    if count >= len(keys):
        return np.ones(len(keys), dtype=bool)
    edge = np.partition(keys, count - 1)[count - 1]
    marked: BoolArray = keys < edge
    tied = np.flatnonzero(keys == edge)
    first = np.argsort(hash_rows(rows[tied], tie_seed))
    marked[tied[first[: count - int(np.count_nonzero(marked))]]] = True
    return marked


class _Part(NamedTuple):
    """Candidates of a chunk: their positions and row_ids, and the index that picks their values of an array of N."""

    at: Int64Array
    ids: Int64Array
    pick: Int64Array | slice


def _part(rows: Rows, chunk: Chunk) -> _Part:
    if isinstance(rows, RowSet):
        ids = rows.ids(chunk)
        return _Part(ids, ids, chunk.slice if len(ids) == chunk.stop - chunk.start else ids)
    ids = rows[chunk.slice]
    return _Part(np.arange(chunk.start, chunk.stop, dtype=np.int64), ids, ids)


def _positions(rows: Rows) -> int:
    return rows.size if isinstance(rows, RowSet) else len(rows)


def _count(rows: Rows, values: Callable[[_Part], IntArray], at_least: int = 1) -> Int64Array:
    """How often each value from 0 on comes, int64[at_least or more]."""
    counts: Int64Array = np.zeros(at_least, dtype=np.int64)
    for part in map_chunks(_positions(rows), lambda chunk: np.bincount(values(_part(rows, chunk)))):
        if len(part) > len(counts):
            counts = np.pad(counts, (0, len(part) - len(counts)))
        counts[: len(part)] += part
    return counts


class _Groups:
    """Strata as numbers from 0 on: directly where their names lie close together, else by a table of all.

    Attributes:
        names: int64[s], increasing; some may have no rows.
    """

    def __init__(self, rows: Rows, strata: IntArray) -> None:
        self._strata, self._first = strata, int(strata.min())
        width = int(strata.max()) - self._first + 1
        self._sparse = width > max(_MOST_EMPTY, _positions(rows))
        if self._sparse:
            self.names = np.unique(strata).astype(np.int64)
        else:
            self.names = np.arange(self._first, self._first + width, dtype=np.int64)

    def of(self, part: _Part) -> Int64Array:
        """int64[n], the group of each row."""
        values = self._strata[part.pick].astype(np.int64)
        if self._sparse:
            return np.searchsorted(self.names, values)
        values -= self._first
        return values


def _taken(
    rows: Rows,
    members: MembersOf,
    quotas: Int64Array,
    seed: int,
    also: Callable[[_Part], BoolArray] | None = None,
) -> Rows:
    """The members with the smallest keys, and those for which `also` is true, in the form of `rows`."""
    taken = take_smallest(_positions(rows), members, quotas, seed)
    if also is not None:

        def add(chunk: Chunk) -> None:
            part = _part(rows, chunk)
            flags = taken.flags(chunk)
            flags[part.at - chunk.start] |= also(part)
            taken.bits[chunk.start // 8 : -(-chunk.stop // 8)] = np.packbits(flags)

        each_chunk(_positions(rows), add)
    return taken if isinstance(rows, RowSet) else rows[taken.flags()]
