"""Sets of rows as bits."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coevo_ray.core.rows import chunks
from coevo_ray.core.rows.row_set import RowSet, Subset, ids_of
from coevo_ray.errors import InputError


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 70), data=st.data())
def test_a_row_set_is_a_set(monkeypatch: pytest.MonkeyPatch, size: int, data: st.DataObject) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 16)
    one, other = (data.draw(st.sets(st.integers(0, size - 1))) for _ in range(2))
    first, second = (RowSet.from_ids(np.array(sorted(rows), dtype=np.int64), size) for rows in (one, other))
    assert first.ids().tolist() == sorted(one) and len(first) == len(one)
    assert np.flatnonzero(first.flags()).tolist() == sorted(one)
    assert first.intersection(second).ids().tolist() == sorted(one & other)
    assert first.issubset(second) == (one <= other)
    assert (first == second) == (one == other)
    ids = np.arange(-2, size + 9)
    assert first.contains(ids).tolist() == [row in one for row in ids.tolist()]
    parts = [first.ids(chunk).tolist() for chunk in (chunks.Chunk(0, min(16, size)), chunks.Chunk(16, max(16, size)))]
    assert parts[0] + parts[1] == sorted(one)
    assert [first.ids_between(low, low + 9).tolist() for low in range(-10, size + 2)] == [
        sorted(one & set(range(low, low + 9))) for low in range(-10, size + 2)
    ]
    assert first.ranks(np.arange(-1, size + 2)).tolist() == [sum(r < row for r in one) for row in range(-1, size + 2)]
    assert first.without(second.flags).ids().tolist() == sorted(one - other)
    joined = RowSet(first.bits.copy(), size)
    joined.update(second)
    assert joined.ids().tolist() == sorted(one | other) and len(joined) == len(one | other)
    first.add(np.array(sorted(other), dtype=np.int64))
    assert first.ids().tolist() == sorted(one | other) and len(first) == len(one | other)
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64])
def test_everything_holds_all_rows(size: int) -> None:
    assert RowSet.full(size).ids().tolist() == list(range(size))
    assert RowSet.full(size) == RowSet.from_flags(np.ones(size, dtype=bool))


def test_wrong_bits_and_rows_are_refused() -> None:
    with pytest.raises(InputError, match="9 rows"):
        RowSet(np.zeros(1, dtype=np.uint8), 9)
    with pytest.raises(InputError, match="after the last"):
        RowSet(np.array([0, 0x40], dtype=np.uint8), 9)
    for ids in ([-1], [9], [3, 3]):
        with pytest.raises(InputError, match="distinct rows of 9"):
            RowSet.from_ids(np.array(ids), 9)


def test_a_pickled_subset_costs_a_bit_per_row_of_the_pool_even_after_a_look_at_its_rows() -> None:
    rows = np.arange(0, 80_000, 2)
    subset = Subset(3, RowSet.from_ids(rows, 80_000))
    assert np.array_equal(subset.row_ids, rows) and len(subset) == 40_000
    packed = pickle.dumps(subset)
    assert len(packed) < 10_400
    again = pickle.loads(packed)
    assert again.epoch == 3 and again.weights is None and np.array_equal(again.row_ids, rows)


def test_a_subset_of_row_ids_keeps_them_and_its_weights() -> None:
    subset = pickle.loads(pickle.dumps(Subset(0, np.array([2, 5]), np.array([1.0, 2.0], dtype=np.float32))))
    assert subset.row_ids.tolist() == [2, 5] and ids_of(subset.rows).tolist() == [2, 5]
    assert subset.weights.tolist() == [1.0, 2.0]
