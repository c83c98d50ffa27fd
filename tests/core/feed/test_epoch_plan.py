"""The epoch's arithmetic: every row once, equal steps and shapes on all ranks, exact restart."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.feed.epoch_plan import EpochPlan, RankBatch, Subset, plan_epoch
from coevo_ray.core.rows import chunks
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.errors import InputError
from tests.core.feed.whole_order import rank_batches


@st.composite
def plans(draw: st.DrawFn) -> tuple[Subset, EpochPlan]:
    ids = np.array(sorted(draw(st.sets(st.integers(0, 300), min_size=1, max_size=80))), dtype=np.int64)
    weights = draw(st.none() | st.just(np.linspace(0.5, 2.0, len(ids), dtype=np.float32)))
    subset = Subset(draw(st.integers(0, 5)), ids, weights)
    blocks = draw(st.integers(1, 50).map(lambda size: np.arange(0, 301, size)) | st.just(np.array([0, 7, 30, 31, 200])))
    sizes = {"global_batch": draw(st.integers(1, 90)), "window_blocks": draw(st.integers(1, 5))}
    return subset, plan_epoch(subset, seed=draw(st.integers(-1, 3)), block_starts=blocks, **sizes)


def order(plan: EpochPlan) -> Int64Array:
    """The global order: what a lone worker sees."""
    return np.concatenate([batch.row_ids for batch in plan.rank_batches(0, 1)])


def real(batch: RankBatch) -> Int64Array:
    return batch.row_ids[batch.weights > 0]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.sets(st.integers(0, 120), min_size=1, max_size=60),
    weighted=st.booleans(),
    blocks=st.sets(st.integers(0, 130), min_size=1, max_size=20),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 5)),
    stream=st.tuples(st.integers(0, 3), st.integers(-1, 3)),
    world=st.integers(1, 5),
    chunk=st.sampled_from([8, 64, 1 << 18]),
)
def test_an_epoch_read_in_parts_has_the_order_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
    ids: set[int],
    weighted: bool,
    blocks: set[int],
    sizes: tuple[int, int],
    stream: tuple[int, int],
    world: int,
    chunk: int,
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", chunk)
    row_ids = np.array(sorted(ids), dtype=np.int64)
    weights = np.linspace(0.5, 2.0, len(row_ids), dtype=np.float32) if weighted else None
    epoch, seed = stream
    order: dict[str, Any] = {
        "global_batch": sizes[0],
        "window_blocks": sizes[1],
        "block_starts": np.array(sorted(blocks)),
    }
    for rows in (row_ids, RowSet.from_ids(row_ids, 121)):
        plan = plan_epoch(Subset(epoch, rows, weights), seed=seed, **order)
        for rank in range(world):
            found = [(b.row_ids.tolist(), b.weights.tolist()) for b in plan.rank_batches(rank, world)]
            assert found == rank_batches(row_ids, weights, (rank, world), epoch=epoch, seed=seed, **order)


@settings(deadline=None)
@given(plans(), st.integers(1, 7))
def test_ranks_together_see_each_row_once_in_the_global_order(made: tuple[Subset, EpochPlan], world: int) -> None:
    subset, plan = made
    ranks = [list(plan.rank_batches(rank, world)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {plan.steps}
    seen = []
    for step, batches in enumerate(zip(*ranks, strict=True)):
        first = step * plan.global_batch
        whole = order(plan)[first : first + plan.global_batch]
        assert len({b.row_ids.shape for b in batches} | {b.weights.shape for b in batches}) == 1
        assert {(b.offset, b.global_rows) for b in batches} == {(first + len(whole), len(whole))}
        for rank, batch in enumerate(batches):
            assert np.array_equal(real(batch), whole[rank::world])
            assert set(batch.row_ids.tolist()) <= set(whole.tolist())  # padding comes from the same batch
            seen.extend(real(batch).tolist())
    assert sorted(seen) == subset.row_ids.tolist()


@settings(deadline=None)
@given(plans(), st.integers(1, 4))
def test_weights_stay_with_their_rows(made: tuple[Subset, EpochPlan], world: int) -> None:
    subset, plan = made
    ones = np.ones(len(subset.row_ids), np.float32) if subset.weights is None else subset.weights
    weight_of = dict(zip(subset.row_ids.tolist(), ones.tolist(), strict=True))
    for rank in range(world):
        for batch in plan.rank_batches(rank, world):
            assert batch.weights.dtype == np.float32
            used = batch.weights > 0
            assert batch.weights[used].tolist() == [weight_of[row] for row in batch.row_ids[used].tolist()]


@settings(deadline=None)
@given(plans(), st.integers(1, 4), st.data())
def test_start_skips_exactly_even_with_another_number_of_workers(
    made: tuple[Subset, EpochPlan], world: int, data: st.DataObject
) -> None:
    _, plan = made
    before = list(plan.rank_batches(0, 1))
    done = data.draw(st.integers(0, plan.steps))
    offset = before[done - 1].offset if done else 0
    rows = [real(b) for rank in range(world) for b in plan.rank_batches(rank, world, start=offset)]
    left = np.concatenate([*rows, np.zeros(0, np.int64)])
    assert sorted(left.tolist()) == sorted(order(plan)[offset:].tolist())


@settings(deadline=None)
@given(plans(), st.integers(1, 4), st.integers(1, 4))
def test_the_batches_are_the_same_sets_whatever_the_number_of_workers(
    made: tuple[Subset, EpochPlan], world: int, other: int
) -> None:
    def batches(workers: int) -> list[list[int]]:
        steps = zip(*(made[1].rank_batches(rank, workers) for rank in range(workers)), strict=True)
        return [sorted(np.concatenate([real(b) for b in step]).tolist()) for step in steps]

    assert batches(world) == batches(other)


@settings(deadline=None)
@given(plans())
def test_windows_are_used_one_after_another(made: tuple[Subset, EpochPlan]) -> None:
    subset, plan = made
    windows = [plan.window_of(batch.row_ids) for batch in plan.rank_batches(0, 1)]
    assert all(a.max() <= b.min() for a, b in itertools.pairwise(windows))
    assert sum(map(len, windows)) == len(subset.row_ids)


@pytest.mark.parametrize("window", [1, 4])
def test_rows_are_shuffled_within_a_window_of_shuffled_blocks(window: int) -> None:
    rows, starts = np.arange(1000), np.arange(0, 1000, 10)
    plan = plan_epoch(Subset(0, rows), seed=1, global_batch=2, block_starts=starts, window_blocks=window)
    visited = [set((part // 10).tolist()) for part in order(plan).reshape(-1, 10 * window)]
    assert all(len(part) == window for part in visited)  # a window's rows come from its own blocks only
    assert len(set().union(*visited)) == 100
    assert [min(part) for part in visited] != sorted(min(part) for part in visited)
    first = order(plan)[: 10 * window]
    assert first.tolist() != sorted(first.tolist())


@pytest.mark.parametrize("world", [2, 4, 8])
def test_a_rank_takes_neighbouring_rows_of_each_batch(world: int) -> None:
    """So it reads a part of a window's blocks and not all of them."""
    plan = plan_epoch(
        Subset(0, np.arange(4096)), seed=0, global_batch=256, block_starts=np.arange(0, 4096, 64), window_blocks=64
    )
    blocks = [set((b.row_ids // 64).tolist()) for b in plan.rank_batches(world - 1, world)]
    assert len(set().union(*blocks)) <= 1.5 * 64 / world


def test_a_plan_keeps_a_number_per_block_and_not_per_row() -> None:
    subset = Subset(0, RowSet.full(2_000_000))
    tracemalloc.start()
    try:
        plan = plan_epoch(subset, seed=0, global_batch=64, block_starts=np.arange(0, 2_000_000, 500), window_blocks=8)
        assert len(next(plan.rank_batches(0, 2)).row_ids) == 32
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000  # the order alone would take 16 MB
    assert peak < 5_000_000  # the row_ids would take as much again
    assert "row_ids" not in vars(subset)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    rows, starts = np.arange(100), np.arange(0, 100, 10)
    orders = {
        tuple(order(plan_epoch(Subset(e, rows), seed=s, global_batch=8, block_starts=starts, window_blocks=2)).tolist())
        for e in range(3)
        for s in range(3)
    }
    assert len(orders) == 9


def test_a_batch_smaller_than_the_world_pads_the_idle_ranks() -> None:
    plan = plan_epoch(
        Subset(0, np.array([4, 9])), seed=0, global_batch=8, block_starts=np.arange(0, 10, 4), window_blocks=1
    )
    batches = [next(plan.rank_batches(rank, 3)) for rank in range(3)]
    assert [b.weights.tolist() for b in batches] == [[1.0], [1.0], [0.0]]
    assert batches[2].row_ids.tolist() == [order(plan)[0]]


@pytest.mark.parametrize("start", [-4, 3, 12, 14])
def test_a_start_that_no_batch_ends_at_is_refused_at_once(start: int) -> None:
    plan = plan_epoch(
        Subset(0, np.arange(10)), seed=0, global_batch=4, block_starts=np.arange(0, 10, 4), window_blocks=1
    )
    with pytest.raises(InputError, match="cannot start"):
        plan.rank_batches(0, 1, start)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_the_world_is_refused(rank: int, world: int) -> None:
    plan = plan_epoch(
        Subset(0, np.arange(10)), seed=0, global_batch=4, block_starts=np.arange(0, 10, 4), window_blocks=1
    )
    with pytest.raises(InputError, match="rank"):
        plan.rank_batches(rank, world)


@pytest.mark.parametrize(
    ("rows", "weights", "sizes"),
    [
        ([], None, (4, 4, 1)),
        ([3, 2], None, (4, 4, 1)),
        ([2, 2], None, (4, 4, 1)),
        ([1, 2], [1.0], (4, 4, 1)),
        ([1, 2], None, (0, 4, 1)),
        ([1, 2], None, (4, 0, 1)),
        ([1, 2], None, (4, 4, 0)),
        ([1, 2], None, (4, 0, 1)),
    ],
)
def test_bad_subsets_and_sizes_are_refused(
    rows: list[int], weights: list[float] | None, sizes: tuple[int, int, int]
) -> None:
    subset = Subset(0, np.array(rows, np.int64), None if weights is None else np.array(weights, np.float32))
    batch, block, window = sizes
    with pytest.raises(InputError):
        plan_epoch(subset, seed=0, global_batch=batch, block_starts=np.arange(0, block, 4), window_blocks=window)
