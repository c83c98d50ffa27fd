"""The neighbour graph against a plain loop, and what it must do with ties, few rows and bad rows."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph import Method, NeighbourGraph, build_graph, measured_recall
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


def test_blocks_do_not_change_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(50)
    whole = build_graph(x, k=6)
    monkeypatch.setattr("coevo_ray.core.graph._BLOCK_VALUES", 7 * 50)
    parts = build_graph(x, k=6)
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_allclose(whole.similarities, parts.similarities, atol=1e-6)


def clustered(rows: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((rows, 8)) @ rng.standard_normal((8, 32))
    return (low + 0.2 * rng.standard_normal((rows, 32))).astype(np.float32)


def test_hnsw_is_near_exact_and_repeats_with_one_thread() -> None:
    x = clustered(3000)
    exact = build_graph(x, threads=1)
    first, second = (build_graph(x, method="hnsw", recall_sample=300, threads=1) for _ in range(2))
    np.testing.assert_array_equal(first.indices, second.indices)
    assert not (first.indices == np.arange(3000)[:, None]).any()
    assert (np.diff(first.similarities, axis=1) <= 0).all()
    true_recall = measured_recall(exact.similarities, first.similarities)
    assert true_recall >= 0.98
    assert first.recall is not None and abs(first.recall - true_recall) < 0.02
    assert first.parameters["recall_sample"] == 300
    assert build_graph(x[:200], method="hnsw", recall_sample=0, threads=1).recall is None


def test_hnsw_pads_where_there_are_fewer_rows() -> None:
    graph = build_graph(features(4), k=6, method="hnsw", threads=1)
    exact = build_graph(features(4), k=6)
    np.testing.assert_array_equal(graph.indices, exact.indices)
    np.testing.assert_allclose(graph.similarities, exact.similarities, atol=1e-6)


def test_auto_changes_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coevo_ray.core.graph.EXACT_ROWS", 40)
    assert build_graph(features(40), k=3).method == "exact"
    assert build_graph(features(41), k=3).method == "hnsw"


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
    half = {**arrays, "similarities": arrays["similarities"].astype(np.float16)}
    assert NeighbourGraph.from_arrays(fields, half).similarities.dtype == np.float16
    with pytest.raises(InputError, match="recall"):
        NeighbourGraph.from_arrays({k: v for k, v in fields.items() if k != "recall"}, arrays)
    with pytest.raises(InputError, match="outside"):
        NeighbourGraph.from_arrays(fields, {**arrays, "indices": arrays["indices"] + np.int32(5)})
    with pytest.raises(InputError, match="int64"):
        NeighbourGraph.from_arrays(fields, {**arrays, "indices": arrays["indices"].astype(np.int64)})


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_bad_rows_are_counted_and_named(bad: float) -> None:
    x = features(10)
    x[[3, 7]] = bad
    with pytest.raises(InputError, match=r"2 of 10 .*\[3, 7\]"):
        build_graph(x, k=2)


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_are_refused(rows: int) -> None:
    with pytest.raises(InputError, match="2 rows"):
        build_graph(features(rows), k=2)


def test_wrong_shapes_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        build_graph(np.ones(5, dtype=np.float32))
    with pytest.raises(UsageError, match="k = 0"):
        build_graph(features(5), k=0)
    with pytest.raises(UsageError, match="threads = 0"):
        build_graph(features(5), threads=0)
    wrong: Method = "ivf"  # type: ignore[assignment]  # that is the test
    with pytest.raises(UsageError, match="ivf"):
        build_graph(features(5), method=wrong)
