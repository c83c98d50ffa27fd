"""A growing graph against one that is built at once, bit for bit, for any batches; and what it refuses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.growing import GrowingIndex
from coevo_ray.core.graph.recall import measured_recall
from coevo_ray.core.graph.unit_rows import unit_rows
from coevo_ray.errors import InputError

Floats = npt.NDArray[np.float32]


def features(rows: int, dim: int = 12, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def with_ties(rows: int, seed: int) -> Floats:
    """Copies of few rows, and rows at right angles: most similarities tie."""
    random = np.random.default_rng(seed)
    corners = np.concatenate([np.eye(4, dtype=np.float32), features(3, 4, seed)])
    return corners[random.integers(len(corners), size=rows)]


def grown(x: Floats, first: int, sizes: list[int], k: int, capacity: int | None = None) -> GrowingIndex:
    unit = unit_rows(x)
    index = GrowingIndex(unit[:first], build_graph(x[:first], k, "exact"), capacity)
    at = first
    while at < len(unit):
        size = sizes[at % len(sizes)]
        batch = unit[at : at + size]
        index.append(batch, *index.search(batch))
        at += len(batch)
    return index


@given(
    rows=st.integers(3, 40),
    first=st.integers(2, 20),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    k=st.integers(1, 6),
    ties=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_appending_in_any_batches_is_building_at_once(
    rows: int, first: int, sizes: list[int], k: int, ties: bool, seed: int
) -> None:
    x = with_ties(rows, seed) if ties else features(rows, seed=seed)
    index = grown(x, min(first, rows - 1) if rows > 3 else 2, sizes, k)
    whole = build_graph(x, k, "exact")
    np.testing.assert_array_equal(index.indices, whole.indices)
    np.testing.assert_array_equal(index.similarities, whole.similarities)
    np.testing.assert_array_equal(index.unit, unit_rows(x))


def test_more_rows_than_room_and_than_a_block() -> None:
    x = features(5000, dim=24)
    index, whole = grown(x, 1000, [333, 1, 700], 16, capacity=1100), build_graph(x, 16, "exact")
    np.testing.assert_array_equal(index.indices, whole.indices)
    np.testing.assert_array_equal(index.similarities, whole.similarities)
    graph = index.graph()
    assert (graph.rows, graph.method, graph.recall) == (5000, "exact", None)


def test_search_is_among_the_rows_so_far_and_changes_nothing() -> None:
    unit = unit_rows(features(60))
    graph = build_graph(unit[:50], 4, "exact")
    index = GrowingIndex(unit[:50], graph)
    indices, similarities = index.search(unit[50:], 7)
    products = unit[50:].astype(np.float64) @ unit[:50].T.astype(np.float64)
    np.testing.assert_array_equal(indices, np.argsort(-products, axis=1)[:, :7])
    np.testing.assert_allclose(similarities, -np.sort(-products, axis=1)[:, :7], atol=1e-6)
    np.testing.assert_array_equal(index.indices, graph.indices)
    assert index.rows == 50


def test_a_batch_that_was_not_searched_last_is_appended_as_well() -> None:
    x = features(80)
    unit = unit_rows(x)
    index = GrowingIndex(unit[:50], build_graph(x[:50], 5, "exact"))
    found = index.search(unit[50:])
    index.search(unit[60:62])
    index.append(unit[50:], *found)
    np.testing.assert_array_equal(index.indices, build_graph(x, 5, "exact").indices)


def test_beyond_the_limit_hnsw_looks_up_and_grows() -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((3000, 8)) @ random.standard_normal((8, 32))).astype(np.float32)
    unit = unit_rows(x)
    index = GrowingIndex(unit[:2000], build_graph(x[:2000], 8, "exact"), exact_rows=2100)
    assert index.method == "exact"
    for start in range(2000, 3000, 50):
        batch = unit[start : start + 50]
        index.append(batch, *index.search(batch))
        assert index.method == ("exact" if start + 50 <= 2100 else "hnsw")
    whole = build_graph(x, 8, "exact")
    assert measured_recall(whole.similarities, index.similarities) > 0.97
    assert not (index.indices == np.arange(3000)[:, None]).any()
    assert (np.diff(index.similarities, axis=1) <= 0).all()


def test_what_does_not_fit_is_refused() -> None:
    unit = unit_rows(features(20))
    graph = build_graph(unit[:10], 3, "exact")
    with pytest.raises(InputError, match="10 rows for 9 features"):
        GrowingIndex(unit[:9], graph)
    with pytest.raises(InputError, match=r"10 of 10 .*length 1, first rows \[0, 1"):
        GrowingIndex(2 * unit[:10], graph)
    index = GrowingIndex(unit[:10], graph)
    bad = unit[10:13].copy()
    bad[1] = np.nan
    with pytest.raises(InputError, match=r"1 of 3 .*\[1\]"):
        index.search(bad)
    with pytest.raises(InputError, match="5 dimensions"):
        index.search(unit[10:12, :5])
    indices, similarities = index.search(unit[10:12])
    with pytest.raises(InputError, match="3 rows with neighbours"):
        index.append(unit[10:13], indices, similarities)
    with pytest.raises(InputError, match="outside the 10 rows"):
        index.append(unit[10:12], indices + 10, similarities)
    index.append(unit[:0], indices[:0], similarities[:0])
    assert index.rows == 10
