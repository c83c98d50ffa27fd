"""The neighbour graph against a plain loop, and what it must do with ties, few rows and bad rows."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph.cells import Cells
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.plan import Method, make_plan
from coevo_ray.core.graph.recall import measured_recall
from coevo_ray.core.graph.running_top_k import RunningTopK
from coevo_ray.core.graph.search import block_rows, blocks
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.graph.unit_rows import RowsInOrder, UnitRows, unit_rows
from coevo_ray.errors import InputError, UsageError

Floats = npt.NDArray[np.float32]


def features(rows: int, dim: int = 12, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def loop(x: Floats, k: int) -> list[list[tuple[int, float]]]:
    """Each row's neighbours one pair at a time."""
    found = []
    for i in range(len(x)):
        pairs = []
        for j in range(len(x)):
            if i != j:
                a, b = x[i].astype(np.float64), x[j].astype(np.float64)
                pairs.append((j, float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))))
        found.append(sorted(pairs, key=lambda p: (-p[1], p[0]))[:k])
    return found


def test_exact_is_the_loop() -> None:
    x = features(60) * np.linspace(0.01, 100, 60, dtype=np.float32)[:, None]  # lengths do not matter
    graph = build_graph(x, k=5)
    assert (graph.rows, graph.k, graph.method, graph.recall) == (60, 5, "exact", 1.0)
    for i, expected in enumerate(loop(x, 5)):
        assert graph.indices[i].tolist() == [j for j, _ in expected]
        np.testing.assert_allclose(graph.similarities[i], [s for _, s in expected], atol=1e-6)


