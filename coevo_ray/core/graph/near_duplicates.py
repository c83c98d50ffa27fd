"""What a row's neighbours in the prior's features say: who its copies are."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import BoolArray, Int32Array, Int64Array, IntArray
from coevo_ray.core.graph.types import Neighbours
from coevo_ray.errors import UsageError

_UNDECIDED, _PICKED, _PASSED = 0, 1, 2


def near_duplicates(graph: Neighbours, threshold: float, margin: float = 0.0, same: float = 1.0) -> Int32Array:
    """Groups of near-duplicates, each around a leader: every member is at least so similar to its leader.

    What counts as near depends on where a row lies: in a crowd, rows that have nothing to do with one another are as
    similar as copies are elsewhere. So two rows must also be nearer than the crowd about either of them: by `margin`
    above the similarity of the last neighbour that the graph knows. Rows of similarity `same` are copies in any crowd,
    also in one that is made of copies.

    Rows are looked at in their order: one that is near an earlier leader joins the first such, any other becomes a
    leader. (Joining over others would chain rows into groups whose ends have nothing in common.)

    Args:
        graph: of N rows.
        threshold: smallest cosine similarity of a near-duplicate.
        margin: by how much it must exceed that of the last neighbour of either row.
        same: similarity from which the margin does not matter.

    Returns:
        int32[N], the leader's row, the row itself where it is one.

    Raises:
        UsageError: the threshold is not a similarity.
    """
    if not -1 <= threshold <= 1 or not 0 <= margin <= 2:
        raise UsageError(
            f"near-duplicates from a similarity of {threshold}, margin {margin}", "need -1 to 1, and a margin of 0 to 2"
        )
    last = graph.similarities[:, -1]
    crowd = np.minimum(last[:, None], last[graph.indices])  # of missing neighbours too: they are near to nobody
    near = (graph.similarities >= threshold) & (graph.indices >= 0)
    near &= (graph.similarities >= same) | (graph.similarities - crowd >= margin)
    rows, column = np.nonzero(near)
    others = graph.indices[rows, column]
    # Nearness goes both ways, the graph need not: the earlier row of each pair comes first.
    earlier, later = np.minimum(rows, others), np.maximum(rows, others)
    leads, undecided = np.zeros(graph.rows, dtype=bool), np.ones(graph.rows, dtype=bool)
    while undecided.any():
        # Without an undecided row before it that is near, a row is a leader, for no leader is near either.
        new = undecided.copy()
        new[later[undecided[earlier] & undecided[later]]] = False
        leads |= new
        undecided &= ~new
        undecided[later[new[earlier]]] = False
    leader: Int32Array = np.where(leads, np.arange(graph.rows), graph.rows).astype(np.int32)
    joining = leads[earlier] & ~leads[later]
    np.minimum.at(leader, later[joining], earlier[joining].astype(np.int32))
    return leader


def copies_of(group: IntArray, among: BoolArray | None = None) -> tuple[Int32Array, Int32Array]:
    """How many members each row's group has, and which of them the row is, from 0 in order of row.

    Args:
        group: int[N], any number that the rows of a group share; see `near_duplicates`.
        among: bool[N], rows that count; the others are alone. None counts all.

    Returns:
        int32[N] and int32[N].
    """
    rows = np.arange(len(group)) if among is None else np.flatnonzero(among)
    copies, copy = np.ones(len(group), dtype=np.int32), np.zeros(len(group), dtype=np.int32)
    order = rows[np.argsort(group[rows], kind="stable")]
    _, start, size = np.unique(group[order], return_index=True, return_counts=True)
    copies[order] = np.repeat(size, size)
    copy[order] = np.arange(len(order)) - np.repeat(start, size)
    return copies, copy


def pick_apart(order: Int64Array, near: IntArray, rows: int, taken: Int64Array | None = None) -> BoolArray:
    """Which rows of an order, best first, are picked one at a time, if a pick rules out those that are near it.

    Each sweep decides all rows whose better near neighbours are decided, which at least the best open one is; a few
    sweeps do, since chains of ever better near neighbours are short.

    Args:
        order: int64[n], rows.
        near: int[n, k], for each of the order the rows whose pick rules it out; -1 for none.
        rows: N, one more than the largest row.
        taken: int64[t], rows that are picked from the start.

    Returns:
        bool[n].
    """
    rank = np.full(rows, len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    state = np.full(rows, _UNDECIDED, dtype=np.uint8)
    if taken is not None:
        rank[taken], state[taken] = -1, _PICKED
    better = (near >= 0) & (rank[near] < np.arange(len(order))[:, None])
    active = np.arange(len(order))
    while len(active):
        states = state[near[active]]
        passed = (better[active] & (states == _PICKED)).any(axis=1)
        waits = ~passed & (better[active] & (states == _UNDECIDED)).any(axis=1)
        state[order[active]] = np.where(passed, _PASSED, np.where(waits, _UNDECIDED, _PICKED))
        active = active[waits]
    picked: BoolArray = state[order] == _PICKED
    return picked
