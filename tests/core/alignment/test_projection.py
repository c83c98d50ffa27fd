from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.alignment.projection import finite_rows, normalise, project, projection_matrix
from coevo_ray.errors import InputError, UsageError

Array = npt.NDArray[np.floating]


def gaussian(rows: int, columns: int, seed: int = 0) -> Array:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((rows, columns)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_matrix_is_orthonormal_on_its_shorter_side(dim_in: int, dim_out: int, seed: int) -> None:
    matrix = projection_matrix(dim_in, dim_out, seed)
    assert matrix.shape == (dim_in, dim_out)
    assert matrix.dtype == np.float32
    gram = matrix.T @ matrix if dim_in >= dim_out else matrix @ matrix.T
    np.testing.assert_allclose(gram, np.eye(min(dim_in, dim_out)), atol=1e-5)
    assert np.array_equal(matrix, projection_matrix(dim_in, dim_out, seed))


def test_matrix_is_pinned_and_follows_the_seed() -> None:
    # Written down once, so that a change of NumPy's streams or of the signs cannot go unseen.
    expected = [[0.14891146, -0.29584643], [0.7584992, 0.64637184], [-0.63443226, 0.70333373]]
    np.testing.assert_allclose(projection_matrix(3, 2, 0), expected, atol=1e-6)
    assert not np.allclose(projection_matrix(8, 4, 0), projection_matrix(8, 4, 1), atol=0.1)


def test_columns_are_spread_evenly_over_the_sphere() -> None:
    # Without the fixed signs, QR gives a first coordinate of one sign only.
    firsts = np.array([projection_matrix(4, 2, seed)[0, 0] for seed in range(200)])
    assert 60 < int((firsts > 0).sum()) < 140


def test_projection_equals_loops() -> None:
    features, matrix = gaussian(5, 7), projection_matrix(7, 3, 1)
    got = project(features, matrix)
    for i in range(5):
        row = [sum(float(features[i, d]) * float(matrix[d, c]) for d in range(7)) for c in range(3)]
        norm = sum(v * v for v in row) ** 0.5
        np.testing.assert_allclose(got[i], [v / norm for v in row], atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 6), st.floats(1e-30, 1e30))
def test_projection_ignores_order_shards_and_scale(order: list[int], cut: int, scale: float) -> None:
    features, matrix = gaussian(6, 9, 3), projection_matrix(9, 4, 2)
    whole = project(features, matrix)
    np.testing.assert_allclose(project(features[order], matrix), whole[order], atol=1e-6)
    parts = np.concatenate([project(features[:cut], matrix), project(features[cut:], matrix)])
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_allclose(project(features * np.float32(scale), matrix), whole, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_gives_unit_float32_rows(dtype: type[np.floating]) -> None:
    got = project(gaussian(4, 6).astype(dtype), projection_matrix(6, 3, 0))
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_bad_rows_are_marked_and_refused() -> None:
    features = gaussian(7, 5).astype(np.float64)
    features[0] = 0
    features[2, 1] = np.nan
    features[3, 4] = -np.inf
    features[5, 0] = 1e300  # finite here, infinite in float32
    features[6] = [0, 0, 1e-20, 0, 0]
    assert finite_rows(features).tolist() == [False, True, False, False, True, False, True]
    matrix = projection_matrix(5, 3, 0)
    with pytest.raises(InputError, match="4 of 7 feature rows are zero, NaN or infinite"):
        project(features, matrix)
    assert np.isfinite(project(features[finite_rows(features)], matrix)).all()


def test_no_rows_give_no_rows() -> None:
    assert project(np.zeros((0, 5), np.float32), projection_matrix(5, 3, 0)).shape == (0, 3)
    assert finite_rows(np.zeros((0, 5), np.float32)).shape == (0,)


def test_wrong_shapes_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="6 columns, the projection needs 5"):
        project(gaussian(2, 6), projection_matrix(5, 3, 0))
    with pytest.raises(InputError, match="shape"):
        finite_rows(np.zeros(5, np.float32))
    with pytest.raises(InputError, match="1 of 2 vectors"):
        normalise(np.array([[1, 0], [0, 0]], np.float32))
    for dim_in, dim_out, seed in ((0, 2, 0), (2, 0, 0), (2, 2, -1)):
        with pytest.raises(UsageError):
            projection_matrix(dim_in, dim_out, seed)
