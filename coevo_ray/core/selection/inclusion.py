"""Inclusion probabilities of a rotation in which near-duplicates share visits (docs/design.md#unbiased)."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array, IntArray
from coevo_ray.core.rows.chunks import Chunk, map_chunks
from coevo_ray.core.rows.row_set import Rows, RowSet


def shared_chances(
    candidates: Rows,
    label: IntArray | None,
    copies: IntArray | None,
    quotas: Float64Array,
    rows: Int64Array,
) -> Float64Array:
    """Returns the share of epochs that use each row, where classes rotate by turns and copies share theirs.

    A visit takes a row of a group of m copies m turns ahead. The turns of a class advance by a level l an epoch, so its
    rows are used min(1, l / m) times an epoch; l follows from the class's quota.

    Args:
        candidates: int64[n] or a set.
        label: int[N], 0 or above; None for one class.
        copies: int[N], members of each row's group; None for 1.
        quotas: float64[classes], rows of an epoch.
        rows: int64[k], of the candidates.

    Returns:
        float64[k] in (0, 1].
    """
    keys, counts = _count(candidates, label, copies)
    of_class, of_copies = keys >> _SHIFT, keys & _MASK
    levels = np.zeros(len(quotas))
    ends = np.searchsorted(of_class, np.arange(len(quotas) + 1))
    for c in np.flatnonzero(np.diff(ends)):
        part = slice(ends[c], ends[c + 1])
        levels[c] = level(of_copies[part], counts[part], float(quotas[c]))
    mine = levels[0] if label is None else levels[label[rows]]
    chances: Float64Array = np.minimum(1.0, mine / (1.0 if copies is None else copies[rows]) + np.zeros(len(rows)))
    return chances


def level(copies: Int64Array, rows: Int64Array, quota: float) -> float:
    """Solves sum over i of rows_i min(1, l / copies_i) = quota for l.

    Args:
        copies: int64[s], increasing, from 1.
        rows: int64[s], rows in groups of so many copies.
        quota: at most the sum of the rows; inf is returned for that.

    Examples:
        >>> level(np.array([1, 10]), np.array([5, 10]), 12.0)
        7.0
    """
    always = 0  # rows that every epoch uses
    rate = float((rows / copies).sum())
    for m, there in zip(copies.tolist(), rows.tolist(), strict=True):
        if (found := (quota - always) / rate) < m:
            return found
        always, rate = always + there, rate - there / m
        if quota <= always:
            return float(m)
    return np.inf


_SHIFT = 32
_MASK = (1 << _SHIFT) - 1


def _count(candidates: Rows, label: IntArray | None, copies: IntArray | None) -> tuple[Int64Array, Int64Array]:
    """Counts the candidates by class and copies: keys class * 2^32 + copies int64[s], increasing, and int64[s]."""

    def count(chunk: Chunk) -> tuple[Int64Array, Int64Array]:
        ids = candidates.ids(chunk) if isinstance(candidates, RowSet) else candidates[chunk.slice]
        keys = np.ones(len(ids), dtype=np.int64) if copies is None else copies[ids].astype(np.int64)
        if label is not None:
            keys += label[ids].astype(np.int64) << _SHIFT
        return np.unique(keys, return_counts=True)

    size = candidates.size if isinstance(candidates, RowSet) else len(candidates)
    keys, counts = (np.concatenate(part) for part in zip(*map_chunks(size, count), strict=True))
    there, where = np.unique(keys, return_inverse=True)
    return there, np.bincount(where, weights=counts).astype(np.int64)
