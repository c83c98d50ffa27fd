"""Building blocks of policies: stratified rotation, random draws, and choice by score (docs/design.md#rotation).

Every function depends on its arguments alone. Rows are row_ids or a `RowSet`, and rows taken are returned in the same
form; arrays of N have a value for every row of the pool. Arrays are read in chunks, so that no array of 8 bytes per row
is ever held for all rows of a set.
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

# Unused numbers up to the largest stratum that are cheaper to count than to look up.
_MOST_EMPTY = 1 << 16


# Numbers of strata int64[s], cycle -> offsets float64[s] of their phases.
OffsetsOf = Callable[[Int64Array, int], Float64Array]


def take_turns(
    rows: Rows,
    usage: IntArray,
    count: int,
    seed: int,
    strata: IntArray | None = None,
    *,
    offsets: OffsetsOf | None = None,
    turns: IntArray | None = None,
) -> Rows:
    """Takes the next `count` rows of a rotation: least used first, ties by stratified phases (docs/design.md#rotation).

    Usage counts that differ by at most 1 keep doing so: rows used c times are all taken before any row used c + 1
    times, and no row is taken twice at once, so {c, c + 1} becomes {c, c + 1} or {c + 1, c + 2}.

    In a cycle, the n rows of a stratum have the phases (k + offset) / n, k = 0..n-1, with an offset in (0, 1).
    An epoch takes the rows in the next window along the phases: if `done` rows of the stratum have been used in this
    cycle, the phases with k >= done below the window's end, which is chosen to give `count` rows in all. A window of
    width w thus takes floor(w n) or ceil(w n) rows of each stratum. Rows are matched to phases by a hash that changes
    with the cycle, so nothing is sorted, and no state but usage is kept between epochs.

    Args:
        rows: candidates, int64[n] or a set.
        usage: int[N], usage counts, or turns taken so far.
        count: number of rows, from 1 to that of the candidates.
        seed: seed of the phases and the hash.
        strata: int[N]; rows of a stratum are spread evenly over a cycle. None for a single stratum.
        offsets: (strata int64[s], cycle) -> the offsets of their phases, float64[s] in (0, 1); None for random ones.
        turns: int[N], turns that a visit of the row takes, so that a row that takes m comes in every m-th cycle, and n
            counts the rows of the cycle alone; None for 1.

    Returns:
        `count` rows in the form of `rows`, increasing.

    Examples:
        >>> usage = np.array([1, 0, 1, 0])
        >>> take_turns(np.arange(4), usage, count=2, seed=0).tolist()
        [1, 3]
    """
    at_most = np.cumsum(_count(rows, lambda part: usage[part.pick]))
    # Rows used less often than `cycle` are all taken; among those used `cycle` times the phases decide.
    cycle = int(np.searchsorted(at_most, count))
    left = count - (int(at_most[cycle - 1]) if cycle else 0)
    groups = None if strata is None else Groups(rows, strata)
    quotas = (
        np.array([left], dtype=np.int64)
        if groups is None
        else _quotas(
            rows, usage, cycle, left, groups, offsets or (lambda names, of: noise(names, seed, -1 - of)), turns
        )
    )
    tie_seed = stream_seed(seed, cycle + 1)

    def members(chunk: Chunk) -> Members:
        part = _part(rows, chunk)
        here = np.flatnonzero(usage[part.pick] == cycle)
        ids = part.ids.take(here)
        group = None if groups is None else groups.of(ids)
        return Members(part.at.take(here), ids, group, hash_rows(ids, tie_seed))

    behind = None if left == count else (lambda part: usage[part.pick] < cycle)
    return _taken(rows, members, quotas, tie_seed, behind)


def _quotas(
    rows: Rows,
    usage: IntArray,
    cycle: int,
    count: int,
    groups: Groups,
    offsets: OffsetsOf,
    turns: IntArray | None,
) -> Int64Array:
    """Returns the number of rows to take of each stratum, among those used `cycle` times: int64[s]."""

    def progress(part: _Part) -> Int64Array:
        used, key = usage[part.pick], groups.of(part.pick) * 4
        key += used >= cycle
        key += used > cycle
        if turns is not None:
            # Of another cycle: its next turn lies beyond this one and the one before it did not; see `turns`.
            step = turns[part.pick].astype(np.int64)
            key += (used > cycle) & (used < cycle + step)
            key += 3 * ((used < cycle) & (used + step > cycle))
        return key

    # Strata x (used less than `cycle` times, `cycle` times, more often, not in this cycle).
    counts = _count(rows, progress, 4 * len(groups.names)).reshape(-1, 4)
    return window(counts[:, :3].sum(axis=1), counts[:, 2], counts[:, 1], count, offsets(groups.names, cycle))


def window(total: Int64Array, done: Int64Array, open_: Int64Array, count: int, offset: Float64Array) -> Int64Array:
    """Counts the rows of each stratum in the next window, which holds `count` rows in all; see `take_turns`.

    Args:
        total: int64[s], rows of each stratum: n in `take_turns`.
        done: int64[s], rows already used in this cycle.
        open_: int64[s], rows that may be taken.
        count: rows of the window, at most the sum of `open_`.
        offset: float64[s] in (0, 1), of the phases.

    Returns:
        int64[s], at most `open_`, with sum `count`.
    """

    def taken(end: float) -> Int64Array:
        reached = np.ceil(end * total - offset).astype(np.int64) - done
        within: Int64Array = np.minimum(np.maximum(reached, 0), open_)
        return within

    low, high = 0.0, 2.0  # all phases are below 1, and rounding is far below 1
    while low < (middle := (low + high) / 2) < high:
        quotas = taken(middle)
        if (there := int(quotas.sum())) == count:
            return quotas  # as for any other end with that sum, since each stratum's rows grow with the end
        low, high = (middle, high) if there < count else (low, middle)
    quotas = taken(low)
    # What is left lies between two neighbouring floats, at equal phases: the first strata win.
    more = np.flatnonzero(taken(high) > quotas)
    quotas[more[: count - int(quotas.sum())]] += 1
    return quotas


def draw(rows: Rows, count: int, seed: int) -> Rows:
    """Draws `count` >= 1 random rows without replacement, in the form of `rows`: int64[count] or a set."""

    def members(chunk: Chunk) -> Members:
        part = _part(rows, chunk)
        return Members(part.at, part.ids, None, hash_rows(part.ids, seed))

    return _taken(rows, members, np.array([count], dtype=np.int64), seed)


def highest(rows: Rows, score: Callable[[Int64Array], Float64Array], count: int, seed: int) -> Rows:
    """Takes the `count` rows with the highest scores, in linear time.

    Args:
        rows: candidates, int64[n] or a set.
        score: row_ids int64[m] -> float64[m] without NaN; called for parts of the rows, repeatedly and in threads, so
            it must be a pure function.
        count: number of rows, 1 or more.
        seed: seed of the hash that breaks ties.

    Returns:
        `count` rows in the form of `rows`, increasing.
    """

    def members(chunk: Chunk) -> Members:
        part = _part(rows, chunk)
        return Members(part.at, part.ids, None, ~sortable(score(part.ids)))

    return _taken(rows, members, np.array([count], dtype=np.int64), seed)


def noise(rows: Int64Array, seed: int, stream: int) -> Float64Array:
    """Returns uniform noise in (0, 1) for rows int64[n]: float64[n], a function of (row, seed, stream)."""
    bits = hash_rows(rows, stream_seed(seed, stream))
    # 52 bits, so that adding a half is exact: with 53 the largest would round to 1.
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52


def stream_seed(seed: int, stream: int) -> int:
    """Derives a seed for one use (stream) of the run's seed; distinct for streams below 1 000 003."""
    return seed * 1_000_003 + stream


def mark_smallest(keys: Float64Array, count: int, rows: Int64Array, tie_seed: int) -> BoolArray:
    """Marks the `count` smallest keys in linear time.

    Ties at the edge are broken by the rows' hash: a partition orders equal keys differently on different processors,
    and a restart elsewhere must give the same subset.

    Args:
        keys: float64[n].
        count: number of keys, 1 or more.
        rows: int64[n], row_ids of the keys.
        tie_seed: seed of the hash.

    Returns:
        bool[n].
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
    """Candidates of a chunk: positions, row_ids, and the index of their values in an array of N."""

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
    """Counts how often each value occurs: int64[v], v >= at_least."""
    counts: Int64Array = np.zeros(at_least, dtype=np.int64)
    for part in map_chunks(_positions(rows), lambda chunk: np.bincount(values(_part(rows, chunk)))):
        if len(part) > len(counts):
            counts = np.pad(counts, (0, len(part) - len(counts)))
        counts[: len(part)] += part
    return counts


class Groups:
    """Strata renumbered from 0: by an offset where their numbers are dense, else by a sorted table.

    Attributes:
        names: int64[s], original numbers, increasing; some may have no rows.
        sparse: whether they are looked up in the table.
    """

    def __init__(self, rows: Rows, strata: IntArray) -> None:
        self._strata, self._first = strata, int(strata.min())
        width = int(strata.max()) - self._first + 1
        self.sparse = width > max(_MOST_EMPTY, _positions(rows))
        if self.sparse:
            self.names = np.unique(strata).astype(np.int64)
        else:
            self.names = np.arange(self._first, self._first + width, dtype=np.int64)

    def of(self, pick: Int64Array | slice) -> Int64Array:
        """Returns the group of each row, int64[n] or a slice of all rows: int64[n]."""
        values = self._strata[pick].astype(np.int64)
        if self.sparse:
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
    """Takes the members with the smallest keys, and those for which `also` is true, in the form of `rows`."""
    taken = take_smallest(_positions(rows), members, quotas, seed)
    if also is not None:

        def add(chunk: Chunk) -> None:
            part = _part(rows, chunk)
            flags = taken.flags(chunk)
            flags[part.at - chunk.start] |= also(part)
            taken.bits[chunk.start // 8 : -(-chunk.stop // 8)] = np.packbits(flags)

        each_chunk(_positions(rows), add)
    return taken if isinstance(rows, RowSet) else rows[taken.flags()]
