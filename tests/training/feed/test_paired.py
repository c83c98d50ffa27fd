"""Two feeds in step: what each step uses, for any number of workers and after any restart."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.feed.cycles import Cycle
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.training.feed.batch import Batch
from coevo_ray.training.feed.cached_pool import HeldRows
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.paired import ArraySource, PairedBatch, PairedFeed, Rows
from coevo_ray.training.feed.views import Decode
from tests.training.feed.helpers import SIZE, row_of, write_pool

ROWS = 90
IMAGES = np.zeros((ROWS, 3, 2, 2), dtype=np.uint8)
IMAGES[:, 0, 0, 0] = np.arange(ROWS)
CPU = torch.device("cpu")
Ids = npt.NDArray[np.int64]
sets = st.sets(st.integers(0, ROWS - 1), min_size=1).map(lambda ids: np.array(sorted(ids), dtype=np.int64))


def paired(few: Ids, many: Ids, most: int, mu: int, steps: int | None) -> PairedFeed:
    labelled = Rows(few, Cycle(len(few), most), np.linspace(0.1, 1, len(few)).astype(np.float32))
    others = Rows(many, Cycle(len(many), mu * most))
    sources = [(ArraySource(IMAGES, rows.cycle.batch, 5), rows) for rows in (labelled, others)]
    return PairedFeed(sources[0], sources[1], steps or others.cycle.steps, CPU)


def real(batch: Batch | None) -> list[tuple[int, float]]:
    """Rows with their weights; the image says which row it is."""
    assert batch is not None
    assert batch["image"][:, 0, 0, 0].tolist() == batch.row_ids.tolist()
    return [(int(r), float(w)) for r, w in zip(batch.row_ids, batch.weights, strict=True) if w > 0]


def steps_of(ranks: list[list[PairedBatch]]) -> list[tuple[list[tuple[int, float]], list[tuple[int, float]]]]:
    """Of each step, the rows of all ranks."""
    return [
        (sorted(row for b in step for row in real(b.labelled)), sorted(row for b in step for row in real(b.unlabelled)))
        for step in zip(*ranks, strict=True)
    ]


@settings(max_examples=40)
@given(few=sets, many=sets, most=st.integers(1, 20), mu=st.integers(1, 4), world=st.integers(1, 4))
def test_an_epoch_has_every_unlabelled_row_once_in_equal_steps_for_any_workers(
    few: Ids, many: Ids, most: int, mu: int, world: int
) -> None:
    feed = paired(few, many, most, mu, None)
    seen: Counter[int] = Counter()
    for epoch in range(2):
        ranks = [list(feed.epoch(epoch, rank, world)) for rank in range(world)]
        assert {len(batches) for batches in ranks} == {feed.steps}
        for step in zip(*ranks, strict=True):
            assert len({(len(b.labelled.row_ids), len(b.unlabelled.row_ids)) for b in step if b.unlabelled}) == 1
            assert len({(b.passes, b.offset, b.labelled.global_rows) for b in step}) == 1
        steps = steps_of(ranks)
        assert steps == steps_of([list(feed.epoch(epoch, 0, 1))])
        assert Counter(row for _, others in steps for row, _ in others) == Counter(many.tolist())
        seen.update(row for labelled, _ in steps for row, _ in labelled)
        weight = dict(zip(few.tolist(), np.linspace(0.1, 1, len(few)).astype(np.float32).tolist(), strict=True))
        assert all(weight[row] == w for labelled, _ in steps for row, w in labelled)
        used = sum(len(labelled) + len(others) for labelled, others in steps)
        assert feed.samples(epoch) == used
    # Labelled rows come round: none twice before all others have come once.
    assert max(seen.values()) - min(seen[int(row)] for row in few) <= 1


@settings(max_examples=40)
@given(
    few=sets,
    many=sets,
    steps=st.one_of(st.none(), st.integers(1, 30)),
    epoch=st.integers(0, 3),
    worlds=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    share=st.floats(0, 1),
)
def test_a_restart_goes_on_with_the_same_rows_and_other_workers(
    few: Ids,
    many: Ids,
    steps: int | None,
    epoch: int,
    worlds: tuple[int, int],
    share: float,
) -> None:
    feed = paired(few, many, 7, 2, steps)
    start = round(share * feed.steps)
    whole = [list(feed.epoch(epoch, rank, worlds[0])) for rank in range(worlds[0])]
    rest = [list(feed.epoch(epoch, rank, worlds[1], start)) for rank in range(worlds[1])]
    assert steps_of(rest) == steps_of(whole)[start:]
    assert [(b.offset, b.passes) for b in rest[0]] == [(b.offset, b.passes) for b in whole[0]][start:]


def test_epochs_of_given_steps_go_through_all_rows_in_turn() -> None:
    feed = paired(np.arange(5), np.arange(20), 2, 3, 3)  # passes of 3 and of 4 steps
    seen = [real(b.unlabelled) for epoch in range(4) for b in feed.epoch(epoch, 0, 1)]
    for first in range(0, 12, 4):
        assert sorted(row for rows in seen[first : first + 4] for row, _ in rows) == list(range(20))
    assert [b.passes for b in feed.epoch(1, 0, 1)] == [(1, 0), (1, 1), (1, 1)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return Pool(write_pool(tmp_path_factory.mktemp("paired"), 300))


@pytest.mark.parametrize("most", [1 << 20, 0])
def test_labelled_rows_are_read_once_where_they_are_few(pool: Pool, most: int) -> None:
    few, many = np.arange(3, 300, 37), pool.row_ids()
    table = HeldRows(pool.location, few, "image", most)
    read = table.groups_read
    labelled, others = Rows(few, Cycle(len(few), 4)), Rows(many, Cycle(300, 10))
    decode = Decode(SIZE)
    feeds = [
        Feed(source, ["image"], decode, global_batch=rows.cycle.batch, seed=1, prefetch=depth)
        for source, rows, depth in ((table, labelled, 0), (pool, others, 4))
    ]
    paired_feed = PairedFeed((feeds[0], labelled), (feeds[1], others), others.cycle.steps, CPU)
    seen: Counter[int] = Counter()
    for batch in paired_feed.epoch(0, 0, 1):
        assert row_of(batch.labelled["image"]) == batch.labelled.row_ids.tolist()
        assert batch.unlabelled is not None
        assert row_of(batch.unlabelled["image"]) == batch.unlabelled.row_ids.tolist()
        seen.update(batch.labelled.row_ids.tolist())
    assert set(seen.values()) == {10}  # 30 steps, passes of 3
    if most:
        assert (read, table.groups_read) == (len(few), read)
    else:
        assert (read, table.groups_read) == (0, 10 * len(few))


def test_threads_end_when_the_taker_stops_early(pool: Pool) -> None:
    rows = Rows(pool.row_ids(), Cycle(300, 4))
    feeds = [Feed(pool, ["image"], Decode(SIZE), global_batch=4, seed=1) for _ in range(2)]
    before = threading.active_count()
    batches = PairedFeed((feeds[0], rows), (feeds[1], rows), 75, CPU).epoch(0, 0, 1)
    next(batches)
    assert threading.active_count() > before
    del batches
    patience = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_held_rows_are_the_pools_own(pool: Pool, tmp_path: Path) -> None:
    few = np.array([0, 5, 299])
    held = HeldRows(Location.parse(str(pool.location)), few, "image")
    assert held.read(few[1:], ["image"]).equals(pool.read(few[1:], ["image"]))
    assert held.read(np.array([7]), ["label"]).equals(pool.read(np.array([7]), ["label"]))
