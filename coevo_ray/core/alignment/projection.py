"""Random projection of a prior's features to the common dimension (CoOpt, arXiv 2505.14117).

Formulas: docs/design.md#encoding-projection.
"""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, FloatArray
from coevo_ray.errors import InputError, UsageError


def projection_matrix(dim_in: int, dim_out: int, seed: int) -> Float32Array:
    """Draws the fixed matrix W_k of a participant (CoOpt, arXiv 2505.14117; docs/design.md#encoding-projection).

    Columns are orthonormal if dim_in >= dim_out, else rows are, so that a projection distorts distances little.
    Computed by QR of a Gaussian matrix with R's diagonal made positive, which makes Q unique: the matrix depends on the
    seed alone, up to rounding in the last bit.

    Args:
        dim_in: dimension of the prior's features, d_k.
        dim_out: common dimension, n.
        seed: seed of the draw, not negative.

    Returns:
        float32[dim_in, dim_out].

    Raises:
        UsageError: a dimension is below 1 or the seed is negative.

    Examples:
        >>> w = projection_matrix(1280, 128, seed=0)
        >>> bool(np.allclose(w.T @ w, np.eye(128), atol=1e-5))
        True
    """
    if dim_in < 1 or dim_out < 1 or seed < 0:
        raise UsageError(f"dimensions {dim_in} x {dim_out}, seed {seed}", "need dimensions >= 1 and seed >= 0")
    random = np.random.Generator(np.random.PCG64(seed))
    gaussian = random.standard_normal((max(dim_in, dim_out), min(dim_in, dim_out)))
    orthonormal, triangular = np.linalg.qr(gaussian)
    orthonormal *= np.where(np.diag(triangular) < 0, -1.0, 1.0)
    matrix = orthonormal if dim_in >= dim_out else orthonormal.T
    return np.ascontiguousarray(matrix, dtype=np.float32)


def finite_rows(features: FloatArray) -> BoolArray:
    """Marks rows that can be projected: all values finite in float32, and not all of them zero.

    Args:
        features: float[b, d].

    Returns:
        bool[b].

    Raises:
        InputError: features are not a matrix.
    """
    x = _matrix(features)
    usable: BoolArray = np.isfinite(x).all(axis=1) & (x != 0).any(axis=1)
    return usable


def project(features: FloatArray, matrix: Float32Array) -> Float32Array:
    """Computes u_k(x) = normalise(psi_k(x) W_k) (CoOpt, arXiv 2505.14117; docs/design.md#encoding-projection).

    Args:
        features: float[b, d_k].
        matrix: float32[d_k, n] from `projection_matrix`.

    Returns:
        float32[b, n], rows of unit L2 norm.

    Raises:
        InputError: shapes do not fit, or rows are zero, NaN or infinite; `finite_rows` marks the others.
    """
    x = _matrix(features)
    if x.shape[1] != matrix.shape[0]:
        raise InputError(
            f"features have {x.shape[1]} columns, the projection needs {matrix.shape[0]}",
            "project with the matrix that was made for this prior's dimension",
        )
    bad = len(x) - int(finite_rows(x).sum())
    if bad:
        raise InputError(
            f"{bad} of {len(x)} feature rows are zero, NaN or infinite",
            "reject the rows that finite_rows does not mark before projecting",
        )
    return normalise(_scaled(x) @ matrix)


def unit_features(features: FloatArray) -> Float32Array:
    """Scales features to unit length, so that outliers neither overflow nor rule their components.

    Args:
        features: float[b, d].

    Returns:
        float32[b, d].

    Raises:
        InputError: rows are zero, NaN or infinite.
    """
    return normalise(_scaled(_matrix(features)))


def normalise(vectors: Float32Array) -> Float32Array:
    """Scales rows to unit L2 norm.

    Args:
        vectors: float32[b, n].

    Returns:
        float32[b, n].

    Raises:
        InputError: rows are zero or not finite; the message has their count.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = int(np.sum(~(np.isfinite(norms) & (norms > 0))))
    if bad:
        raise InputError(
            f"{bad} of {len(vectors)} vectors are zero or not finite and have no direction",
            "check the prior's features: a collapsed or broken encoder gives such rows",
        )
    unit: Float32Array = (vectors / norms).astype(np.float32, copy=False)
    return unit


def _scaled(x: Float32Array) -> Float32Array:
    """Rows over their largest value, which keeps the squares of huge or tiny features inside float32."""
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled: Float32Array = x / np.abs(x).max(axis=1, keepdims=True)
    return scaled


def _matrix(features: FloatArray) -> Float32Array:
    if features.ndim != 2:
        raise InputError(f"features have shape {features.shape}", "give one row per sample: float[b, d]")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is found as such
        return features.astype(np.float32, copy=False)
