"""The row of a group of duplicates to keep (docs/design.md#dedup)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import BoolArray, Int64Array, IntArray
from coevo_ray.errors import InputError


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows that stay, and for each of the others the row that stands for it.

    Attributes:
        kept: bool[n], rows that stay. Held-out rows all do.
        leak: bool[n], training rows in a group with a held-out row.
        of: int64[n], the position of the row that stands for each: its own where it is kept; a leak's is the first
            held-out row of its group, a dropped row's the kept training row.
    """

    kept: BoolArray
    leak: BoolArray
    of: Int64Array


def keep_one(group: IntArray, held_out: BoolArray, *worth: IntArray, drop_leaks: bool = True) -> Kept:
    """Keeps one training row of each group, and all held-out rows.

    Args:
        group: int[n], equal for the rows of a group.
        held_out: bool[n], rows of a held-out split.
        worth: int[n] each, by which the row to keep is chosen, the first one first: the largest stays, of equal ones
            the first row.
        drop_leaks: whether no training row of a group with a held-out row is kept.

    Raises:
        InputError: shapes differ.
    """
    rows = len(group)
    if any(each.shape != (rows,) for each in (held_out, *worth)):
        raise InputError(f"{rows} groups and arrays of {[each.shape for each in (held_out, *worth)]}", "give one each")
    _, member = np.unique(group, return_inverse=True)
    groups = int(member.max(initial=-1)) + 1
    place = np.arange(rows)
    first_held = _first(member[held_out], place[held_out], groups, rows)
    leak = ~held_out & (first_held[member] < rows)
    order = np.lexsort((place, *(-each.astype(np.int64) for each in reversed(worth)), member))
    train = order[~held_out[order] & ~(leak[order] & drop_leaks)]
    chosen = np.full(groups, rows, dtype=np.int64)
    leads = np.r_[True, member[train][1:] != member[train][:-1]][: len(train)]
    chosen[member[train[leads]]] = train[leads]
    kept = held_out.copy()
    kept[chosen[chosen < rows]] = True
    stands = np.where(leak & drop_leaks, first_held[member], chosen[member])
    return Kept(kept, leak, np.where(kept, place, stands).astype(np.int64))


def _first(member: IntArray, place: Int64Array, groups: int, none: int) -> Int64Array:
    """The smallest place of each group, int64[groups]; `none` where it has none."""
    first = np.full(groups, none, dtype=np.int64)
    np.minimum.at(first, member, place)
    return first
