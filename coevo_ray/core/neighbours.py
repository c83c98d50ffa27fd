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


def near_duplicates(graph: NeighbourGraph, threshold: float) -> Int32Array:
    """Groups of near-duplicates: rows joined, directly or over others, by neighbours at least so similar.

    Args:
        graph: of N rows.
        threshold: smallest cosine similarity of a near-duplicate.

    Returns:
        int32[N], the smallest row of the group, the row itself where it is alone.

    Raises:
        UsageError: the threshold is not a similarity.
    """
    if not -1 <= threshold <= 1:
        raise UsageError(f"near-duplicates from a similarity of {threshold}", "need -1 to 1; 0.95 is usual")
    joined = (graph.similarities >= threshold) & (graph.indices >= 0)
    rows, column = np.nonzero(joined)
    others = graph.indices[rows, column]
    group: Int32Array = np.arange(graph.rows, dtype=np.int32)
    while True:
        before = group.copy()
        # Both ends take the smaller of their groups; then everyone takes the group of its group.
        np.minimum.at(group, rows, before[others])
        np.minimum.at(group, others, before[rows])
        group = group[group]
        if np.array_equal(group, before):
            return group


def copies_of(group: Int32Array, among: npt.NDArray[np.bool_] | None = None) -> tuple[Int32Array, Int32Array]:
    """How many members each row's group has, and which of them the row is, from 0 in order of row.

    Args:
        group: int32[N], see `near_duplicates`.
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
