"""The draw by herding against a greedy loop over a full matrix of kernels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.gate.config import Draw, GateConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.herding import draw_herding
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.types import NeighbourGraph

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def graph_of(rows: int, k: int, seed: int) -> NeighbourGraph:
    return build_graph(np.random.default_rng(seed).standard_normal((rows, 5)).astype(np.float32), k=k)


def kernels(graph: NeighbourGraph) -> Floats:
    """k(x, j) of every pair: 1 for the row itself, 0 for rows that are no neighbours of x."""
    matrix = np.eye(graph.rows)
    last = [s[i >= 0][-1:] for i, s in zip(graph.indices, graph.similarities, strict=True)]
    distance = np.median(1 - np.concatenate(last).astype(np.float64))
    for row in range(graph.rows):
        for j, s in zip(graph.indices[row], graph.similarities[row], strict=True):
            if j >= 0:
                matrix[row, j] = np.exp((min(1.0, float(s)) - 1) / (0.5 * max(float(distance), 1e-3)))
    return matrix


def worths(matrix: Floats, gain: Floats, known: list[int], rows: list[int]) -> Floats:
    cover = matrix[known].max(axis=0) if known else np.zeros(len(matrix))
    return np.array([(gain**2 * np.maximum(matrix[row] - cover, 0)).sum() for row in rows])


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(6, 70), k=st.integers(1, 8), seed=st.integers(0, 10_000), data=st.data())
def test_each_row_is_the_one_of_the_most_worth(rows: int, k: int, seed: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    graph, gain = graph_of(rows, min(k, rows - 1), seed), random.random(rows)
    order = random.permutation(rows)
    known, free = order[: rows // 4], np.sort(order[rows // 4 : rows - rows // 5])  # some are neither
    count = data.draw(st.integers(0, len(free)))
    drawn = draw_herding(free, gain.astype(np.float32), count, graph, known)
    assert len(set(drawn.tolist())) == count and set(drawn.tolist()) <= set(free.tolist())
    matrix, before, left = kernels(graph), known.tolist(), free.tolist()
    for row in drawn.tolist():
        worth = worths(matrix, gain, before, left)
        assert worth[left.index(row)] >= worth.max() - 1e-5
        before.append(row)
        left.remove(row)


def test_more_rows_begin_with_the_same_ones() -> None:
    """Also where the first look at the best rows was too short: all of them lie together, and cover each other."""
    rows = 400
    x = np.random.default_rng(1).standard_normal((rows, 5)).astype(np.float32)
    x[:60] = x[0] + 0.01 * x[:60]
    graph, gain = build_graph(x, k=16), np.where(np.arange(rows) < 60, 1.0, 0.3).astype(np.float32)
    whole = draw_herding(np.arange(rows), gain, rows, graph, np.zeros(0, dtype=np.int64))
    assert sorted(whole.tolist()) == list(range(rows))
    for count in (1, 3, 10, 50):
        assert (
            draw_herding(np.arange(rows), gain, count, graph, np.zeros(0, np.int64)).tolist() == whole[:count].tolist()
        )
    assert (whole[:20] < 60).sum() < 20, "rows that lie together stand for each other"


def test_what_is_known_is_not_asked_for_again() -> None:
    """Two clouds of the same gain, one of which has a label in its dense middle: the other's middle comes first."""
    random = np.random.default_rng(0)
    centres, spread = np.repeat(np.eye(6)[:2] * 3, 20, axis=0), np.tile(np.repeat([0.02, 0.5], 10), 2)[:, None]
    graph = build_graph((centres + spread * random.standard_normal((40, 6))).astype(np.float32), k=12)
    gain = np.ones(40, dtype=np.float32)
    first = int(draw_herding(np.arange(20), gain, 1, graph, np.zeros(0, np.int64))[0])
    free = np.setdiff1d(np.arange(40), first)
    assert first < 10 and 20 <= draw_herding(free, gain, 1, graph, np.array([first]))[0] < 30
    # And rows of no gain stand for nothing, however many they are.
    gain[20:] = 0.0
    assert draw_herding(free, gain, 5, graph, np.array([first])).max() < 20


def test_rows_without_neighbours_are_drawn_by_their_gain() -> None:
    graph = NeighbourGraph(np.full((5, 3), -1, np.int32), np.full((5, 3), -1, np.float32), "exact", None)
    gain = np.array([0.1, 0.5, 0.0, 0.9, 0.3], dtype=np.float32)
    assert draw_herding(np.arange(5), gain, 5, graph, np.zeros(0, np.int64)).tolist() == [3, 1, 4, 0, 2]


@pytest.mark.parametrize("draw", [None, "herding"])
def test_a_gate_draws_so_unless_told_otherwise(draw: Draw | None) -> None:
    graph, random = graph_of(90, 16, 2), np.random.default_rng(5)
    config = GateConfig(classes=3, round_size=7, relative_gain=0.0, draw=draw, copies=False, validation_share=0.0)
    gate = AnnotationGate(config, graph, np.ones(90, dtype=np.bool_))
    first = gate.request_seed(9).positions
    gate.submit(first, first % 3)
    gate.update_predictions(random.dirichlet(np.ones(3), 90).astype(np.float32))
    gain = gate.state()[1]["gain"]
    expected = draw_herding(np.setdiff1d(np.arange(90), first), gain, 7, graph, first)
    assert gate.request().positions.tolist() == expected.tolist()
    assert np.array_equal(gate.open_requests().gains, gain[expected])


