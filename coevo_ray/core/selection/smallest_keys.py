"""Rows with the smallest keys, in linear time and little memory: a radix selection beneath all policies.

Keys are 64-bit numbers, computed chunk by chunk as often as needed and never held for all rows. Their leading bits are
counted per group; all rows below the bucket in which a group's quota ends are taken, and only the rows of that bucket
are compared exactly. The result depends on keys and quotas alone, not on chunks or threads.
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

# Buckets per chunk: no more than its rows, so that clearing and adding counts costs less than counting.
_BUCKETS = CHUNK_ROWS
# Most rows to compare exactly; above it the next bits are counted first.
_MOST_SORTED = 1 << 21


class Members(NamedTuple):
    """Rows of a chunk that may be taken.

    Attributes:
        at: int64[n], their positions, of which the result is made.
        ids: int64[n], their row_ids, which break ties.
        group: int64[n], from 0; None if all are in group 0.
        keys: uint64[n].
    """

    at: Int64Array
    ids: Int64Array
    group: Int64Array | None
    keys: UInt64Array


MembersOf = Callable[[Chunk], Members]


@dataclass
class _Edges:
    """The bucket of keys in which each group's quota ends.

    Attributes:
        bits: number of leading bits examined.
        prefix: uint64[groups], those bits of the bucket's keys.
        need: int64[groups], rows to take from the bucket.
        held: int64[groups], rows in the bucket.
    """

    bits: int
    prefix: UInt64Array
    need: Int64Array
    held: Int64Array

    @property
    def undecided(self) -> BoolArray:
        """bool[groups], True where the bucket is taken in part."""
        return (self.need > 0) & (self.need < self.held)


def take_smallest(size: int, members: MembersOf, quotas: Int64Array, seed: int) -> RowSet:
    """Finds the positions of the smallest keys of each group.

    Args:
        size: number of positions.
        members: chunk -> its rows; called repeatedly for each chunk, in threads, so it must be a pure function.
        quotas: int64[groups], rows to take; all of a group that has fewer.
        seed: seed of the hash that breaks ties.

    Returns:
        A set of positions, uint8[ceil(size / 8)] bits.
    """
    edges = _Edges(0, np.zeros(len(quotas), dtype=np.uint64), quotas.astype(np.int64), np.zeros(len(quotas), np.int64))
    # At most as many buckets as rows.
    step = max(1, (min(_BUCKETS, size) // len(quotas)).bit_length() - 1)
    while edges.bits == 0 or (edges.bits < 64 and edges.held[edges.undecided].sum() > _MOST_SORTED):
        edges = _look_closer(size, members, edges, min(step, 64 - edges.bits))
    if edges.bits == 64 and edges.held[edges.undecided].sum() > _MOST_SORTED:
        return _take_ties(size, members, edges, seed)
    return _mark(size, members, edges, seed)


def _leading(keys: UInt64Array, bits: int) -> UInt64Array:
    return keys >> np.uint64(64 - bits)


def _of(table: UInt64Array, group: Int64Array | None) -> UInt64Array:
    """Looks up each row's entry; with a single group, returns the table."""
    return table if group is None else table.take(group)


def _look_closer(size: int, members: MembersOf, edges: _Edges, step: int) -> _Edges:
    """Counts the next `step` bits of the keys in each group's bucket and narrows the bucket down."""
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
    """Takes the rows below the edges, and of the rows at the edges those with the smallest keys."""
    result = RowSet.empty(size)
    taken, undecided = (edges.need > 0) & ~edges.undecided, edges.undecided

    def mark(chunk: Chunk) -> Members:
        at, ids, group, keys = members(chunk)
        leading, prefix = _leading(keys, edges.bits), _of(edges.prefix, group)
        flags = np.zeros(chunk.stop - chunk.start, dtype=bool)
        flags[at - chunk.start] = leading < prefix
        edge = np.flatnonzero(leading == prefix)
        of = np.zeros(len(edge), dtype=np.int64) if group is None else group[edge]
        flags[at[edge[taken[of]]] - chunk.start] = True
        result.bits[chunk.start // 8 : -(-chunk.stop // 8)] = np.packbits(flags)
        edge, of = edge[undecided[of]], of[undecided[of]]
        return Members(at[edge], ids[edge], of, keys[edge])

    at, ids, group, keys = (np.concatenate(part) for part in zip(*map_chunks(size, mark), strict=True))
    # The hash breaks ties; it differs between any two rows, so the order is unique.
    order = np.lexsort((hash_rows(ids, seed), keys, group))
    at, group = at[order], group[order]
    rank = np.arange(len(at)) - np.searchsorted(group, group)
    result.add(at[rank < edges.need[group]])
    return result


def _take_ties(size: int, members: MembersOf, edges: _Edges, seed: int) -> RowSet:
    """Handles very many rows with the same key at the edge: takes all below it, and draws among those by hash."""

    def at_edge(chunk: Chunk) -> Members:
        at, ids, group, keys = members(chunk)
        edge = np.flatnonzero(keys == _of(edges.prefix, group))
        return Members(at[edge], ids[edge], None if group is None else group[edge], hash_rows(ids[edge], seed))

    below = _mark(size, members, _Edges(64, edges.prefix, np.zeros_like(edges.need), edges.held), seed)
    drawn = take_smallest(size, at_edge, edges.need, seed)
    return RowSet(below.bits | drawn.bits, size)


def sortable(values: Float64Array) -> UInt64Array:
    """Maps values float64[n] without NaN to keys uint64[n] of the same order; equal values get equal keys.

    Examples:
        >>> keys = sortable(np.array([-2.0, -0.0, 0.0, 3.5]))
        >>> bool(keys[0] < keys[1] == keys[2] < keys[3])
        True
    """
    bits = (values + 0.0).view(np.uint64)  # adding 0 turns -0 into 0
    negative = bits >> np.uint64(63) == 1
    keys: UInt64Array = np.where(negative, ~bits, bits | np.uint64(1 << 63))
    return keys
