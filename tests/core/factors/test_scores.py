"""Factors and scores against loops, and invariant to shards, rows' order and the order of a row's codes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.factors.scores import (
    count_factors,
    diversity,
    factor_frequencies,
    rank_normalise,
    representativeness,
    shares,
    strongest_factor,
)
from coevo_ray.errors import InputError

LATENTS = 12
Indices = npt.NDArray[np.int32]
Values = npt.NDArray[np.float32]


@st.composite
def codes(draw: st.DrawFn) -> tuple[Indices, Values]:
    """Distinct indices in a row; some values are 0 or equal."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, k = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    indices = np.stack([random.permutation(LATENTS)[:k] for _ in range(n)]).astype(np.int32)
    values = random.choice(np.array([0.0, 0.0, 0.5, 1.0, 2.5], dtype=np.float32), (n, k))
    return indices, values


def as_dicts(indices: Indices, values: Values) -> list[dict[int, float]]:
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    return [{j: v for j, v in zip(i, a, strict=True) if v > 0} for i, a in pairs]


def frequencies(indices: Indices, values: Values) -> npt.NDArray[np.float64]:
    return factor_frequencies(count_factors(indices, values, LATENTS), len(indices))


def slow_diversity(row: dict[int, float], p: list[float], quantile: float, covered: list[int]) -> float:
    edge = float(np.quantile([x for x in p if x > 0], quantile))
    total = 0.0
    for j, value in row.items():
        if 0 < p[j] <= edge:
            total += value / sum(row.values()) * math.log(1 / p[j]) / (1 + covered[j])
    return total


@settings(deadline=None)
@given(codes(), st.integers(0, 30))
def test_counts_are_loops_and_add_up_over_shards(code: tuple[Indices, Values], cut: int) -> None:
    indices, values = code
    expected = [0] * LATENTS
    for row in as_dicts(indices, values):
        for j in row:
            expected[j] += 1
    counts = count_factors(indices, values, LATENTS)
    assert counts.tolist() == expected and counts.dtype == np.int64
    parts = [count_factors(indices[a], values[a], LATENTS) for a in (slice(cut), slice(cut, None))]
    assert np.array_equal(parts[0] + parts[1], counts)
    assert frequencies(indices, values).tolist() == [count / len(indices) for count in expected]


@settings(deadline=None)
@given(codes(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans())
def test_scores_are_the_formulas(code: tuple[Indices, Values], quantile: float, with_covered: bool) -> None:
    indices, values = code
    p = frequencies(indices, values)
    covered = np.arange(LATENTS) % 3 if with_covered else np.zeros(LATENTS, dtype=np.int64)
    r = representativeness(indices, values, p)
    d = diversity(indices, values, p, quantile, covered if with_covered else None)
    assert r.dtype == d.dtype == np.float32
    for i, row in enumerate(as_dicts(indices, values)):
        slow = sum(v / sum(row.values()) * p[j] for j, v in row.items())
        assert r[i] == pytest.approx(slow, abs=1e-6)
        wanted = slow_diversity(row, p.tolist(), quantile, covered.tolist()) if row else 0.0
        assert d[i] == pytest.approx(wanted, abs=1e-5)


@settings(deadline=None)
@given(codes(), st.integers(0, 1000))
def test_nothing_depends_on_the_order_of_rows_or_codes(code: tuple[Indices, Values], seed: int) -> None:
    indices, values = code
    generator = np.random.default_rng(seed)
    rows, columns = generator.permutation(len(indices)), generator.permutation(indices.shape[1])
    mixed = indices[rows][:, columns], values[rows][:, columns]
    p = frequencies(indices, values)
    assert np.array_equal(frequencies(*mixed), p)
    assert np.allclose(representativeness(*mixed, p), representativeness(indices, values, p)[rows], atol=1e-6)
    assert np.allclose(diversity(*mixed, p), diversity(indices, values, p)[rows], atol=1e-6)
    assert np.array_equal(strongest_factor(*mixed), strongest_factor(indices, values)[rows])


@settings(deadline=None)
@given(codes())
def test_strongest_factor_has_the_largest_value_and_the_lowest_index(code: tuple[Indices, Values]) -> None:
    strongest = strongest_factor(*code)
    assert strongest.dtype == np.int32
    expected = [min(row, key=lambda j: (-row[j], j)) if row else -1 for row in as_dicts(*code)]
    assert strongest.tolist() == expected


def test_shares_sum_to_one_or_zero() -> None:
    values = np.array([[1, 3], [0, 0], [2, 0]], dtype=np.float32)
    assert shares(values).tolist() == [[0.25, 0.75], [0, 0], [1, 0]]


def test_dead_factors_alone_give_no_diversity() -> None:
    indices, values = np.zeros((3, 1), dtype=np.int32), np.ones((3, 1), dtype=np.float32)
    assert diversity(indices, values, np.zeros(LATENTS)).tolist() == [0, 0, 0]
    assert strongest_factor(indices, np.zeros((3, 1), dtype=np.float32)).tolist() == [-1, -1, -1]


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=40))
def test_ranks_are_mean_ranks_scaled_to_one(values: list[int]) -> None:
    ranks = rank_normalise(np.array(values, dtype=np.float32))
    ordered = sorted(values)
    for value, rank in zip(values, ranks.tolist(), strict=True):
        places = [i for i, other in enumerate(ordered) if other == value]
        assert rank == pytest.approx(sum(places) / len(places) / (len(values) - 1), abs=1e-6)
    assert ranks.dtype == np.float32 and ranks.min() >= 0 and ranks.max() <= 1


def test_ranks_of_few_rows() -> None:
    assert rank_normalise(np.array([3.0], dtype=np.float32)).tolist() == [0.0]
    assert len(rank_normalise(np.zeros(0, dtype=np.float32))) == 0
    assert rank_normalise(np.array([2.0, 1.0, 5.0], dtype=np.float32)).tolist() == [0.5, 0.0, 1.0]


@pytest.mark.parametrize("index", [-1, LATENTS])
def test_codes_of_another_model_are_refused(index: int) -> None:
    with pytest.raises(InputError, match=f"{index} to {index}"):
        count_factors(np.array([[index]], dtype=np.int32), np.ones((1, 1), dtype=np.float32), LATENTS)


def test_frequencies_need_rows() -> None:
    with pytest.raises(InputError, match="0 rows"):
        factor_frequencies(np.zeros(LATENTS, dtype=np.int64), 0)
