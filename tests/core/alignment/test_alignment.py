from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import coevo_ray.core.alignment.alignment as module
from coevo_ray.core.alignment.alignment import align, few_rows_warning, fit_alignment, identity_alignment
from coevo_ray.errors import InputError, UsageError

Method = Literal["ridge", "procrustes"]

Array = npt.NDArray[np.floating]


def unit(rows: int, columns: int, seed: int = 0) -> Array:
    vectors = np.random.Generator(np.random.PCG64(seed)).standard_normal((rows, columns))
    made: Array = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return made


def rotation(n: int, seed: int) -> Array:
    return np.linalg.qr(np.random.Generator(np.random.PCG64(seed)).standard_normal((n, n)))[0]


def noisy_pair(rows: int, n: int, noise: float, seed: int = 0) -> tuple[Array, Array]:
    source = unit(rows, n, seed)
    target = source @ rotation(n, seed + 1).T + noise * unit(rows, n, seed + 2)
    return source, (target / np.linalg.norm(target, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("rows", [5, 60])
def test_ridge_equals_the_normal_equations(ridge: float, rows: int) -> None:
    source, target = noisy_pair(rows, 7, 0.5)
    x, y = source.astype(np.float64), target.astype(np.float64)
    # X (X'X + ridge I)^-1, solved column by column of the target.
    expected = np.stack([np.linalg.solve(x.T @ x + ridge * np.eye(7), x.T @ y[:, c]) for c in range(7)])
    got = fit_alignment(source, target, ridges=[ridge])
    assert got.ridge == ridge
    np.testing.assert_allclose(got.matrix, expected, atol=1e-4 if ridge < 0.01 else 1e-6)


def test_ridge_is_where_the_gradient_vanishes() -> None:
    source, target = noisy_pair(40, 6, 0.7)
    fitted = fit_alignment(source, target, ridges=[0.5])
    matrix = torch.tensor(fitted.matrix, dtype=torch.float64, requires_grad=True)
    x, y = torch.tensor(source, dtype=torch.float64), torch.tensor(target, dtype=torch.float64)
    loss = ((x @ matrix.T - y) ** 2).sum() + 0.5 * (matrix**2).sum()
    (gradient,) = torch.autograd.grad(loss, matrix)
    assert float(gradient.abs().max()) < 1e-5


def test_ridge_is_the_best_on_held_out_rows_and_r2_is_theirs() -> None:
    source, target = noisy_pair(50, 8, 1.5, seed=4)
    ridges = (1e-4, 0.1, 1.0, 10.0)
    fitted = fit_alignment(source, target, ridges=ridges, holdout=0.3, seed=5)
    held = module.held_out(module._hash_values(source, target, 5), 0.3)
    assert held.sum() == 15
    x, y = source.astype(np.float64), target.astype(np.float64)
    mean = y[~held].mean(axis=0)
    r2 = {}
    for ridge in ridges:
        matrix = np.linalg.solve(x[~held].T @ x[~held] + ridge * np.eye(8), x[~held].T @ y[~held]).T
        residual = sum(float(np.sum((matrix @ x[i] - y[i]) ** 2)) for i in np.flatnonzero(held))
        total = sum(float(np.sum((y[i] - mean) ** 2)) for i in np.flatnonzero(held))
        r2[ridge] = 1 - residual / total
    assert fitted.r2 == pytest.approx(max(r2.values()), abs=1e-9)
    assert fitted.ridge == max(r2, key=lambda r: r2[r])
    assert fitted.rows == 50


def test_procrustes_is_orthogonal_and_no_rotation_beats_it() -> None:
    source, target = noisy_pair(60, 5, 0.5)
    matrix = fit_alignment(source, target, method="procrustes").matrix.astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-5)

    def loss(candidate: Array) -> float:
        return float(np.sum((source @ candidate.T - target) ** 2))

    best = loss(matrix)
    for seed in range(20):
        assert best < loss(rotation(5, seed))
        nearby = np.linalg.qr(matrix + 0.05 * rotation(5, seed))[0]
        nearby *= np.sign(np.sum(nearby * matrix, axis=0))  # QR may flip columns
        assert best <= loss(nearby)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 24), st.integers(0, 10_000), st.sampled_from(["ridge", "procrustes"]))
def test_a_rotated_copy_of_the_reference_aligns(n: int, seed: int, method: Method) -> None:
    reference = unit(4 * n + 10, n, seed)
    copy = (reference @ rotation(n, seed + 1)).astype(np.float32)
    fitted = fit_alignment(copy, reference, method=method, seed=seed)
    assert fitted.r2 > 0.999
    np.testing.assert_allclose(align(copy, fitted.matrix), reference, atol=5e-3)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(30)), st.sampled_from(["ridge", "procrustes"]))
