"""Groups of rows against a loop over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.gate.groups import NeighbourGroups, typicality
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.types import NeighbourGraph


def cloud(rows: int, seed: int, k: int) -> NeighbourGraph:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((5, 8))
    return build_graph((centres[rng.integers(5, size=rows)] + rng.standard_normal((rows, 8))).astype(np.float32), k)


def one_by_one(graph: NeighbourGraph) -> list[list[int]]:
    """Each row in turn becomes a centre or joins one; then each centre does, again and again: centres, by level."""
    typical = graph.similarities.mean(axis=1)
    order = sorted(range(graph.rows), key=lambda row: (-typical[row], row))
    near = {row: [int(j) for j in graph.indices[row, :16] if j >= 0] for row in order}
    centres = lead(order, near)
    centre = [join(row, near[row], centres) for row in range(graph.rows)]
    levels = [centre]
    while len(centres) > 16:
        through = {c: [centre[int(j)] for j in graph.indices[c, :8] if j >= 0] for c in centres}
        others = {c: [o for o in through[c] if o != c] for c in centres}
        tops = lead(centres, others)
        if tops == centres:
            break
        centre = [join(c, others[c], tops) for c in centre]
        levels.append(centre)
        centres = tops
    return levels


def lead(order: list[int], near: dict[int, list[int]]) -> list[int]:
    leads: list[int] = []
    for row in order:
        if not set(near[row]) & set(leads):
            leads.append(row)
    return leads


def join(row: int, near: list[int], leads: list[int]) -> int:
    return row if row in leads else next(other for other in near if other in leads)


def levels_of(groups: NeighbourGroups) -> list[npt.NDArray[np.int32]]:
    levels = [groups.first]
    for parent in groups.parents:
        levels.append(parent[levels[-1]])
    return levels


def same_groups(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    pairs = len(set(zip(a.tolist(), b.tolist(), strict=True)))
    return pairs == len(np.unique(a)) == len(np.unique(b))


@given(seed=st.integers(0, 1000), rows=st.integers(2, 400), k=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_groups_are_those_of_the_loop(seed: int, rows: int, k: int) -> None:
    graph = cloud(rows, seed, min(k, rows - 1))
    found, expected = levels_of(NeighbourGroups.of(graph)), one_by_one(graph)
    assert len(found) == len(expected)
    for level, slow in zip(found, expected, strict=True):
        assert same_groups(level, np.array(slow))
        assert sorted(np.unique(level)) == list(range(len(set(slow))))


def test_missing_neighbours_and_lone_rows() -> None:
    """Rows 0 and 1 know each other, 2 knows nobody: k is larger than the neighbours that there are."""
    indices = np.array([[1, -1], [0, -1], [-1, -1]], dtype=np.int32)
    graph = NeighbourGraph(indices, np.where(indices >= 0, 0.9, -1).astype(np.float32), "exact", 1.0)
    assert NeighbourGroups.of(graph).about(2).tolist() == [0, 0, 1]
    lone = NeighbourGraph(np.full((40, 2), -1, np.int32), np.full((40, 2), -1, np.float32), "exact", 1.0)
    assert len(np.unique(NeighbourGroups.of(lone).about(1))) == 40  # nothing to put together, and it ends


def test_the_level_nearest_to_the_count_is_taken() -> None:
    groups = NeighbourGroups.of(cloud(3000, 0, 16))
    levels = levels_of(groups)
    sizes = [int(level.max()) + 1 for level in levels]
    assert len(sizes) >= 3 and sizes == sorted(sizes, reverse=True) and sizes[-1] < 50
    for count in (1, 5, 40, 150, 299, 1000, 3000):
        best = min(range(len(sizes)), key=lambda i: abs(np.log(sizes[i] / count)))
        np.testing.assert_array_equal(groups.about(count), levels[best])


def test_groups_are_rows_that_lie_together() -> None:
    graph = cloud(3000, 0, 16)
    for level in levels_of(NeighbourGroups.of(graph))[:2]:
        same = level[graph.indices] == level[:, None]
        assert same.mean() > 5 * ((np.bincount(level) / 3000) ** 2).sum()


def test_typicality_is_the_mean_similarity() -> None:
    graph = cloud(50, 1, 8)
    expected = [np.mean([float(s) for s in row]) for row in graph.similarities]
    np.testing.assert_allclose(typicality(graph), expected, rtol=1e-6)


def test_levels_are_compared_by_how_many_groups_they_have() -> None:
    """Nine groups, or three: for five, three are nearer by ratio (0.51 to 0.59); by their last numbers nine are."""
    nine, three = np.arange(9, dtype=np.int32), (np.arange(9) // 3).astype(np.int32)
    assert NeighbourGroups(nine, (three,)).about(5).tolist() == three.tolist()
    assert NeighbourGroups(nine, (three,)).about(6).tolist() == nine.tolist()
    # Groups are counted, not numbered: 4 or 2 for three, 8 or 5 for six.
    four, eight = np.arange(4, dtype=np.int32), np.arange(8, dtype=np.int32)
    assert NeighbourGroups(four, (four // 2,)).about(3).tolist() == four.tolist()
    five = np.minimum(eight, 4)
    assert NeighbourGroups(eight, (five,)).about(6).tolist() == five.tolist()


def test_blocks_of_rows_change_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = cloud(400, 3, 4)
    whole = [level.tolist() for level in levels_of(NeighbourGroups.of(graph))]
    for module in ("core.gate.groups", "core.graph.near_duplicates"):
        monkeypatch.setattr(f"coevo_ray.{module}._BLOCK_ROWS", 7)
    assert [level.tolist() for level in levels_of(NeighbourGroups.of(graph))] == whole
    assert len(whole) > 1


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(60, 260), seed=st.integers(0, 10_000))
def test_missing_neighbours_join_nothing(rows: int, seed: int) -> None:
    whole = cloud(rows, seed, 4)
    there = np.arange(4) < np.random.default_rng(seed).integers(0, 5, rows)[:, None]
    indices, similarities = np.where(there, whole.indices, -1), np.where(there, whole.similarities, -1)
    graph = NeighbourGraph(indices.astype(np.int32), similarities.astype(np.float32), "exact", None)
    found, expected = levels_of(NeighbourGroups.of(graph)), one_by_one(graph)
    assert len(found) == len(expected)
    assert all(same_groups(level, np.array(slow)) for level, slow in zip(found, expected, strict=True))


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(2, 400), seed=st.integers(0, 1000), count=st.integers(1, 500))
def test_the_level_is_the_one_nearest_by_ratio(rows: int, seed: int, count: int) -> None:
    groups = NeighbourGroups.of(cloud(rows, seed, min(6, rows - 1)))
    levels = levels_of(groups)
    best = min(levels, key=lambda level: abs(np.log(len(set(level.tolist())) / count)))
    assert np.array_equal(groups.about(count), best)
