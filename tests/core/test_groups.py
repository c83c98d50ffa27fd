"""Groups of rows against a loop over rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph import NeighbourGraph, build_graph
from coevo_ray.core.groups import neighbour_groups, typicality


def cloud(rows: int, seed: int, k: int) -> NeighbourGraph:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((5, 8))
    return build_graph((centres[rng.integers(5, size=rows)] + rng.standard_normal((rows, 8))).astype(np.float32), k)


def one_by_one(graph: NeighbourGraph) -> list[int]:
    """Each row in turn becomes a centre or joins one; then each centre does."""
    typical = graph.similarities.mean(axis=1)
    order = sorted(range(graph.rows), key=lambda row: (-typical[row], row))
    near = {row: [int(j) for j in graph.indices[row, :16] if j >= 0] for row in order}
    centres = lead(order, near)
    centre = {row: join(row, near[row], centres) for row in order}
    through = {c: [centre[int(j)] for j in graph.indices[c, :8] if j >= 0] for c in centres}
    others = {c: [o for o in through[c] if o != c] for c in centres}
    tops = lead(centres, others)
    return [join(centre[row], others[centre[row]], tops) for row in range(graph.rows)]


def lead(order: list[int], near: dict[int, list[int]]) -> list[int]:
    leads: list[int] = []
    for row in order:
        if not set(near[row]) & set(leads):
            leads.append(row)
    return leads


def join(row: int, near: list[int], leads: list[int]) -> int:
    return row if row in leads else next(other for other in near if other in leads)


@given(seed=st.integers(0, 1000), rows=st.integers(2, 120), k=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_groups_are_those_of_the_loop(seed: int, rows: int, k: int) -> None:
    graph = cloud(rows, seed, min(k, rows - 1))
    assert neighbour_groups(graph).tolist() == one_by_one(graph)


def test_missing_neighbours_and_lone_rows() -> None:
    """Rows 0 and 1 know each other, 2 knows nobody: k is larger than the neighbours that there are."""
    indices = np.array([[1, -1], [0, -1], [-1, -1]], dtype=np.int32)
    graph = NeighbourGraph(indices, np.where(indices >= 0, 0.9, -1).astype(np.float32), "exact", 1.0)
    assert neighbour_groups(graph).tolist() == [0, 0, 2]


def test_groups_are_tens_of_rows_that_lie_together() -> None:
    graph = cloud(3000, 0, 16)
    group = neighbour_groups(graph)
    sizes = np.bincount(group)[np.unique(group)]
    assert 10 < sizes.mean() < 100
    same = group[graph.indices] == group[:, None]
    chance = ((sizes / 3000) ** 2).sum()
    assert same.mean() > 5 * chance


def test_typicality_is_the_mean_similarity() -> None:
    graph = cloud(50, 1, 8)
    expected = [np.mean([float(s) for s in row]) for row in graph.similarities]
    np.testing.assert_allclose(typicality(graph), expected, rtol=1e-6)
