from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coevo_ray.core.alignment.uniformity as module
from coevo_ray.core.alignment.uniformity import uniformity
from coevo_ray.errors import InputError, UsageError

Array = npt.NDArray[np.floating]


def unit(rows: int, columns: int, seed: int = 0) -> Array:
    vectors = np.random.Generator(np.random.PCG64(seed)).standard_normal((rows, columns))
    made: Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return made


def oracle(u: Array, t: float) -> float:
    """The formula as it stands, in Python floats."""
    total, pairs = 0.0, 0
    for i in range(len(u)):
        for j in range(len(u)):
            if i != j:
                total += math.exp(-t * sum((float(a) - float(b)) ** 2 for a, b in zip(u[i], u[j], strict=True)))
                pairs += 1
    return math.log(total / pairs)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 14), st.integers(1, 5), st.integers(0, 1000), st.floats(0.1, 6), st.integers(1, 6))
def test_equals_the_double_loop_for_any_tiling(rows: int, columns: int, seed: int, t: float, tile: int) -> None:
    u = unit(rows, columns, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TILE_ROWS", tile)
        assert uniformity(u, t) == pytest.approx(oracle(u, t), abs=1e-5)


def test_more_rows_than_a_tile() -> None:
    u = unit(2050, 3)  # the last tile holds two rows
    gram = u.astype(np.float64) @ u.astype(np.float64).T
    potential = np.exp(-2.0 * (2 - 2 * gram))
    expected = math.log((potential.sum() - np.trace(potential)) / (2050 * 2049))
    assert uniformity(u) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(9)), st.integers(0, 100))
def test_order_and_rotation_do_not_matter(order: list[int], seed: int) -> None:
    u = unit(9, 4, seed)
    rotation = np.linalg.qr(unit(4, 4, seed + 1).astype(np.float64))[0]
    assert uniformity(u[order]) == pytest.approx(uniformity(u), abs=1e-5)
    assert uniformity(u.astype(np.float64) @ rotation) == pytest.approx(uniformity(u), abs=1e-5)


def test_spread_is_lower_than_bunched_and_collapsed_is_zero() -> None:
    spread = unit(500, 16)
    bunched = spread * 0.1 + unit(1, 16, 9)
    bunched = (bunched / np.linalg.norm(bunched, axis=1, keepdims=True)).astype(np.float32)
    assert uniformity(spread) < uniformity(bunched) - 1 < 0
    assert uniformity(np.repeat(unit(1, 16), 50, axis=0)) == pytest.approx(0, abs=1e-5)
    antipodal = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    assert uniformity(antipodal) == pytest.approx(-8, abs=1e-5)


def test_far_points_do_not_underflow() -> None:
    far = np.array([[0.0], [1000.0]])
    assert uniformity(far) == pytest.approx(-2e6)


def test_memory_stays_far_below_all_pairs() -> None:
    u = unit(12_000, 2)
    tracemalloc.start()
    uniformity(u)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12_000**2 * 4 / 8


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="2 rows or more"):
        uniformity(unit(1, 3))
    with pytest.raises(InputError, match="2 rows or more"):
        uniformity(np.zeros(4, np.float32))
    with pytest.raises(InputError, match="NaN"):
        uniformity(np.array([[np.nan], [1.0]]))
    with pytest.raises(UsageError, match="t = 0"):
        uniformity(unit(3, 3), t=0)
