"""Sketched ranks: whatever the shards and their order, and as near to exact ranks as they say."""

from __future__ import annotations

import functools
import operator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.factors.rank_sketch import RankSketch
from coevo_ray.core.factors.scores import rank_normalise
from coevo_ray.errors import InputError

Values = npt.NDArray[np.float32]
SIZES = st.floats(0, 2.0**100, width=32)
TIED = st.sampled_from([0.0, -0.0, 1e-45, 0.1, 0.25, 0.25001, 0.25002, 3.0])


def arrays() -> st.SearchStrategy[Values]:
    return st.lists(st.one_of(SIZES, TIED), min_size=1, max_size=60).map(lambda x: np.array(x, dtype=np.float32))


def slow_ranks(values: Values) -> list[float]:
    """Mean rank among all values whose leading 14 bits of mantissa and exponent are the same."""
    cut = [int(np.float32(abs(v)).view(np.uint32)) // 512 for v in values]
    below = [sum(other < mine for other in cut) for mine in cut]
    equal = [sum(other == mine for other in cut) for mine in cut]
    return [(b + (e - 1) / 2) / max(1, len(cut) - 1) for b, e in zip(below, equal, strict=True)]


@given(arrays(), st.lists(st.integers(0, 60), max_size=6))
def test_shards_and_their_order_change_nothing(values: Values, cuts: list[int]) -> None:
    whole = RankSketch.of(values)
    shuffled = values[np.random.default_rng(len(cuts)).permutation(len(values))]
    shards = np.split(shuffled, sorted(min(c, len(values)) for c in cuts))
    total = functools.reduce(operator.add, (RankSketch.of(s) for s in shards), RankSketch.empty())
    for name in ("lowest", "highest", "counts"):
        assert np.array_equal(getattr(total, name), getattr(whole, name)), name
        assert getattr(total, name).dtype == getattr(whole, name).dtype
    assert total.rows == len(values)
    assert np.array_equal(total.ranks(values), whole.ranks(values))


@given(arrays())
def test_ranks_are_the_loop_and_as_near_to_exact_ranks_as_they_say(values: Values) -> None:
    sketch = RankSketch.of(values)
    ranks = sketch.ranks(values)
    assert ranks.dtype == np.float32
    assert np.allclose(ranks, slow_ranks(values), atol=1e-6)
    exact = rank_normalise(np.abs(values))
    assert np.abs(ranks.astype(np.float64) - exact).max() <= sketch.largest_error + 1e-6
    order = np.argsort(np.abs(values), kind="stable")
    assert (np.diff(ranks[order]) >= 0).all()


def test_values_that_bins_do_not_mix_rank_exactly() -> None:
    values = np.array([0.5, 0.5, 0.0, 2.0, 0.5, 1e-30], dtype=np.float32)
    sketch = RankSketch.of(values)
    assert sketch.largest_error == 0
    assert sketch.ranks(values).tolist() == rank_normalise(values).tolist()


def test_the_stated_error_is_reached_and_not_zero() -> None:
    values = np.array([1.0, np.nextafter(np.float32(1), np.float32(2)), 0.0, 5.0, 7.0], dtype=np.float32)
    sketch = RankSketch.of(values)
    assert sketch.largest_error == 0.5 / 4
    assert np.abs(sketch.ranks(values) - rank_normalise(values)).max() == pytest.approx(sketch.largest_error)


def test_bins_do_not_grow_with_the_rows() -> None:
    """A million rows between two powers of two take no more bins than there are."""
    random = np.random.default_rng(0)
    values = (0.5 + random.random(1_000_000) / 2).astype(np.float32)
    sketch = RankSketch.of(values)
    assert len(sketch.counts) <= 16_384 + 1
    assert sketch.largest_error < 1e-4
    assert np.abs(sketch.ranks(values) - rank_normalise(values)).max() <= sketch.largest_error + 1e-6


def test_few_or_no_values() -> None:
    one = np.array([3.0], dtype=np.float32)
    assert RankSketch.of(one).ranks(one).tolist() == [0.0]
    assert RankSketch.empty().rows == 0 and RankSketch.empty().largest_error == 0
    assert len(RankSketch.of(one).ranks(one[:0])) == 0


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_values_that_have_no_rank_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="negative or not finite"):
        RankSketch.of(np.array([1.0, value], dtype=np.float32))


@pytest.mark.parametrize("value", [0.5, 2.0])
def test_values_that_were_not_counted_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="not counted"):
        RankSketch.of(np.array([1.0], dtype=np.float32)).ranks(np.array([value], dtype=np.float32))
