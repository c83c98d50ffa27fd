"""Rows with the largest keys of each group, and a budget divided among groups."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float64Array, Int64Array
from coevo_ray.core.rows.hashing import hash_rows


def highest_in_groups(
    rows: Int64Array, group: Int64Array, key: Float64Array, quotas: Int64Array, tie_seed: int
) -> BoolArray:
    """Marks the rows with the largest keys of each group: bool[n].

    Args:
        rows: int64[n], row_ids.
        group: int64[n], 0 or above.
        key: float64[n] without NaN.
        quotas: int64[groups], rows to mark of each group, at most its size.
        tie_seed: seed of the hash that breaks ties.
    """
    order = np.lexsort((hash_rows(rows, tie_seed), -key, group))
    sizes = np.bincount(group, minlength=len(quotas))
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    marked = np.zeros(len(rows), dtype=bool)
    marked[order] = rank < np.repeat(quotas, sizes)
    return marked


def divided(budget: int, shares: Float64Array, sizes: Int64Array) -> Int64Array:
    """Divides a budget in proportion to shares, no group more than its size: int64[groups] with sum `budget`.

    A group whose part would exceed its size is taken whole, and the rest is divided among the others in the same way.
    Parts are rounded down; the rows that are left go to the largest remainders, of equal ones to the first groups.

    Args:
        budget: at most the sum of the sizes.
        shares: float64[groups], 0 or above. If all open groups have 0, their sizes are the shares.
        sizes: int64[groups].
    """
    parts: Float64Array = np.zeros(len(sizes))
    open_ = sizes > 0
    while open_.any():
        left = budget - sizes[~open_].sum()
        own = np.where(open_, shares, 0.0)
        own = own if own.sum() > 0 else np.where(open_, sizes, 0).astype(np.float64)
        parts = np.where(open_, left * own / own.sum(), sizes)
        if not (full := open_ & (parts >= sizes)).any():
            break
        open_ &= ~full
    parts = np.minimum(parts, sizes)
    whole = np.floor(parts + 1e-9).astype(np.int64)
    # Rounded: equal remainders differ in their last bits by the order in which numbers were added up.
    order = np.argsort(np.round(whole - parts, 9), kind="stable")
    while (left := budget - int(whole.sum())) > 0:
        room = order[whole[order] < sizes[order]][:left]
        whole[room] += 1
    return whole
