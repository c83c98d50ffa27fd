"""Agreement of labels with neighbours, and groups of near-duplicates, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph import NeighbourGraph, build_graph
from coevo_ray.core.neighbours import copies_of, near_duplicates, neighbour_agreement
from coevo_ray.errors import InputError, UsageError


def graph_of(rows: int, k: int, seed: int) -> NeighbourGraph:
    features = np.random.default_rng(seed).standard_normal((rows, 3))
    return build_graph(features, k, "exact")


@settings(deadline=None)
@given(rows=st.integers(2, 40), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_agreement_counts_neighbours_of_the_same_label(rows: int, k: int, seed: int) -> None:
    graph = graph_of(rows, k, seed)
    labels = np.random.default_rng(seed).integers(-1, 3, rows)
    agreement = neighbour_agreement(graph, labels)
    assert agreement.dtype == np.int8
    for row in range(rows):
        neighbours = [j for j in graph.indices[row].tolist() if j >= 0]
        expected = sum(labels[j] == labels[row] for j in neighbours) if labels[row] >= 0 else -1
        assert agreement[row] == expected


@settings(deadline=None)
@given(rows=st.integers(2, 40), k=st.integers(1, 6), seed=st.integers(0, 99), threshold=st.floats(-1, 1))
def test_rows_join_the_first_leader_that_is_near(rows: int, k: int, seed: int, threshold: float) -> None:
    graph = graph_of(rows, k, seed)
    near: dict[int, set[int]] = {row: set() for row in range(rows)}
    for row in range(rows):
        for j, s in zip(graph.indices[row].tolist(), graph.similarities[row].tolist(), strict=True):
            if j >= 0 and s >= threshold:
                near[row].add(j)
                near[j].add(row)
    leaders: list[int] = []
    expected = []
    for row in range(rows):
        mine = [leader for leader in leaders if leader in near[row]]
        expected.append(mine[0] if mine else row)
        if not mine:
            leaders.append(row)
    assert near_duplicates(graph, threshold).tolist() == expected


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
    with pytest.raises(InputError, match="4 labels for a graph of 5 rows"):
        neighbour_agreement(graph, np.zeros(4, dtype=np.int64))
    with pytest.raises(UsageError, match=r"similarity of 1\.5"):
        near_duplicates(graph, 1.5)
