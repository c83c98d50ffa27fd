"""The feed's contract."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.errors import InputError
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.feed.feed import Batch, Feed, Tensors

ROWS = 230


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RowTable:
    place = Location.parse(str(tmp_path_factory.mktemp("feed")))
    files = []
    for i, part in enumerate(np.array_split(np.arange(ROWS), 3)):
        files.append(write_table(place, f"{i}.parquet", pa.table({"row_id": part, "x": part * 2}), group_rows=16))
    finish(place, "numbers", {}, {}, files, {})
    return RowTable(place)


def transform(rows: pa.Table, seeds: npt.NDArray[np.uint64]) -> Tensors:
    noise = seeds.astype(np.float64) / 2.0**64
    return {"x": torch.from_numpy(rows.column("x").to_numpy()), "noise": torch.from_numpy(noise)}


def make(table: RowTable, *, global_batch: int = 16, window: int = 3, prefetch: int = 0, seed: int = 1) -> Feed:
    return Feed(
        RowTable(table.location),
        ["x"],
        transform,
        global_batch=global_batch,
        seed=seed,
        window_blocks=window,
        prefetch=prefetch,
    )


def real_rows(batches: Iterator[Batch]) -> list[int]:
    return [int(r) for b in batches for r, w in zip(b.row_ids, b.weights, strict=True) if w > 0]


subsets = st.sets(st.integers(0, ROWS - 1), min_size=1).map(lambda s: np.array(sorted(s), dtype=np.int64))


@settings(max_examples=40, deadline=None)
@given(row_ids=subsets, world=st.integers(1, 5), batch=st.integers(1, 40), epoch=st.integers(0, 3))
def test_ranks_share_the_subset_without_gap_or_double(
    table: RowTable, row_ids: Int64Array, world: int, batch: int, epoch: int
) -> None:
    feed = make(table, global_batch=batch)
    subset = Subset(epoch, row_ids)
    ranks = [list(feed.epoch(subset, rank, world)) for rank in range(world)]
    assert Counter(r for batches in ranks for r in real_rows(iter(batches))) == Counter(row_ids.tolist())
    assert len({len(batches) for batches in ranks}) == 1
    for step in zip(*ranks, strict=True):
        assert len({len(b.row_ids) for b in step}) == 1
        assert sum(float(b.weights.sum()) for b in step) == step[0].global_rows
        for b in step:
            assert torch.equal(b.tensors["x"], torch.from_numpy(b.row_ids * 2))


def test_the_order_does_not_depend_on_the_number_of_workers(table: RowTable) -> None:
    subset = Subset(2, np.arange(0, ROWS, 2))
    alone = real_rows(make(table).epoch(subset, 0, 1))
    for world in (2, 3, 4):
        ranks = [list(make(table).epoch(subset, rank, world)) for rank in range(world)]
        joined: list[int] = []
        for step in zip(*ranks, strict=True):
            rows = [[int(r) for r, w in zip(b.row_ids, b.weights, strict=True) if w > 0] for b in step]
            joined += [rows[i % world][i // world] for i in range(sum(map(len, rows)))]
        assert joined == alone


def test_epochs_and_seeds_differ_and_repeat(table: RowTable) -> None:
    rows = np.arange(ROWS)
    one = real_rows(make(table).epoch(Subset(0, rows)))
    assert real_rows(make(table).epoch(Subset(0, rows))) == one
    assert real_rows(make(table).epoch(Subset(1, rows))) != one
    assert real_rows(make(table, seed=2).epoch(Subset(0, rows))) != one


@settings(max_examples=40, deadline=None)
@given(
    row_ids=subsets,
    batch=st.integers(1, 40),
    worlds=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    data=st.data(),
)
def test_it_goes_on_at_a_global_offset_with_any_number_of_workers(
    table: RowTable, row_ids: Int64Array, batch: int, worlds: list[int], data: st.DataObject
) -> None:
    """Each number of workers makes some steps and stops; the last one goes to the end."""
    subset, offset, done = Subset(0, row_ids), 0, []
    noise: dict[int, float] = {}
    for i, world in enumerate(worlds):
        ranks = [list(make(table, global_batch=batch).epoch(subset, rank, world, offset)) for rank in range(world)]
        steps = len(ranks[0]) if i == len(worlds) - 1 else data.draw(st.integers(0, len(ranks[0])))
        for batches in ranks:
            done += real_rows(iter(batches[:steps]))
            for b in batches[:steps]:
                noise.update(zip(b.row_ids.tolist(), b["noise"].tolist(), strict=True))
        offset = ranks[0][steps - 1].offset if steps else offset
    assert sorted(done) == row_ids.tolist()
    # What is random about a row does not depend on who made it and when.
    alone = {int(r): float(x) for b in make(table).epoch(subset) for r, x in zip(b.row_ids, b["noise"], strict=True)}
    assert noise == alone


@settings(max_examples=40, deadline=None)
@given(row_ids=subsets, batch=st.integers(1, 40), window=st.integers(1, 20))
def test_only_rows_of_the_subset_are_made_and_only_their_row_groups_read_once(
    table: RowTable, row_ids: Int64Array, batch: int, window: int
) -> None:
    feed = make(table, global_batch=batch, window=window)
    list(feed.epoch(Subset(0, row_ids)))
    assert feed.rows_made == len(row_ids)
    starts = table.block_starts()
    assert feed.table.groups_read == len(np.unique(np.searchsorted(starts, row_ids, side="right")))


def test_bytes_of_unwanted_row_groups_and_columns_stay_where_they_are(table: RowTable) -> None:
    whole, part = make(table), make(table)
    list(whole.epoch(Subset(0, np.arange(ROWS))))
    list(part.epoch(Subset(0, np.arange(16))))
    assert whole.table.groups_read == 15
    assert part.table.groups_read == 1
    assert 0 < part.table.bytes_read < whole.table.bytes_read / 10


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_reading_too(table: RowTable, world: int) -> None:
    feeds = [make(table, global_batch=80, window=15) for _ in range(world)]
    for rank, feed in enumerate(feeds):
        list(feed.epoch(Subset(0, np.arange(ROWS)), rank, world))
    assert sum(feed.table.groups_read for feed in feeds) < 15 * (1 + world / 2)


def test_no_more_than_two_windows_are_held(table: RowTable, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = RowTable.read

    def counted(self: RowTable, row_ids: Int64Array, columns: list[str]) -> pa.Table:
        read.append(len(row_ids))
        return original(self, row_ids, columns)

    monkeypatch.setattr(RowTable, "read", counted)
    batches = make(table, global_batch=4, window=2, prefetch=2).epoch(Subset(0, np.arange(ROWS)))
    seen = 0
    for batch in batches:
        seen += len(batch.row_ids)
        time.sleep(0.002)
        # What was read and not yet handed out: at most two windows of two groups, and a batch each of queue and maker.
        assert sum(read) - seen <= 2 * 32 + 4 * 4
    assert len(read) == 8


def test_errors_in_the_reader_thread_reach_the_training_loop(table: RowTable) -> None:
    feed = make(table, prefetch=2)
    with pytest.raises(InputError, match="wanted rows"):
        list(feed.epoch(Subset(0, np.array([5, ROWS + 7]))))


def test_stopping_early_ends_the_threads(table: RowTable) -> None:
    before = set(threading.enumerate())
    batches = make(table, global_batch=4, prefetch=2).epoch(Subset(0, np.arange(ROWS)))
    next(batches)
    assert {t.name for t in set(threading.enumerate()) - before} == {"coevo-feed"}
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert set(threading.enumerate()) <= before


def test_prefetching_changes_nothing(table: RowTable) -> None:
    subset = Subset(0, np.arange(ROWS), np.linspace(0.5, 1.5, ROWS).astype(np.float32))
    for a, b in zip(make(table).epoch(subset, 1, 2), make(table, prefetch=3).epoch(subset, 1, 2), strict=True):
        assert np.array_equal(a.row_ids, b.row_ids)
        assert torch.equal(a.weights, b.weights)
        assert torch.equal(a.tensors["noise"], b.tensors["noise"])


def test_an_empty_subset_is_refused(table: RowTable) -> None:
    with pytest.raises(InputError, match="no rows"):
        make(table).epoch(Subset(0, np.zeros(0, dtype=np.int64)))


def test_a_pool_can_be_read_in_place(tmp_path: Path, table: RowTable) -> None:
    """A table pickles into workers without its open files."""
    import pickle

    again = pickle.loads(pickle.dumps(table))
    assert again.read(np.array([3]), ["x"]).column("x").to_pylist() == [6]


def test_batches_go_to_another_device_in_order(table: RowTable) -> None:
    """The `meta` device has no values: what comes with them tells the batches apart."""
    subset = Subset(0, np.arange(ROWS))
    before = set(threading.enumerate())
    here = list(make(table).epoch(subset, 1, 2))
    feed = make(table, prefetch=2)
    feed.device = torch.device("meta")
    there = list(feed.epoch(subset, 1, 2))
    for a, b in zip(here, there, strict=True):
        assert (a.row_ids.tolist(), a.offset, a.global_rows) == (b.row_ids.tolist(), b.offset, b.global_rows)
        assert list(a.tensors) == list(b.tensors)
        for one, other in zip((a.weights, *a.tensors.values()), (b.weights, *b.tensors.values()), strict=True):
            assert (other.device.type, other.shape, other.dtype) == ("meta", one.shape, one.dtype)
    assert set(threading.enumerate()) <= before
