from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.pool import splits
from coevo_ray.pool.pool import TEST, TRAIN
from coevo_ray.pool.splits import assign_splits


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