@given(rows=st.integers(2, 12), k=st.integers(1, 14), values=st.integers(1, 3), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_ties_are_broken_by_index(rows: int, k: int, values: int, seed: int) -> None:
    """Rows are axes of the space, so that similarities are exactly 0 or 1 and most of them tie."""
    x = np.eye(values, dtype=np.float32)[np.random.default_rng(seed).integers(values, size=rows)]
    graph = build_graph(x, k=k)
    for i, expected in enumerate(loop(x, k)):
        width = len(expected)
        assert graph.indices[i, :width].tolist() == [j for j, _ in expected]
        assert graph.indices[i, width:].tolist() == [-1] * (k - width)
        assert (graph.similarities[i, width:] == -1).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_permuting_rows_permutes_the_graph(seed: int) -> None:
    x, order = features(30, seed=seed), np.random.default_rng(seed).permutation(30)
    graph, permuted = build_graph(x, k=4), build_graph(x[order], k=4)
    np.testing.assert_array_equal(order[permuted.indices], graph.indices[order])


def test_tiles_and_blocks_do_not_change_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(300)
    whole = build_graph(x, k=6)
    monkeypatch.setattr("coevo_ray.core.graph.search._TILE", {"cpu": (7, 31)})
    monkeypatch.setattr("coevo_ray.core.graph.search._LEAST_BLOCK", 11)
    parts = build_graph(x, k=6)
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_array_equal(whole.similarities, parts.similarities)


@given(
    rows=st.integers(1, 6),
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    k=st.integers(1, 9),
    values=st.integers(1, 30),
    settle=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_best_is_a_sort_however_values_come(
    rows: int, widths: list[int], k: int, values: int, settle: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    everything = random.integers(values, size=(rows, sum(widths))).astype(np.float32)
    best, start = RunningTopK(rows, k, torch.device("cpu")), 0
    for width in widths:
        best.offer(torch.arange(rows), torch.from_numpy(everything[:, start : start + width]), start)
        start += width
        if settle:
            best.settle()
    best.settle()
    for i in range(rows):
        order = sorted(range(start), key=lambda j, i=i: (-everything[i, j], j))[:k]  # type: ignore[misc]
        assert best.positions[i].tolist() == order + [-1] * (k - len(order))


def clustered(rows: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((rows, 8)) @ rng.standard_normal((8, 32))
    return (low + 0.2 * rng.standard_normal((rows, 32))).astype(np.float32)


def test_approximate_is_near_exact_and_says_how_near() -> None:
    x = clustered(3000)
    method: Method = "ivf"
    exact = build_graph(x, threads=1)
    first, second = (build_graph(x, method=method, recall_sample=600, threads=1) for _ in range(2))
    np.testing.assert_array_equal(first.indices, second.indices)
    assert first.method == method
    assert not (first.indices == np.arange(3000)[:, None]).any()
    assert (np.diff(first.similarities, axis=1) <= 0).all()
    true_recall = measured_recall(exact.similarities, first.similarities)
    assert true_recall >= 0.97
    assert first.recall is not None and abs(first.recall - true_recall) < 0.02
    assert first.parameters["goal_reached"] and first.parameters["recall_goal"] == 0.98
    found = first.indices == exact.indices  # by the same sums
    np.testing.assert_array_equal(first.similarities[found], exact.similarities[found])
    unmeasured = build_graph(x[:200], method=method, recall_sample=0, threads=1)
    assert unmeasured.recall is None and not unmeasured.parameters["goal_reached"]


@pytest.mark.parametrize("method", ["exact", "ivf"])
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_threads_do_not_change_the_graph(method: Method, kind: str) -> None:
    x = clustered(2500).astype(kind)
    graphs = [build_graph(x, method=method, threads=threads) for threads in (1, 2, 5)]
    for other in graphs[1:]:
        np.testing.assert_array_equal(graphs[0].indices, other.indices)
        np.testing.assert_array_equal(graphs[0].similarities, other.similarities)
        assert graphs[0].parameters == other.parameters


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 80), st.sampled_from(["float16", "float32"]), st.integers(0, 3))
def test_rows_are_looked_up_in_another_order(count: int, dim: int, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = (random.normal(size=(count, dim)) + 0.1).astype(kind)
    rows, order = (
        UnitRows.of(x.copy(), centre=kind == "float16" and count > 1),
        random.permutation(count).astype(np.int32),
    )
    copied, looked_up = rows.sorted_by(order), RowsInOrder(rows, order)
    assert np.array_equal(looked_up.read(slice(None)), copied.read(slice(None)))


def test_the_search_takes_the_cells_that_the_plan_says() -> None:
    """Slow and obvious: a row's neighbours are the nearest of the rows of its nearest cells."""
    rows = UnitRows.of(clustered(600))
    device = torch.device("cpu")
    plan = make_plan(rows, 5, "ivf", seed=0, recall_sample=200, threads=2, device=device)
    cells, unit = plan.cells, rows.raw.astype(np.float64)  # a copy
    assert 1 < plan.probes < cells.count
    cell = np.empty(600, dtype=np.int64)
    cell[cells.order] = np.repeat(np.arange(cells.count), np.diff(cells.starts))
    np.testing.assert_array_equal(cell, (unit @ cells.centroids.T).argmax(axis=1))
    probed = np.argsort(-(unit @ cells.centroids.T), axis=1)[:, : plan.probes]
    for own, index, _ in plan.search(plan.sort(rows), blocks(600), 2, device):
        for row, neighbours in zip(own.tolist(), index.tolist(), strict=True):
            others = [j for j in range(600) if j != row and cell[j] in probed[row]]
            assert neighbours == sorted(others, key=lambda j: -unit[row] @ unit[j])[:5]


def test_a_goal_that_is_not_reached_is_said_and_auto_compares_all(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = features(1500, dim=64)
    graph = build_graph(noise, method="ivf")
    assert graph.recall is not None and graph.recall < 0.98
    assert graph.parameters["goal_reached"] is False
    assert graph.parameters["probes"] == -(-graph.parameters["cells"] // 4)
    monkeypatch.setattr("coevo_ray.core.graph.plan.EXACT_WORK", {"cpu": 1e8})
    assert build_graph(noise).method == "exact"
    monkeypatch.setattr("coevo_ray.core.graph.plan.EXACT_WORK", {"cpu": 1e7})
    assert build_graph(noise).method == "ivf"


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_copies_are_found_in_order(method: Method) -> None:
    """All rows the same: each row's neighbours are the first others."""
    graph = build_graph(np.tile(features(1, 37), (900, 1)), 4, method)
    assert (graph.similarities > 0.999999).all()
    assert not (graph.indices == np.arange(900)[:, None]).any()
    assert graph.indices[500].tolist() == [0, 1, 2, 3]
    assert graph.indices[2].tolist() == [0, 1, 3, 4]
    assert graph.recall == 1.0


@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_some_copies_do_not_hide_the_others(method: Method) -> None:
    x = clustered(1200)
    x[600:900] = x[0]
    exact, graph = build_graph(x, 8, "exact"), build_graph(x, 8, method)
    others = np.r_[1:600, 900:1200]
    assert measured_recall(exact.similarities[others], graph.similarities[others]) > 0.97
    assert measured_recall(exact.similarities[600:900], graph.similarities[600:900]) > 0.97


def test_half_precision_is_read_as_it_is() -> None:
    x = (clustered(400) * 3).astype(np.float16)
    half, single = build_graph(x, 5), build_graph(x.astype(np.float32), 5)
    np.testing.assert_allclose(half.similarities, single.similarities, atol=1e-6)
    assert (half.indices == single.indices).mean() > 0.999
    assert UnitRows.of(x).raw is x


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_centring_takes_the_mean_off(kind: str) -> None:
    x = (clustered(300) + 4).astype(kind)
    by_hand = x.astype(np.float64)
    by_hand -= by_hand.mean(axis=0)
    graph, expected = build_graph(x, 5, centre=True), build_graph(by_hand, 5)
    assert (graph.indices == expected.indices).mean() > 0.99
    np.testing.assert_allclose(graph.similarities, expected.similarities, atol=1e-4)


@pytest.mark.parametrize("method", ["exact", "ivf"])
@pytest.mark.parametrize(("rows", "k"), [(2, 1), (2, 6), (4, 3), (4, 6), (9, 30)])
def test_fewer_rows_than_neighbours_are_padded(method: Method, rows: int, k: int) -> None:
    graph, expected = build_graph(features(rows), k, method), loop(features(rows), k)
    for i, pairs in enumerate(expected):
        found = [int(j) for j in graph.indices[i] if j >= 0]
        assert graph.indices[i].tolist() == found + [-1] * (k - len(found))
        assert (graph.similarities[i, len(found) :] == -1).all()
        if method != "ivf" or rows < 16:  # so few rows have one cell
            assert found == [j for j, _ in pairs]


def test_auto_changes_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    x = clustered(800)
    monkeypatch.setattr("coevo_ray.core.graph.plan.EXACT_WORK", {"cpu": 800.0 * 800 * 32})
    assert build_graph(x, k=3).method == "exact"
    monkeypatch.setattr("coevo_ray.core.graph.plan.EXACT_WORK", {"cpu": 799.0 * 800 * 32})
    assert build_graph(x, k=3).method == "ivf"


def test_blocks_cover_all_rows_once() -> None:
    for rows in (2, 63, 64, 65, 5000, 1_000_001):
        cut = blocks(rows)
        assert [c.start for c in cut] == list(range(0, rows, block_rows(rows)))
        assert [c.stop for c in cut] == [*(c.start for c in cut[1:]), rows]


def test_cells_of_few_different_rows() -> None:
    """More centroids than different rows: cells without rows are no harm."""
    rows = UnitRows(unit_rows(np.repeat(features(3), 50, axis=0)))
    cells = Cells.train(rows, 10, 0, 2, torch.device("cpu"))
    assert np.sort(cells.order).tolist() == list(range(150))
    assert cells.starts[-1] == 150 and np.isfinite(cells.centroids).all()


def test_recall_counts_what_was_missed() -> None:
    truth = np.array([[0.9, 0.8], [0.7, 0.6]], dtype=np.float32)
    found = np.array([[0.9, 0.5], [0.6, -1.0]], dtype=np.float32)
    assert measured_recall(truth, truth) == 1.0
    assert measured_recall(truth, found) == 0.5


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    build_graph(features(10), k=2, threads=before + 1)
    assert torch.get_num_threads() == before


def test_extreme_lengths_keep_their_direction() -> None:
    x = features(20)
    scaled = x.astype(np.float64) * np.where(np.arange(20) % 2, 1e-200, 1e200)[:, None]
    np.testing.assert_array_equal(build_graph(scaled, k=3).indices, build_graph(x, k=3).indices)


def test_arrays_restore_the_graph() -> None:
    graph = build_graph(features(10), k=3)
    fields, arrays = graph.arrays()
    again = NeighbourGraph.from_arrays(json.loads(json.dumps(fields)), arrays)
    assert (again.method, again.recall, again.parameters) == (graph.method, graph.recall, graph.parameters)
    np.testing.assert_array_equal(again.indices, graph.indices)
    by_hnsw = NeighbourGraph.from_arrays({**fields, "method": "hnsw"}, arrays)  # version 0.1.0 could build such graphs
    assert by_hnsw.method == "hnsw"
    half = {**arrays, "similarities": arrays["similarities"].astype(np.float16)}
    assert NeighbourGraph.from_arrays(fields, half).similarities.dtype == np.float16
    with pytest.raises(InputError, match="recall"):
        NeighbourGraph.from_arrays({k: v for k, v in fields.items() if k != "recall"}, arrays)
    with pytest.raises(InputError, match="outside"):
        NeighbourGraph.from_arrays(fields, {**arrays, "indices": arrays["indices"] + np.int32(5)})
    with pytest.raises(InputError, match="int64"):
        NeighbourGraph.from_arrays(fields, {**arrays, "indices": arrays["indices"].astype(np.int64)})


@pytest.mark.parametrize("kind", ["float64", "float32", "float16"])
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_bad_rows_are_counted_and_named(bad: float, centre: bool, kind: str) -> None:
    x = np.tile(features(1), (10, 1)).astype(kind)
    x[::2] *= -1  # their mean is 0, and stays so without one of either
    x[[3, 6]] = bad
    with pytest.raises(InputError, match=r"2 of 10 .*\[3, 6\]"):
        build_graph(x, k=2, centre=centre)


@pytest.mark.parametrize("method", ["auto", "exact", "ivf"])
@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_are_refused(rows: int, method: Method) -> None:
    with pytest.raises(InputError, match=f"2 rows or more, there are {rows}"):
        build_graph(features(rows), 2, method)


def test_wrong_shapes_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        build_graph(np.ones(5, dtype=np.float32))
    with pytest.raises(UsageError, match="k = 0"):
        build_graph(features(5), k=0)
    with pytest.raises(UsageError, match="threads = 0"):
        build_graph(features(5), threads=0)
    for wrong in ("tree", "hnsw"):
        with pytest.raises(UsageError, match=f"(?s){wrong}.*use auto, exact or ivf"):
            build_graph(features(5), method=wrong)  # type: ignore[arg-type]  # that is the test
