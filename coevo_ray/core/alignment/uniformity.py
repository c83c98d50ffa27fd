"""Uniformity of unit vectors: a measure of how evenly a prior spreads samples over the sphere."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import FloatArray
from coevo_ray.errors import InputError, UsageError

# Rows of a tile: its pairs take 16 MB in float32, whatever the number of rows.
_TILE_ROWS = 2048


def uniformity(vectors: FloatArray, t: float = 2.0) -> float:
    """Computes V = log mean_{i != j} exp(-t ||u_i - u_j||^2); lower is more uniform, 0 if all rows are equal.

    The uniformity loss of Wang & Isola 2020 (arXiv 2005.10242); CoOpt (arXiv 2505.14117) chooses the reference prior by
    it (docs/design.md#encoding-uniformity). Computed tile by tile: time grows with the square of the rows, memory does
    not.

    Args:
        vectors: float[s, n], rows of unit length.
        t: sharpness of the Gaussian potential, > 0.

    Returns:
        V, at most 0.

    Raises:
        InputError: there are fewer than 2 rows, or values are not finite.
        UsageError: t is not positive.

    Examples:
        >>> round(uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])), 3)  # opposite rows: -t * 2^2
        -8.0
    """
    if t <= 0:
        raise UsageError(f"t = {t:g}", "need t > 0; 2 is usual")
    if vectors.ndim != 2 or len(vectors) < 2:
        raise InputError(f"uniformity needs 2 rows or more, have shape {vectors.shape}", "give a larger shared set")
    if not np.isfinite(vectors).all():
        raise InputError("vectors hold NaN or infinite values", "reject such rows before measuring uniformity")
    u = vectors if vectors.dtype == np.float64 else vectors.astype(np.float32)
    starts = range(0, len(u), _TILE_ROWS)
    logs = [_log_sum(u, i, j, t) for i in starts for j in starts if i <= j]
    return float(np.logaddexp.reduce(logs) - np.log(len(u)) - np.log(len(u) - 1))


def _log_sum(u: FloatArray, i: int, j: int, t: float) -> float:
    """Computes the log of a tile's sum; a tile off the diagonal counts for its mirror image too."""
    a, b = u[i : i + _TILE_ROWS], u[j : j + _TILE_ROWS]
    exponent = a @ b.T
    exponent *= 2 * t
    exponent -= t * np.einsum("ij,ij->i", a, a)[:, None]
    exponent -= t * np.einsum("ij,ij->i", b, b)[None, :]
    np.minimum(exponent, 0, out=exponent)  # rounding can make a distance of zero negative
    if i == j:
        np.fill_diagonal(exponent, -np.inf)
    highest = float(exponent.max())
    if highest == -np.inf:  # the last tile may hold a single row: no pair
        return -np.inf
    exponent -= highest
    total = float(np.exp(exponent, out=exponent).sum(dtype=np.float64))
    return highest + float(np.log(total)) + (0.0 if i == j else float(np.log(2)))
