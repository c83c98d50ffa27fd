"""The feed's contract (DESIGN section 5.5)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.epoch_plan import Subset
from coevo_ray.errors import InputError
from coevo_ray.store.artifact import finish, write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.feed import Batch, Feed

ROWS = 230


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RowTable:
    place = Location.parse(str(tmp_path_factory.mktemp("feed")))
    files = []
    for i, part in enumerate(np.array_split(np.arange(ROWS), 3)):
        files.append(write_table(place, f"{i}.parquet", pa.table({"row_id": part, "x": part * 2}), group_rows=16))
    finish(place, "numbers", {}, {}, files, {})
    return RowTable(place)


def transform(rows: pa.Table, random: np.random.Generator) -> dict[str, torch.Tensor]:
    return {"x": torch.from_numpy(rows.column("x").to_numpy()), "noise": torch.from_numpy(random.random(len(rows)))}


def make(table: RowTable, *, global_batch: int = 16, window: int = 3, prefetch: int = 0, seed: int = 1) -> Feed:
    return Feed(table, ["x"], transform, global_batch=global_batch, seed=seed, window_blocks=window, prefetch=prefetch)


def real_rows(batches: Iterator[Batch]) -> list[int]:
    return [int(r) for b in batches for r, w in zip(b.row_ids, b.weights, strict=True) if w > 0]


subsets = st.sets(st.integers(0, ROWS - 1), min_size=1).map(lambda s: np.array(sorted(s), dtype=np.int64))


@settings(max_examples=40, deadline=None)
@given(row_ids=subsets, world=st.integers(1, 5), batch=st.integers(1, 40), epoch=st.integers(0, 3))
def test_ranks_share_the_subset_without_gap_or_double(
    table: RowTable, row_ids: np.ndarray[tuple[int], np.dtype[np.int64]], world: int, batch: int, epoch: int
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
        joined = []
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


@pytest.mark.parametrize("worlds", [(1, 1), (2, 3), (4, 1)])
def test_it_goes_on_at_a_global_offset_with_any_number_of_workers(table: RowTable, worlds: tuple[int, int]) -> None:
    before, after = worlds
    subset = Subset(0, np.arange(ROWS))
    done: list[int] = []
    offset = 0
    for rank in range(before):
        for step, batch in enumerate(make(table).epoch(subset, rank, before)):
            if step == 5:
                break
            done += real_rows(iter([batch]))
            offset = batch.offset
    rest = [r for rank in range(after) for r in real_rows(make(table).epoch(subset, rank, after, start=offset))]
    assert Counter(done + rest) == Counter(range(ROWS))


def test_augmentation_repeats_after_a_restart(table: RowTable) -> None:
    subset = Subset(3, np.arange(ROWS))
    whole = list(make(table).epoch(subset))
    later = list(make(table).epoch(subset, start=whole[4].offset))
    for a, b in zip(whole[5:], later, strict=True):
        assert torch.equal(a.tensors["noise"], b.tensors["noise"])


def test_only_rows_of_the_subset_are_made(table: RowTable) -> None:
    feed = make(table, global_batch=8)
    list(feed.epoch(Subset(0, np.arange(0, ROWS, 5))))
    assert feed.rows_made == len(range(0, ROWS, 5))


def test_each_row_group_is_read_about_once(table: RowTable, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    read: Counter[int] = Counter()
    original = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, i: int, **options: object) -> pa.Table:
        read[id(self) * 1000 + i] += 1
        return original(self, i, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    list(make(table, global_batch=8).epoch(Subset(0, np.arange(ROWS))))
    assert sum(read.values()) <= 2 * len(read)


def test_errors_in_the_reader_thread_reach_the_training_loop(table: RowTable) -> None:
    feed = make(table, prefetch=2)
    with pytest.raises(InputError, match="wanted rows"):
        list(feed.epoch(Subset(0, np.array([5, ROWS + 7]))))


def test_stopping_early_ends_the_reader_thread(table: RowTable) -> None:
    batches = make(table, global_batch=4, prefetch=2).epoch(Subset(0, np.arange(ROWS)))
    next(batches)
    assert any(t.name == "coevo-feed" for t in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]  # a generator
    deadline = time.monotonic() + 5
    while any(t.name == "coevo-feed" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(t.name == "coevo-feed" for t in threading.enumerate())


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
