"""Which rows have the smallest keys, in linear time and little memory: the choice beneath all policies.

Keys are 64-bit numbers that are computed chunk by chunk, as often as they are needed, and never held for all rows.
Their leading bits are counted per group; all rows below the bucket in which a group's quota ends are taken, and only
the rows of that bucket are compared exactly. The result depends on keys and quotas alone, not on chunks or threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float64Array, Int64Array, UInt64Array
from coevo_ray.core.rows.chunks import CHUNK_ROWS, Chunk, map_chunks
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.rows.row_set import RowSet

# Counts per chunk: not many more than its rows, so that clearing and adding them costs less than counting.
_BUCKETS = CHUNK_ROWS
# Rows that are compared exactly; above it more bits are looked at first.
_MOST_SORTED = 1 << 21


class Members(NamedTuple):
    """Rows of a chunk that may be taken.

    Attributes:
        at: int64[n], their positions, of which the result is made.
        ids: int64[n], their row_ids, by which equal keys are chosen.
        group: int[n] from 0; or None where all are of group 0.
        keys: uint64[n].
    """

    at: Int64Array
    ids: Int64Array
    group: Int64Array | None
    keys: UInt64Array


MembersOf = Callable[[Chunk], Members]


@dataclass
class _Edges:
    """Where each group's quota ends, as far as it is known.

    Attributes:
        bits: leading bits of the keys that were looked at.
        prefix: uint64[groups], those bits of the keys in the bucket in which the quota ends.
        need: int64[groups], rows to be taken of that bucket.
        held: int64[groups], rows in it.
    """

    bits: int
    prefix: UInt64Array
    need: Int64Array
    held: Int64Array

    @property
    def undecided(self) -> BoolArray:
        """bool[groups], whether the bucket is taken in part."""
        return (self.need > 0) & (self.need < self.held)


def take_smallest(size: int, members: MembersOf, quotas: Int64Array, seed: int) -> RowSet:
    """The positions of the smallest keys of each group.

    Args:
        size: positions.
        members: a chunk's rows; called several times for each chunk, in threads, and must always give the same.
        quotas: int64[groups], rows to take; where a group has fewer, all of them.
        seed: seed of a hash by which equal keys are chosen.
    """
    edges = _Edges(0, np.zeros(len(quotas), dtype=np.uint64), quotas.astype(np.int64), np.zeros(len(quotas), np.int64))
    # No more buckets than rows.
    step = max(1, (min(_BUCKETS, size) // len(quotas)).bit_length() - 1)
    while edges.bits == 0 or (edges.bits < 64 and edges.held[edges.undecided].sum() > _MOST_SORTED):
        edges = _look_closer(size, members, edges, min(step, 64 - edges.bits))
    if edges.bits == 64 and edges.held[edges.undecided].sum() > _MOST_SORTED:
        return _take_ties(size, members, edges, seed)
    return _mark(size, members, edges, seed)


def _leading(keys: UInt64Array, bits: int) -> UInt64Array:
    return keys >> np.uint64(64 - bits)


def _of(table: UInt64Array, group: Int64Array | None) -> UInt64Array:
    """Each row's entry; the only one where there is one group."""
    return table if group is None else table.take(group)


def _look_closer(size: int, members: MembersOf, edges: _Edges, step: int) -> _Edges:
    """Counts the next `step` bits of the keys in each group's bucket, and finds the smaller one."""
    bits, width = edges.bits + step, 1 << step

    def count(chunk: Chunk) -> Int64Array:
        _, _, group, keys = members(chunk)
        if edges.bits:
            there = np.flatnonzero(_leading(keys, edges.bits) == _of(edges.prefix, group))
            keys, group = keys[there], None if group is None else group[there]
        bucket = (_leading(keys, bits) & np.uint64(width - 1)).view(np.int64)
        if group is not None:
            bucket += group << step
        return np.bincount(bucket, minlength=len(edges.prefix) * width)

    counts = np.zeros(len(edges.prefix) * width, dtype=np.int64)
    for part in map_chunks(size, count):
        counts += part
    upto = counts.reshape(-1, width).cumsum(axis=1)
    need = np.minimum(edges.need, upto[:, -1])
    bucket = (upto < need[:, None]).sum(axis=1)
    held = counts.reshape(-1, width)[np.arange(len(bucket)), bucket]
    before = upto[np.arange(len(bucket)), bucket] - held
    prefix = (edges.prefix << np.uint64(step)) | bucket.astype(np.uint64)
    return _Edges(bits, prefix, need - before, held)


def _mark(size: int, members: MembersOf, edges: _Edges, seed: int) -> RowSet:
    """Takes what is below the edges, and of the rows at the edges those with the smallest keys."""
    result = RowSet.empty(size)
    whole, undecided = (edges.need > 0) & ~edges.undecided, edges.undecided

    def mark(chunk: Chunk) -> Members:
        at, ids, group, keys = members(chunk)
        leading, prefix = _leading(keys, edges.bits), _of(edges.prefix, group)
        flags = np.zeros(chunk.stop - chunk.start, dtype=bool)
        flags[at - chunk.start] = leading < prefix
        edge = np.flatnonzero(leading == prefix)
        of = np.zeros(len(edge), dtype=np.int64) if group is None else group[edge]
        flags[at[edge[whole[of]]] - chunk.start] = True
        result.bits[chunk.start // 8 : -(-chunk.stop // 8)] = np.packbits(flags)
        edge, of = edge[undecided[of]], of[undecided[of]]
        return Members(at[edge], ids[edge], of, keys[edge])

    at, ids, group, keys = (np.concatenate(part) for part in zip(*map_chunks(size, mark), strict=True))
    # Equal keys by a hash: it differs between any two rows, so there is one order, whatever sorts it.
    order = np.lexsort((hash_rows(ids, seed), keys, group))
    at, group = at[order], group[order]
    rank = np.arange(len(at)) - np.searchsorted(group, group)
    result.add(at[rank < edges.need[group]])
    return result


def _take_ties(size: int, members: MembersOf, edges: _Edges, seed: int) -> RowSet:
    """Where very many rows have the very key at the edge: takes all below it, and draws among those by their hash."""

    def at_edge(chunk: Chunk) -> Members:
        at, ids, group, keys = members(chunk)
        edge = np.flatnonzero(keys == _of(edges.prefix, group))
        return Members(at[edge], ids[edge], None if group is None else group[edge], hash_rows(ids[edge], seed))

    below = _mark(size, members, _Edges(64, edges.prefix, np.zeros_like(edges.need), edges.held), seed)
    drawn = take_smallest(size, at_edge, edges.need, seed)
    return RowSet(below.bits | drawn.bits, size)


def sortable(values: Float64Array) -> UInt64Array:
    """Keys in the order of the values, float64 without NaN; equal values get equal keys."""
    bits = (values + 0.0).view(np.uint64)  # adding 0 turns -0 into 0
    negative = bits >> np.uint64(63) == 1
    keys: UInt64Array = np.where(negative, ~bits, bits | np.uint64(1 << 63))
    return keys
