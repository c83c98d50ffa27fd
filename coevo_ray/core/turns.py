"""Whose turn it is: rotation of rows, evenly spaced phases, and choice by smallest key.

The arithmetic beneath the policies (DESIGN section 5.3). Every function depends on its arguments alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.rows import Int64Array, hash_rows

IntArray = npt.NDArray[np.integer[Any]]


def take_turns(
    rows: Int64Array,
    usage: IntArray,
    count: int,
    seed: int,
    strata: IntArray | None = None,
) -> Int64Array:
    """The `count` rows whose turn it is: least used first, among equals by the phase of that cycle.

    Usage never differs by more than 1 if it did not before: while rows used c times are left they are taken before any
    row used c + 1 times, and no row is taken twice at once, so {c, c + 1} becomes {c, c + 1} or {c + 1, c + 2}.

    Args:
        rows: int64[n], increasing.
        usage: int[n], usage counts of these rows.
        count: from 1 to n.
        seed: seed of the phases.
        strata: int[n]; rows of a stratum are spread evenly over a cycle.

    Returns:
        int64[count], increasing and distinct.
    """
    at_most = np.cumsum(np.bincount(usage))
    # Rows used less often than this all have their turn; among those used just so often the phases decide.
    cycle = int(np.searchsorted(at_most, count))
    chosen = usage < cycle
    open_ = np.flatnonzero(usage == cycle)
    phases = stratified_phases(rows, seed, cycle, strata)[open_]
    left = count - int(np.count_nonzero(chosen))
    chosen[open_[smallest(phases, left, rows[open_], stream_seed(seed, cycle + 1))]] = True
    return rows[chosen]


def stratified_phases(rows: Int64Array, seed: int, cycle: int, strata: IntArray | None) -> npt.NDArray[np.float64]:
    """A phase in [0, 1) for each row, float64[n]: evenly spaced within its stratum, from a random offset."""
    shuffle = noise(rows, seed, cycle + 1)
    if strata is None:
        return shuffle
    order = np.lexsort((shuffle, strata))
    names, start, size = np.unique(strata[order], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(start, size)
    # From the stratum's own hash: the noise of one of its rows is not uniform once the rows are sorted by it.
    offset = np.repeat(noise(names.astype(np.int64), seed, -1 - cycle), size)
    phases = np.empty(len(rows))
    phases[order] = (rank + offset) / np.repeat(size, size)
    return phases


def noise(rows: Int64Array, seed: int, stream: int) -> npt.NDArray[np.float64]:
    """Uniform in (0, 1), a function of (row, seed, stream)."""
    bits = hash_rows(rows, stream_seed(seed, stream))
    # 52 bits, so that adding a half is exact: with 53 the largest would round to 1.
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52


def stream_seed(seed: int, stream: int) -> int:
    """A seed of its own for each use of the run's seed."""
    return seed * 1_000_003 + stream


def smallest(keys: npt.NDArray[np.float64], count: int, rows: Int64Array, tie_seed: int) -> npt.NDArray[np.bool_]:
    """Marks the `count` smallest keys, bool[n], in linear time; 1 <= count.

    Equal keys at the edge are chosen by their rows' hash: which of them a partition puts first differs between
    processors, and the same subset must come back after a restart elsewhere.
    """
    if count >= len(keys):
        return np.ones(len(keys), dtype=bool)
    edge = np.partition(keys, count - 1)[count - 1]
    marked: npt.NDArray[np.bool_] = keys < edge
    tied = np.flatnonzero(keys == edge)
    first = np.argsort(hash_rows(rows[tied], tie_seed))
    marked[tied[first[: count - int(np.count_nonzero(marked))]]] = True
    return marked
