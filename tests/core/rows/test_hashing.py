"""Row arithmetic: against splitmix64 in plain integers, and invariant to order and sharding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.rows.hashing import assign_participants, choose_rows, hash_rows
from coevo_ray.errors import InputError

WORD = 2**64
GAMMA = 0x9E3779B97F4A7C15
row_ids = st.lists(st.integers(0, 2**40), unique=True, min_size=1, max_size=60).map(lambda x: np.array(x, np.int64))
seeds = st.integers(-(2**65), 2**65)


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def test_splitmix_oracle_gives_the_published_first_value() -> None:
    assert mix(GAMMA) == 0xE220A8397B1DCDAF  # splitmix64 with state 0


@settings(deadline=None)
@given(row_ids, seeds)
def test_hash_equals_plain_integers(rows: Int64Array, seed: int) -> None:
    offset = mix((seed + GAMMA) % WORD)
    expected = [mix((int(row) * GAMMA + offset) % WORD) for row in rows]
    assert hash_rows(rows, seed).tolist() == expected


@settings(deadline=None)
@given(row_ids, seeds, st.data())
def test_nothing_depends_on_order_or_shards(rows: Int64Array, seed: int, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    cut = data.draw(st.integers(0, len(rows)))
    weights = [0.5, 2.0, 1.0]
    whole = assign_participants(rows, weights, seed)
    shards = [assign_participants(part, weights, seed) for part in (rows[:cut], rows[cut:])]
    assert np.array_equal(np.concatenate(shards), whole)
    assert np.array_equal(assign_participants(rows[order], weights, seed), whole[order])
    assert np.array_equal(choose_rows(rows[order], cut, seed), choose_rows(rows, cut, seed))


@settings(deadline=None)
@given(row_ids, seeds, st.data())
def test_chosen_rows_have_the_smallest_hashes_and_grow_with_the_count(
    rows: Int64Array, seed: int, data: st.DataObject
) -> None:
    more = data.draw(st.integers(0, len(rows)))
    less = data.draw(st.integers(0, more))
    chosen = choose_rows(rows, more, seed)
    by_hash = sorted(rows.tolist(), key=lambda row: (int(hash_rows(np.array([row]), seed)[0]), row))
    assert chosen.tolist() == sorted(by_hash[:more])
    assert chosen.dtype == np.int64
    assert set(choose_rows(rows, less, seed).tolist()) <= set(chosen.tolist())


def test_participants_get_their_shares() -> None:
    rows = np.arange(100_000)
    shares = np.bincount(assign_participants(rows, [1, 2, 5], seed=3)) / len(rows)
    assert np.allclose(shares, [0.125, 0.25, 0.625], atol=0.01)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_participants_are_independent_of_rows_chosen_with_the_same_seed(seed: int) -> None:
    rows = np.arange(4000)
    chosen = choose_rows(rows, 1000, seed)
    share = float((assign_participants(chosen, [1, 1], seed) == 0).mean())
    assert abs(share - 0.5) < 0.1  # more than six standard deviations


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [float("nan")], [float("inf")], [1.0] * 257])
def test_bad_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match="weights"):
        assign_participants(np.arange(3), weights, 0)


@pytest.mark.parametrize("count", [-1, 4])
def test_more_rows_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="3"):
        choose_rows(np.arange(3), count, 0)