@pytest.mark.parametrize(("labels", "share"), [([0] * 20 + [1] * 4 + [2] * 3, 0.9), (list(range(3)) * 9, 0.2)])
def test_later_and_where_classes_are_skewed_rows_come_from_the_top(labels: list[int], share: float) -> None:
    """27 of 90 rows have labels: more than a fifth, and in the first case of few classes."""
    graph, random, drawn = graph_of(90, 16, 2), np.random.default_rng(5), []
    predicted = random.dirichlet(np.ones(3), 90).astype(np.float32)
    cases: tuple[tuple[Draw, float], ...] = (("herding", share), ("top", 0.0))
    for draw, typical in cases:
        config = GateConfig(
            classes=3,
            round_size=7,
            relative_gain=0.0,
            draw=draw,
            typical=typical,
            copies=False,
            validation_share=0.0,
        )
        gate = AnnotationGate(config, graph, np.ones(90, dtype=np.bool_))
        gate.submit(gate.request_seed(27).positions, np.array(labels))
        gate.update_predictions(predicted)
        drawn.append(gate.request().positions.tolist())
    assert drawn[0] == drawn[1]


def test_blocks_of_rows_change_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    graph, gain = build_graph(random.standard_normal((90, 5)), 6), random.random(90).astype(np.float32)
    rows, known = np.arange(10, 90), np.arange(10)
    whole = draw_herding(rows, gain, 30, graph, known).tolist()
    monkeypatch.setattr("coevo_ray.core.gate.herding._BLOCK_ROWS", 7)
    assert draw_herding(rows, gain, 30, graph, known).tolist() == whole


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(3, 30), seed=st.integers(0, 10_000))
def test_missing_neighbours_stand_for_nothing(rows: int, seed: int) -> None:
    """Rows of different numbers of neighbours, some of none: places without one do not count for the last row."""
    random, whole = np.random.default_rng(seed), graph_of(rows, min(6, rows - 1), seed)
    there = np.arange(whole.k) < random.integers(0, whole.k + 1, rows)[:, None]
    there[0] = True
    graph = NeighbourGraph(
        np.where(there, whole.indices, -1).astype(np.int32),
        np.where(there, whole.similarities, -1).astype(np.float32),
        "exact",
        None,
    )
    gain = random.random(rows)
    known, free = np.array([1]), np.setdiff1d(np.arange(rows), [1])
    drawn = draw_herding(free, gain.astype(np.float32), len(free), graph, known).tolist()
    matrix, before, left = kernels(graph), [1], free.tolist()
    for row in drawn:
        worth = worths(matrix, gain, before, left)
        assert worth[left.index(row)] >= worth.max() - 1e-5
        before.append(row)
        left.remove(row)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(20, 90), seed=st.integers(0, 10_000), count=st.integers(1, 6), levels=st.integers(1, 3))
def test_of_rows_of_equal_worth_none_is_lost(rows: int, seed: int, count: int, levels: int) -> None:
    """Few values of gain, lone rows and pairs: more of equal worth than are looked at first."""
    random = np.random.default_rng(seed)
    indices = np.where(np.arange(rows) < rows // 2, np.arange(rows) ^ 1, -1)[:, None].astype(np.int32)
    indices[indices >= rows] = -1
    graph = NeighbourGraph(indices, np.where(indices >= 0, 0.9, -1.0).astype(np.float32), "exact", None)
    gain = (random.integers(1, levels + 1, rows) / levels).astype(np.float32)
    whole = draw_herding(np.arange(rows), gain, rows, graph, np.zeros(0, np.int64))
    assert sorted(whole.tolist()) == list(range(rows))
    assert draw_herding(np.arange(rows), gain, count, graph, np.zeros(0, np.int64)).tolist() == whole[:count].tolist()


def test_equal_rows_beyond_the_first_look_come_before_covered_ones() -> None:
    """Ten clusters of six, all of the same worth: the first look sees two of them, the third row is of a third one."""
    rows = np.arange(60)
    own = rows[:, None] // 6 * 6 + (rows[:, None] + np.arange(1, 6)) % 6
    indices = np.concatenate([own, (rows[:, None] + 6) % 60], axis=1).astype(np.int32)
    graph = NeighbourGraph(indices, np.array([[0.999] * 5 + [0.5]] * 60, np.float32), "exact", 1.0)
    gain, none = np.ones(60, dtype=np.float32), np.zeros(0, np.int64)
    drawn = [draw_herding(rows, gain, count, graph, none).tolist() for count in (3, 60)]
    assert drawn[0] == drawn[1][:3] and len({row // 6 for row in drawn[0]}) == 3
