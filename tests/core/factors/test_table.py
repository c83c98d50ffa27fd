"""The factor table against loops, and invariant to shards, rows' order and retries of shards."""

from __future__ import annotations

import functools
import operator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.factors import table as factor_table
from coevo_ray.core.factors.table import FactorTable
from coevo_ray.errors import InputError

LATENTS, TOP = 9, 3
Codes = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]


@st.composite
def codes(draw: st.DrawFn) -> Codes:
    """row_ids in any order, distinct factors in a row; many equal values, some 0, some that float16 rounds."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, k = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    row_ids = random.permutation(200)[:n].astype(np.int64)
    indices = np.stack([random.permutation(LATENTS)[:k] for _ in range(n)]).astype(np.int32)
    values = random.choice(np.array([0.0, 0.3333333, 0.5, 1.0, 2.50001, 1e-9], dtype=np.float32), (n, k))
    return row_ids, indices, values


def slow_top(code: Codes, factor: int) -> list[tuple[float, int]]:
    pairs = [
        (float(np.float16(v)), int(row))
        for row, js, vs in zip(*code, strict=True)
        for j, v in zip(js, vs, strict=True)
        if j == factor and np.float16(v) > 0
    ]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


def same(a: FactorTable, b: FactorTable) -> bool:
    arrays = ("counts", "sums", "top_values", "top_rows")
    equal = (np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays)
    return a.rows == b.rows and all(equal)


@given(codes())
def test_the_table_is_what_loops_give(code: Codes) -> None:
    table = FactorTable.measure(*code, LATENTS, TOP)
    assert table.rows == len(code[0])
    for factor in range(LATENTS):
        pairs = slow_top(code, factor)
        assert table.counts[factor] == len(pairs)
        assert table.sums[factor] == sum(value for value, _ in pairs)
        assert table.frequencies[factor] == len(pairs) / table.rows
        assert table.mean_values[factor] == (sum(v for v, _ in pairs) / len(pairs) if pairs else 0)
        rows, values = table.top(factor)
        assert list(zip(values.tolist(), rows.tolist(), strict=True)) == pairs[:TOP]
        assert table.top(factor, 1)[0].tolist() == [row for _, row in pairs[:1]]


@given(codes(), st.lists(st.integers(0, 40), max_size=5), st.integers(0, 1000))
def test_shards_their_order_and_the_rows_order_change_nothing(code: Codes, cuts: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    order = random.permutation(len(code[0]))
    pieces = [piece for piece in np.split(order, sorted(min(c, len(order)) for c in cuts)) if len(piece)]
    shards = [FactorTable.measure(code[0][p], code[1][p], code[2][p], LATENTS, TOP) for p in pieces]
    total = functools.reduce(operator.add, shards, FactorTable.empty(LATENTS, TOP))
    assert same(total, FactorTable.measure(*code, LATENTS, TOP))
    tree = [a + b for a, b in zip(shards[::2], shards[1::2], strict=False)] + shards[len(shards) // 2 * 2 :]
    assert same(functools.reduce(operator.add, tree[::-1]), total)


def test_very_many_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    row_ids, indices = np.arange(1000), random.integers(0, LATENTS, (1000, 1)).astype(np.int32)
    values = random.choice([0.5, 1.0], (1000, 1)).astype(np.float32)
    whole = FactorTable.measure(row_ids, indices, values, LATENTS, TOP)
    monkeypatch.setattr(factor_table, "_MOST_ROWS", 256)
    assert same(FactorTable.measure(row_ids, indices, values, LATENTS, TOP), whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_codes_that_float16_cannot_hold_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        FactorTable.measure(np.arange(1), np.zeros((1, 1), np.int32), np.full((1, 1), value, np.float32), 2, 1)


def test_codes_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match="codes of 2 latents"):
        FactorTable.measure(np.arange(1), np.full((1, 1), 2, np.int32), np.ones((1, 1), np.float32), 2, 1)