def test_order_of_rows_does_not_matter(order: list[int], method: Method) -> None:
    source, target = noisy_pair(30, 4, 1.0)
    one = fit_alignment(source, target, method=method, seed=3)
    other = fit_alignment(source[order], target[order], method=method, seed=3)
    assert other.ridge == one.ridge
    assert other.r2 == pytest.approx(one.r2, abs=1e-9)
    np.testing.assert_allclose(other.matrix, one.matrix, atol=1e-6)


def test_with_row_ids_rounding_does_not_change_who_is_held_out() -> None:
    source, target = noisy_pair(200, 4, 1.0)
    noise = np.random.default_rng(0).normal(scale=1e-4, size=source.shape).astype(np.float32)
    ids = np.arange(200) * 7
    one = fit_alignment(source, target, row_ids=ids)
    other = fit_alignment(source + noise, target, row_ids=ids)
    assert other.r2 == pytest.approx(one.r2, abs=1e-3)
    order = np.random.default_rng(1).permutation(200)
    assert fit_alignment(source[order], target[order], row_ids=ids[order]).r2 == pytest.approx(one.r2, abs=1e-9)


def test_held_out_rows_follow_the_seed() -> None:
    source, target = noisy_pair(200, 4, 1.0)
    draws = np.stack([module.held_out(module._hash_values(source, target, seed), 0.2) for seed in range(50)])
    assert (draws.sum(axis=1) == 40).all()
    # Every row is held out about one time in five: the hash does not favour any.
    assert 0.1 < draws.mean(axis=0).mean() < 0.3
    assert draws.mean(axis=0).max() < 0.6
    assert len({draw.tobytes() for draw in draws}) == 50


def test_unrelated_priors_score_low_and_a_constant_one_zero() -> None:
    assert fit_alignment(unit(100, 8, 0), unit(100, 8, 1)).r2 < 0.1
    constant = np.repeat(unit(1, 8), 100, axis=0)
    assert fit_alignment(unit(100, 8), constant).r2 == 0.0
    assert fit_alignment(constant, unit(100, 8)).r2 < 0.1


def test_fewer_rows_than_dimensions_still_fit() -> None:
    fitted = fit_alignment(unit(4, 16, 0), unit(4, 16, 1))
    assert fitted.rows == 4
    assert np.isfinite(fitted.matrix).all()
    assert np.isfinite(fitted.r2)


def test_reference_is_its_own_identity() -> None:
    identity = identity_alignment(6)
    u = unit(10, 6)
    assert (identity.r2, identity.ridge, identity.method) == (1.0, 0.0, "identity")
    np.testing.assert_allclose(align(u, identity.matrix), u, atol=1e-6)


def test_align_is_the_matrix_times_each_row() -> None:
    u, matrix = unit(5, 4), np.random.Generator(np.random.PCG64(2)).standard_normal((4, 4)).astype(np.float32)
    got = align(u, matrix)
    assert got.dtype == np.float32
    for i in range(5):
        row = np.array([sum(float(matrix[r, c]) * float(u[i, c]) for c in range(4)) for r in range(4)])
        np.testing.assert_allclose(got[i], row / np.linalg.norm(row), atol=1e-5)
    assert align(np.zeros((0, 4), np.float32), matrix).shape == (0, 4)
    assert align(u.astype(np.float16), matrix).dtype == np.float32


def test_few_rows_warn() -> None:
    assert few_rows_warning(256, 128) is None
    warning = few_rows_warning(255, 128)
    assert warning is not None
    assert "256" in warning
    assert "255" in warning


def test_bad_input_is_refused() -> None:
    u = unit(8, 4)
    with pytest.raises(InputError, match="4 shared rows or more, has 3"):
        fit_alignment(u[:3], u[:3])
    with pytest.raises(InputError, match="shape"):
        fit_alignment(u, u[:, :3])
    with pytest.raises(InputError, match="NaN"):
        fit_alignment(u, np.full_like(u, np.nan))
    with pytest.raises(InputError, match="4 columns"):
        align(unit(3, 5), identity_alignment(4).matrix)
    with pytest.raises(InputError, match="no direction"):
        align(u, np.zeros((4, 4), np.float32))
    for ridges, holdout in (((), 0.2), ((0.0,), 0.2), ((1.0,), 0.0), ((1.0,), 1.0)):
        with pytest.raises(UsageError, match="need ridges > 0"):
            fit_alignment(u, u, ridges=ridges, holdout=holdout)
    with pytest.raises(UsageError, match="unknown alignment method"):
        fit_alignment(u, u, method="cca")  # type: ignore[arg-type]  # what a caller without type checks may pass
