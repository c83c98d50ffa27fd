"""What a row's neighbours in the prior's features say: whether its label is believable, and who its copies are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coevo_ray.core.graph import NeighbourGraph
from coevo_ray.core.turns import IntArray
from coevo_ray.errors import InputError, UsageError

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]


def neighbour_agreement(graph: NeighbourGraph, labels: IntArray) -> Int8Array:
    """How many of a row's neighbours share its label.

    Args:
        graph: of N rows, at most 127 neighbours each.
        labels: int[N], -1 without one; such neighbours agree with nobody.

    Returns:
        int8[N]; -1 for rows without a label.

    Raises:
        InputError: lengths differ.
    """
    _check_length(graph, labels)
    agreement = np.empty(graph.rows, dtype=np.int8)
    for start in range(0, graph.rows, 1 << 18):  # so that the neighbours' labels never lie there all at once
        part = slice(start, start + (1 << 18))
        mine, indices = labels[part], graph.indices[part]
        same = (labels[indices] == mine[:, None]) & (indices >= 0)
        agreement[part] = np.where(mine < 0, -1, same.sum(axis=1))
    return agreement


def near_duplicates(graph: NeighbourGraph, threshold: float, margin: float = 0.0, same: float = 1.0) -> Int32Array:
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


def copies_of(group: IntArray, among: npt.NDArray[np.bool_] | None = None) -> tuple[Int32Array, Int32Array]:
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


def _check_length(graph: NeighbourGraph, labels: IntArray) -> None:
    if len(labels) != graph.rows:
        raise InputError(f"{len(labels)} labels for a graph of {graph.rows} rows", "give one for each row")
