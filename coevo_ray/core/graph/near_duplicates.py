"""Groups of near-duplicates on a neighbour graph, and picks that keep near rows apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from coevo_ray.core.arrays import BoolArray, FloatArray, Int32Array, Int64Array, IntArray
from coevo_ray.core.graph.types import GraphPart, Neighbours, over_rows
from coevo_ray.errors import UsageError

_UNDECIDED, _PICKED, _PASSED = 0, 1, 2
_BLOCK_ROWS = 1 << 16  # worked on at a time


def near_duplicates(graph: Neighbours, threshold: float, margin: float = 0.0, same: float = 1.0) -> Int32Array:
    """Groups near-duplicates around leaders by fixed numbers; those of the pool itself are in `core.graph.copies`.

    See docs/design.md#near-duplicates. The similarity of each member to its leader is at least `threshold`. Similarity
    alone does not tell copies: in a dense region unrelated rows are as similar as copies elsewhere. So two rows must
    also stand out from the neighbourhood of one of them, by `margin` above its similarity to its last neighbour in the
    graph. From similarity `same` on, rows are copies in any region,
    even in one that consists of copies.

    Groups are those of `around_leaders`. (Single linkage instead would chain rows into groups whose ends have nothing
    in common.)

    Args:
        graph: neighbours of N rows.
        threshold: smallest cosine similarity of a near-duplicate, in [-1, 1].
        margin: least excess over the smaller of both rows' similarities to their last neighbours, in [0, 2].
        same: similarity from which the margin is not required.

    Returns:
        int32[N], the row of each row's leader; a leader's is its own.

    Raises:
        UsageError: the threshold or the margin is out of bounds.
    """
    if not -1 <= threshold <= 1 or not 0 <= margin <= 2:
        raise UsageError(
            f"near-duplicates from a similarity of {threshold}, margin {margin}", "need -1 to 1, and a margin of 0 to 2"
        )
    (last,) = over_rows(graph, _last)
    return around_leaders(graph.rows, *near_pairs(graph, _stand_out, last, threshold, margin, same))


def _last(part: GraphPart) -> tuple[FloatArray]:
    return (np.ascontiguousarray(part.similarities[:, -1]),)


def _stand_out(
    part: GraphPart, places: slice, last: FloatArray, threshold: float, margin: float, same: float
) -> BoolArray:
    index, similarity = part.near(places)
    crowd = np.minimum(part.own(last, places)[:, None], last[index])  # index -1, a missing one, is masked out below
    found = (similarity >= threshold) & (index >= 0)
    found &= (similarity >= same) | (similarity - crowd >= margin)
    return found


def near_pairs(graph: Neighbours, near: Callable[..., BoolArray], *shared: Any) -> tuple[Int32Array, Int32Array]:
    """Pairs of a row and a near neighbour, found in blocks of rows.

    Args:
        graph: neighbours of N rows.
        near: (part, n of its places, *shared) -> which of their neighbours are near, bool[n, k]; of a module.
        shared: arrays of all rows, and settings.

    Returns:
        int32[p] and int32[p], in no certain order.
    """
    pairs = [found for _, found in graph.map_parts(_pairs_of, near, *shared)]
    return np.concatenate([rows for rows, _ in pairs]), np.concatenate([others for _, others in pairs])


def _pairs_of(part: GraphPart, near: Callable[..., BoolArray], *shared: Any) -> tuple[Int32Array, Int32Array]:
    rows: list[Int32Array] = [np.zeros(0, np.int32)]
    others: list[Int32Array] = [np.zeros(0, np.int32)]
    for start in range(0, len(part), _BLOCK_ROWS):
        places = slice(start, min(start + _BLOCK_ROWS, len(part)))
        place, column = np.nonzero(near(part, places, *shared))
        rows.append(part.names(places)[place].astype(np.int32))
        others.append(part.indices[start + place, column])
    return np.concatenate(rows), np.concatenate(others)


def around_leaders(count: int, rows: IntArray, others: IntArray) -> Int32Array:
    """Groups rows around leaders, in order: a row near an earlier leader joins the first such one, any other leads.

    Args:
        count: N.
        rows, others: int[p] each, pairs of near rows; each pair counts, in whichever order it is given. A pair of a row
            with itself says nothing.

    Returns:
        int32[N], the row of each row's leader; a leader's is its own.

    Examples:
        >>> around_leaders(4, np.array([1, 2]), np.array([0, 1])).tolist()  # 2 is near 1, which follows 0
        [0, 0, 2, 3]
    """
    # Similarity is symmetric, the graph need not be: each pair counts, its earlier row first.
    earlier, later = np.minimum(rows, others), np.maximum(rows, others)
    if (same := earlier == later).any():
        earlier, later = earlier[~same], later[~same]
    leads, undecided = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    before, after = earlier, later  # of which both rows are undecided
    while undecided.any():
        # A row without a near undecided row before it is a leader: rows near a leader are decided already.
        new = undecided.copy()
        new[after] = False
        leads |= new
        undecided &= ~new
        undecided[after[new[before]]] = False
        open_ = undecided[before] & undecided[after]
        before, after = before[open_], after[open_]
    leader: Int32Array = np.where(leads, np.arange(count, dtype=np.int32), np.int32(count))
    joining = leads[earlier] & ~leads[later]
    np.minimum.at(leader, later[joining], earlier[joining].astype(np.int32))
    return leader


def copies_of(group: IntArray, among: BoolArray | None = None) -> tuple[Int32Array, Int32Array]:
    """Counts the members of each row's group and numbers them.

    Args:
        group: int[N], equal for the rows of a group; see `near_duplicates`.
        among: bool[N], rows to group; each other row is a group of its own. None groups all rows.

    Returns:
        Members of each row's group int32[N], and each row's number among them int32[N], from 0 in order of row.

    Examples:
        >>> members, number = copies_of(np.array([0, 1, 0, 0]))
        >>> members.tolist(), number.tolist()
        ([3, 1, 3, 3], [0, 0, 1, 2])
    """
    rows = np.arange(len(group)) if among is None else np.flatnonzero(among)
    copies, copy = np.ones(len(group), dtype=np.int32), np.zeros(len(group), dtype=np.int32)
    order = rows[np.argsort(group[rows], kind="stable")]
    _, start, size = np.unique(group[order], return_index=True, return_counts=True)
    copies[order] = np.repeat(size, size)
    copy[order] = np.arange(len(order)) - np.repeat(start, size)
    return copies, copy


def pick_apart(
    order: IntArray, near: IntArray | Callable[[IntArray], IntArray], rows: int, taken: Int64Array | None = None
) -> BoolArray:
    """Picks rows greedily, best first; a pick rules out the rows near it.

    Equals a loop over the rows (a greedy maximal independent set), in a few sweeps: each sweep decides all rows whose
    better near rows are decided, at least the best open one. Chains of ever better near rows are short.

    Args:
        order: int[n], distinct rows, best first.
        near: int[n, k], for each row of the order the rows whose pick rules it out, -1 for none; or a function of
            places in the order int[m] that gives those of their rows, int[m, k].
        rows: N; rows are in 0..N-1.
        taken: int64[t], rows that count as picked from the start.

    Returns:
        bool[n], True for picked rows of the order.

    Examples:
        >>> near = np.array([[1], [0], [1]])  # rows 0 and 1 are near each other, row 2 is near row 1
        >>> pick_apart(np.array([0, 1, 2]), near, rows=3).tolist()
        [True, False, True]
    """
    near_of = near.__getitem__ if isinstance(near, np.ndarray) else near
    rank = np.full(rows, len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    state = np.full(rows, _UNDECIDED, dtype=np.uint8)
    if taken is not None:
        rank[taken], state[taken] = -1, _PICKED
    active = np.arange(len(order), dtype=np.int32)
    while len(active):
        waiting = []
        for start in range(0, len(active), _BLOCK_ROWS):
            # What earlier blocks of the sweep decided counts already: a row's fate is the same whenever it is decided.
            part = active[start : start + _BLOCK_ROWS]
            others = near_of(part)
            states = np.where((others >= 0) & (rank[others] < part[:, None]), state[others], np.uint8(_PASSED))
            passed = (states == _PICKED).any(axis=1)
            waits = ~passed & (states == _UNDECIDED).any(axis=1)
            state[order[part]] = np.where(passed, _PASSED, np.where(waits, _UNDECIDED, _PICKED))
            waiting.append(part[waits])
        active = np.concatenate(waiting)
    picked: BoolArray = state[order] == _PICKED
    return picked
