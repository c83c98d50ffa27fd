"""Groups of near-duplicates, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph.copies import own_copies
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.near_duplicates import around_leaders, copies_of, near_duplicates, pick_apart
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.errors import UsageError


def graph_of(rows: int, k: int, seed: int) -> NeighbourGraph:
    features = np.random.default_rng(seed).standard_normal((rows, 3))
    return build_graph(features, k, "exact")


@settings(deadline=None)
@given(
    rows=st.integers(2, 40),
    k=st.integers(1, 6),
    seed=st.integers(0, 99),
    threshold=st.floats(-1, 1),
    margin=st.sampled_from([0.0, 0.05, 0.3]),
    same=st.sampled_from([0.9, 1.0]),
)
def test_rows_join_the_first_leader_that_is_near(
    rows: int, k: int, seed: int, threshold: float, margin: float, same: float
) -> None:
    graph = graph_of(rows, k, seed)
    last = graph.similarities[:, -1].tolist()
    near: dict[int, set[int]] = {row: set() for row in range(rows)}
    for row in range(rows):
        for j, s in zip(graph.indices[row].tolist(), graph.similarities[row].tolist(), strict=True):
            apart = np.float32(s) - np.float32(min(last[row], last[j])) >= margin
            if j >= 0 and s >= threshold and (apart or s >= same):
                near[row].add(j)
                near[j].add(row)
    leaders: list[int] = []
    expected = []
    for row in range(rows):
        mine = [leader for leader in leaders if leader in near[row]]
        expected.append(mine[0] if mine else row)
        if not mine:
            leaders.append(row)
    assert near_duplicates(graph, threshold, margin, same).tolist() == expected


def test_a_crowd_is_not_taken_for_copies_unless_it_is_one() -> None:
    """Lookalikes in a cone, a pair far from it, and more copies of one row than a row has neighbours."""
    random = np.random.default_rng(0)
    cone = np.eye(1, 8) + 0.12 * random.standard_normal((60, 8))
    pair = np.eye(8)[[3, 3]] + 0.12 * random.standard_normal((2, 8))
    crowd = np.eye(8)[[5] * 30] + 0.01 * random.standard_normal((30, 8))
    graph = build_graph(np.concatenate([cone, pair, crowd]), 5, "exact")
    alike = copies_of(near_duplicates(graph, 0.7))[0]
    found = copies_of(near_duplicates(graph, 0.7, 0.2, 0.99))[0]
    assert (alike[:60] > 1).mean() > 0.9, "or the cone is no crowd"
    assert (found[:60] == 1).mean() > 0.9
    assert (found[60:62] == 2).all()
    assert (found[62:] > 1).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.data())
def test_members_of_a_group_are_numbered(groups: list[int], data: st.DataObject) -> None:
    among = np.array(data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))))
    copies, copy = copies_of(np.array(groups, dtype=np.int32), among)
    for row, group in enumerate(groups):
        members = [i for i, g in enumerate(groups) if g == group and among[i]]
        expected = (len(members), members.index(row)) if among[row] else (1, 0)
        assert (copies[row], copy[row]) == expected


def test_what_does_not_fit_is_refused() -> None:
    graph = graph_of(5, 2, 0)
    with pytest.raises(UsageError, match=r"similarity of 1\.5"):
        near_duplicates(graph, 1.5)
    with pytest.raises(UsageError, match=r"margin -0\.1"):
        near_duplicates(graph, 0.5, -0.1)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_of_rows_change_no_group(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((150, 4))
    graph = build_graph(np.concatenate([x, x[:50] + 0.001 * random.standard_normal((50, 4))]), 8, "exact")
    order = random.permutation(200)[:170]
    near = np.where(graph.similarities > 0.9, graph.indices, -1)[order]

    def found() -> list[list[int]]:
        picked = [pick_apart(order, near, 200, order[:3]), pick_apart(order, near.__getitem__, 200, order[:3])]
        return [each.tolist() for each in (near_duplicates(graph, 0.9, 0.01), own_copies(graph), *picked)]

    whole = found()
    assert whole[2] == whole[3] and len(set(whole[1])) == 150 and len(set(whole[0])) < 150
    monkeypatch.setattr("coevo_ray.core.graph.near_duplicates._BLOCK_ROWS", block)
    assert found() == whole


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30))
def test_leaders_are_those_of_a_loop_over_the_rows(count: int, pairs: list[tuple[int, int]]) -> None:
    """Pairs in any order, twice, and of a row with itself."""
    pairs = [(a, b) for a, b in pairs if max(a, b) < count]
    leader: list[int] = []
    for row in range(count):
        near = {a + b - row for a, b in pairs if row in (a, b)}
        leader.append(next((other for other in range(row) if other in near and leader[other] == other), row))
    rows, others = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    assert around_leaders(count, rows, others).tolist() == leader
