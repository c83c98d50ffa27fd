"""A graph from ranges and blocks of rows, of which none holds all, is bit by bit the one from all rows at once."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph.cells import Cells, assign, fit_centroids
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.plan import Method, count_cells, exact_plan, ivf_plan, make_plan, settle_method
from coevo_ray.core.graph.recall import RecallSample, Samples, look_up, merge
from coevo_ray.core.graph.rows import BlockRows
from coevo_ray.core.graph.search import blocks
from coevo_ray.core.graph.sorting import Cut, gather, split
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.graph.unit_rows import UnitRows, chunk_sums, mean_of, scales
from coevo_ray.core.rows.chunks import CHUNK_ROWS

Half = npt.NDArray[np.float16]
CPU = torch.device("cpu")
K, SAMPLE = 5, 200


def clustered(rows: int, dim: int = 12, seed: int = 0) -> Half:
    """Rows around some centres, a few of them copies of others."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((12, dim))
    made = centres[random.integers(0, 12, rows)] + 0.5 * random.standard_normal((rows, dim)) + 0.5
    made[rows // 2 : rows // 2 + 3] = made[:3]
    return made.astype(np.float16)


def by_parts(features: Half, method: Method, centre: bool, cut: Cut, keep: int = 1) -> tuple[NeighbourGraph, int]:
    """A graph, and how many rows the search held at most."""
    count, parts = len(features), [features[part] for part in cut.ranges]
    mean = mean_of([chunk_sums(part) for part in parts], count) if centre else None
    ranges = [UnitRows(part, scales(part, mean)[0], mean) for part in parts]

    def sort(cells: Cells) -> BlockRows:
        positions = cells.positions()
        pieces = [split(rows, part.start, positions[part], cut) for rows, part in zip(ranges, cut.ranges, strict=True)]
        made = [gather([each[i] for each in pieces], block, cut, mean) for i, block in enumerate(cut.blocks)]
        np.testing.assert_array_equal(np.concatenate([each.rows for each in made]), cells.order)
        return BlockRows(count, cut.dim, cut.block_rows, lambda number: made[number].unit, keep)

    if settle_method(count, cut.dim, method, CPU).method == "exact":
        plan = exact_plan(count, cut.dim, K)
        rows = sort(plan.cells)
    else:
        samples = Samples.draw(count, count_cells(count), 0, SAMPLE)

        def read(which: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            inside = [which[(which >= part.start) & (which < part.stop)] - part.start for part in cut.ranges]
            return np.concatenate([rows.read(each) for rows, each in zip(ranges, inside, strict=True)])

        centroids = fit_centroids(read(samples.fitted), count_cells(count), samples.random, 1, CPU)
        cells = Cells.of(np.concatenate([assign(rows, centroids, 1, CPU) for rows in ranges]), centroids)
        tuned, measured = read(samples.tuned), read(samples.measured)
        near = [
            merge(
                [look_up(r, part.start, each, K, 1, CPU) for r, part in zip(ranges, cut.ranges, strict=True)],
            )
            for each in (tuned, measured)
        ]
        rows = sort(cells)
        sample = RecallSample(samples.tuned, samples.measured, tuned, *near)
        plan = ivf_plan(rows, cells, sample, K, seed=0, threads=1, device=CPU)
    indices, similarities = np.empty((count, K), dtype=np.int32), np.empty((count, K), dtype=np.float32)
    for own, index, similarity in plan.search(rows, blocks(count), 1, CPU):
        indices[own], similarities[own] = index, similarity
    return NeighbourGraph(indices, similarities, plan.method, plan.recall, plan.parameters), len(rows._held)


@functools.cache
def at_once(rows: int, method: Method, centre: bool) -> NeighbourGraph:
    return build_graph(clustered(rows), K, method, recall_sample=SAMPLE, threads=1, centre=centre)


@settings(max_examples=15)
@example(rows=40, method="ivf", centre=True, range_rows=1, block_rows=1, single=False, keep=1)
@example(rows=200, method="ivf", centre=True, range_rows=64, block_rows=50, single=True, keep=2)
@given(
    rows=st.sampled_from([6, 40, 200]),
    method=st.sampled_from(["exact", "ivf"]),
    centre=st.booleans(),
    range_rows=st.integers(4, 220),
    block_rows=st.integers(4, 220),
    single=st.booleans(),
    keep=st.integers(1, 3),
)
def test_cuts_change_nothing(
    rows: int, method: Method, centre: bool, range_rows: int, block_rows: int, single: bool, keep: int
) -> None:
    expected = at_once(rows, method, centre)
    graph, held = by_parts(clustered(rows), method, centre, Cut(rows, 12, range_rows, block_rows, single), keep)
    np.testing.assert_array_equal(graph.indices, expected.indices)
    np.testing.assert_array_equal(graph.similarities.view(np.int32), expected.similarities.view(np.int32))
    assert (graph.method, graph.recall, graph.parameters) == (expected.method, expected.recall, expected.parameters)
    assert held <= keep


@pytest.mark.parametrize("centre", [False, True])
def test_ranges_of_chunks_have_the_sums_of_all_rows(centre: bool) -> None:
    """Large values, whose float64 sums are not exact."""
    random = np.random.default_rng(0)
    features = (random.standard_normal((CHUNK_ROWS + 5000, 2)) * 10.0 ** random.integers(-6, 4, (1, 2))).astype("f2")
    whole = UnitRows.of(features, centre=centre)
    parts = [features[part] for part in Cut.of(len(features), 2, CHUNK_ROWS).ranges]
    assert [len(part) for part in parts] == [CHUNK_ROWS, 5000]
    mean = mean_of([chunk_sums(part) for part in parts], len(features)) if centre else None
    np.testing.assert_array_equal(mean, whole.mean)
    found = np.concatenate([scales(part, mean)[0] for part in parts])
    np.testing.assert_array_equal(found, whole.scale)


def test_the_plan_of_a_pool_keeps_to_the_grid_of_chunks() -> None:
    """Bits of sums and products depend on it."""
    for rows in (5, CHUNK_ROWS, 10**6, 10**8, 10**9):
        cut = Cut.of(rows, 256)
        assert cut.range_rows % CHUNK_ROWS == 0
        assert len(cut.ranges) <= 512 and len(cut.blocks) <= 512
        assert cut.ranges[-1].stop == cut.blocks[-1].stop == rows
        if rows <= 10**8:
            assert 2 * 256 * cut.block_rows <= 1 << 28


@given(rows=st.integers(2, 10**9), more=st.integers(0, 10**8), range_rows=st.none() | st.integers(10**6, 10**9))
@example(rows=134_000_000, more=1_000_000, range_rows=None)
def test_the_bound_of_ranges_holds_for_fewer_rows(rows: int, more: int, range_rows: int | None) -> None:
    assert len(Cut.of(rows, 8, range_rows).ranges) <= Cut.most_ranges(rows + more, range_rows)


def test_a_small_pool_has_one_range_and_one_block_of_float32() -> None:
    cut = Cut.of(50_000, 256)
    assert (len(cut.ranges), len(cut.blocks), cut.single) == (1, 1, True)
    features = clustered(60)
    unit = UnitRows.of(features)
    cut = Cut.of(60, 12)
    order = np.random.default_rng(0).permutation(60).astype(np.int32)
    (piece,) = split(unit, 0, np.argsort(order).astype(np.int32), cut)
    block = gather([piece], cut.blocks[0], cut, None)
    assert block.unit.raw.dtype == np.float32
    np.testing.assert_array_equal(block.unit.raw, unit.read(order))
    np.testing.assert_array_equal(block.rows, order)


def test_make_plan_is_the_plan_of_one_range() -> None:
    rows = UnitRows.of(clustered(400))
    plan = make_plan(rows, K, "ivf", seed=0, recall_sample=SAMPLE, threads=1, device=CPU)
    assert plan.parameters == at_once(400, "ivf", False).parameters
