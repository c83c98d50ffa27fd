from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.pool import splits
from coevo_ray.pool.pool import TEST, TRAIN, Pool
from coevo_ray.pool.splits import assign_splits
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location


@given(
    forced=st.lists(st.sampled_from([-1, -1, TRAIN, TEST]), max_size=60),
    first=st.integers(0, 10**9),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**64),
)
def test_the_held_out_rows_are_those_that_choose_rows_takes(
    forced: list[int], first: int, fraction: float, seed: int
) -> None:
    given_splits = np.array(forced, dtype=np.int8)
    free = np.flatnonzero(given_splits < 0).astype(np.int64)
    expected = np.where(given_splits < 0, TRAIN, given_splits)
    expected[choose_rows(free + first, round(fraction * len(free)), seed) - first] = TEST
    result = assign_splits(given_splits, first, fraction, seed)
    assert result.dtype == np.int8
    assert result.tolist() == expected.tolist()


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    forced = np.where(np.arange(1000) % 7, -1, TRAIN).astype(np.int8)
    whole = assign_splits(forced, 5, 0.3, 1)
    monkeypatch.setattr(splits, "_CHUNK", 64)
    assert assign_splits(forced, 5, 0.3, 1).tolist() == whole.tolist()
    assert (whole == TEST).sum() == round(0.3 * (forced < 0).sum())


def test_training_rows_are_told_from_the_splits_of_their_range_alone(tmp_path: Path) -> None:
    split = np.random.default_rng(0).integers(0, 2, 50).astype(np.int8)
    place = Location.parse(str(tmp_path))
    entries = [
        write_table(place, f"{i}.parquet", pa.table({"row_id": rows, "split": split[rows]}), 5)
        for i, rows in enumerate(np.array_split(np.arange(50), 2))
    ]
    finish(place, "pool", {}, {}, entries, {})
    pool = Pool(place)
    for rows in (np.arange(50), np.array([31, 12, 13]), np.array([44]), np.zeros(0, dtype=np.int64)):
        pool.groups_read = 0
        assert pool.in_training(rows).tolist() == np.isin(rows, pool.train_ids()).tolist()
        spanned = len(np.unique(np.arange(rows.min(), rows.max() + 1) // 5)) if len(rows) else 0
        assert pool.groups_read == spanned
