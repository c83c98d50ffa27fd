"""Groups of rows that lie together, told from the neighbour graph alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.gate_draw import pick_apart
from coevo_ray.core.graph import Neighbours

_WIDTH = 16  # neighbours of a row that may be its centre
_JOINED = 8  # neighbours of a centre through which it joins another


def typicality(graph: Neighbours) -> npt.NDArray[np.float32]:
    """Mean similarity of each row to its neighbours, float32[N]: TypiClust's measure but for the inverse."""
    mean: npt.NDArray[np.float32] = graph.similarities.mean(axis=1, dtype=np.float32)
    return mean


def neighbour_groups(graph: Neighbours) -> npt.NDArray[np.int32]:
    """Groups each about a typical row, some tens of rows each.

    Rows are looked at by decreasing typicality. One without a centre among its 16 nearest becomes a centre, any other
    belongs to the nearest of those. Then centres are put together in the same way, and by the same order, through the
    centres of their 8 nearest rows.

    Going through the rows once is as good as k-means in feature space: on 50 000 rows of CIFAR-10 (1 067 groups), rows
    drawn from them gave as much accuracy as those of 2 000 k-means cells; and no features are needed. Groups along
    paths of ever more typical neighbours (quick shift) are too large and uneven for it.

    Args:
        graph: of N rows.

    Returns:
        int32[N], a row of the group that stands for it.
    """
    order = np.argsort(-typicality(graph), kind="stable")
    near = graph.indices[:, :_WIDTH]
    leads = np.zeros(graph.rows, dtype=bool)
    leads[order[pick_apart(order, near[order], graph.rows)]] = True
    centre = _nearest(np.arange(graph.rows), near, leads)
    centres = order[leads[order]]
    through = graph.indices[centres, :_JOINED]
    joined = np.where(through >= 0, centre[through], -1)
    joined[joined == centres[:, None]] = -1
    top = np.zeros(graph.rows, dtype=bool)
    top[centres[pick_apart(centres, joined, graph.rows)]] = True
    of = np.arange(graph.rows)
    of[centres] = _nearest(centres, joined, top)
    group: npt.NDArray[np.int32] = of[centre].astype(np.int32)
    return group


def _nearest(
    rows: npt.NDArray[np.int64], near: npt.NDArray[np.integer[Any]], leads: npt.NDArray[np.bool_]
) -> npt.NDArray[np.integer[Any]]:
    """The first row near each that leads, int[n]; itself where it leads."""
    found = (near >= 0) & leads[near]
    nearest: npt.NDArray[np.integer[Any]] = np.where(
        leads[rows], rows, near[np.arange(len(rows)), found.argmax(axis=1)]
    )
    return nearest
