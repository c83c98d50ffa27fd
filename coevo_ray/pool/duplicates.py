"""Exact duplicates among millions of rows, found by sorting 16-byte hashes with NumPy.

Memory: the hashes (16 bytes per row) and a sorted copy of their first halves (8 bytes per row); duplicates take another
40 bytes each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from coevo_ray.core.arrays import BoolArray, Int64Array, UInt64Array

HASH_BYTES = 16


def digest_of(data: bytes) -> bytes:
    """Computes BLAKE2b of 16 bytes: among 10^9 rows, the probability of a false duplicate is below 10^-20."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def hash_all(contents: Iterable[bytes]) -> UInt64Array:
    """Hashes each content: uint64[n, 2]."""
    return as_hashes(b"".join(map(digest_of, contents)))


def as_hashes(digests: bytes) -> UInt64Array:
    """Views n concatenated digests as uint64[n, 2]."""
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)


def find_duplicates(hashes: Sequence[UInt64Array], usable: Sequence[BoolArray]) -> tuple[Int64Array, Int64Array]:
    """Finds the usable rows with the same hash as an earlier usable row.

    Args:
        hashes: uint64[n_i, 2] for each shard, in the order of rows.
        usable: bool[n_i] for each shard; other rows are ignored.

    Returns:
        Positions of the duplicates among all rows, int64[m], increasing, and for each the position of the first row
        with its hash, int64[m].
    """
    none = np.zeros(0, dtype=np.int64)
    halves = np.empty(sum(int(u.sum()) for u in usable), dtype=np.uint64)
    filled = 0
    for h, u in zip(hashes, usable, strict=True):
        part = h[u, 0]
        halves[filled : filled + len(part)] = part
        filled += len(part)
    halves.sort()
    again = halves[1:][halves[1:] == halves[:-1]]
    del halves
    suspects = again[np.concatenate([[True], again[1:] != again[:-1]])] if len(again) else again
    if not len(suspects):
        return none, none
    # Only rows whose first half occurs twice are compared in full.
    found, positions, offset = [], [], 0
    for h, u in zip(hashes, usable, strict=True):
        index = np.minimum(np.searchsorted(suspects, h[:, 0]), len(suspects) - 1)
        here = np.flatnonzero(u & (suspects[index] == h[:, 0]))
        found.append(h[here])
        positions.append(here + offset)
        offset += len(h)
    whole, position = np.concatenate(found), np.concatenate(positions)
    order = np.lexsort((position, whole[:, 1], whole[:, 0]))
    whole, position = whole[order], position[order]
    new = np.concatenate([[True], (whole[1:] != whole[:-1]).any(axis=1)])
    first = position[np.flatnonzero(new)[np.cumsum(new) - 1]]
    doubles, firsts = position[~new], first[~new]
    order = np.argsort(doubles)
    return doubles[order], firsts[order]


def among(hashes: UInt64Array, known: UInt64Array) -> BoolArray:
    """Tests which hashes are among some known ones.

    Args:
        hashes: uint64[n, 2].
        known: uint64[m, 2].

    Returns:
        bool[n].
    """
    words = np.dtype(f"S{HASH_BYTES}")
    flat, there = (np.ascontiguousarray(array).view(words).ravel() for array in (hashes, known))
    result: BoolArray = np.isin(flat, there)
    return result
