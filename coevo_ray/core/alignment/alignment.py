"""Alignment of a participant's vectors to the reference prior's (CoOpt, arXiv 2505.14117).

Formulas: docs/design.md#encoding-alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coevo_ray.core.alignment.projection import normalise
from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array, UInt64Array
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError

Method = Literal["ridge", "procrustes", "none"]

# Rows are unit vectors, so the eigenvalues of x^T x sum to the number of rows: these ridges range from nearly no
# shrinkage to a strong one at the usual hundreds to thousands of shared rows.
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_LEAST_ROWS = 4  # enough for 1 held-out row and a fit on the others


@dataclass(frozen=True)
class Alignment:
    """A fitted map to the reference prior's space.

    Attributes:
        matrix: float32[n, n], T_k; apply it with `align`.
        ridge: chosen weight of ||T||^2; 0 for procrustes, none and identity.
        r2: R^2 on held-out rows.
        rows: number of shared rows in the final fit, held-out ones included.
        method: ridge, procrustes, none or identity.
    """

    matrix: Float32Array
    ridge: float
    r2: float
    rows: int
    method: str


def fit_alignment(
    source: FloatArray,
    target: FloatArray,
    method: Method = "ridge",
    ridges: Sequence[float] = RIDGES,
    holdout: float = 0.2,
    seed: int = 0,
    row_ids: Int64Array | None = None,
) -> Alignment:
    """Fits T_k = argmin_T sum_x ||T u_k(x) - u_{k*}(x)||^2 + ridge ||T||^2 over the shared rows, in closed form.

    CoOpt, arXiv 2505.14117 (docs/design.md#encoding-alignment). Chooses the ridge with the best R^2 on held-out rows,
    then refits on all rows. "procrustes" restricts T to rotations and reflections (Schonemann 1966); "none" keeps T at
    the identity and only measures. Rows are held out by their ids (or content), not their order.

    Args:
        source: float[s, n], the participant's unit vectors of the shared rows.
        target: float[s, n], the reference prior's, in the same order.
        method: ridge, procrustes or none.
        ridges: candidates, each > 0.
        holdout: share of rows to hold out, in (0, 1).
        seed: seed of the held-out rows.
        row_ids: int64[s], ids of the shared rows, by whose hash rows are held out; None hashes the vectors' values
            instead, whose last bits differ between batch sizes and with them the held-out rows.

    Returns:
        The alignment, matrix float32[n, n]. Its `r2` is 1 - SS_res / SS_tot on the held-out rows, from the fit without
        them, with SS_tot about the mean target of the other rows; 0 where the targets do not vary.

    Raises:
        InputError: there are fewer than 4 rows, shapes differ, or values are not finite.
        UsageError: a setting is out of bounds.
    """
    _check(source, target, method, ridges, holdout)
    x, y = source.astype(np.float64), target.astype(np.float64)
    hashed = _hash_values(source, target, seed) if row_ids is None else hash_rows(row_ids, seed)
    held = held_out(hashed, holdout)
    solvers = {False: _solver(x[~held], y[~held], method), True: _solver(x, y, method)}
    candidates = sorted(ridges) if method == "ridge" else [0.0]
    scores = [_r2(solvers[False](ridge), x[held], y[held], y[~held].mean(axis=0)) for ridge in candidates]
    best = int(np.argmax(scores))
    matrix = solvers[True](candidates[best]).astype(np.float32)
    return Alignment(matrix, float(candidates[best]), scores[best], len(x), method)


def identity_alignment(n: int) -> Alignment:
    """Makes the reference prior's alignment to itself, matrix float32[n, n].

    Args:
        n: common dimension.
    """
    return Alignment(np.eye(n, dtype=np.float32), 0.0, 1.0, 0, "identity")


def align(vectors: FloatArray, matrix: Float32Array) -> Float32Array:
    """Computes targets normalise(T u) (CoOpt, arXiv 2505.14117; docs/design.md#encoding-targets).

    Args:
        vectors: float[b, n], a participant's unit vectors u.
        matrix: float32[n, n], T of its alignment.

    Returns:
        float32[b, n], rows of unit L2 norm.

    Raises:
        InputError: shapes do not fit, or a row has no direction after the map.
    """
    if vectors.ndim != 2 or vectors.shape[1] != matrix.shape[1]:
        raise InputError(
            f"vectors have shape {vectors.shape}, the alignment needs {matrix.shape[1]} columns",
            "align vectors of the dimension that the alignment was fitted with",
        )
    return normalise(vectors.astype(np.float32, copy=False) @ matrix.T)


def few_rows_warning(rows: int, n: int) -> str | None:
    """Returns a warning if there are fewer than 2n shared rows, else None.

    T has n^2 parameters and each shared row gives n equations: below 2n rows the fit has less than two equations a
    parameter.

    Args:
        rows: number of shared rows.
        n: common dimension.
    """
    if rows >= 2 * n:
        return None
    return f"alignment in {n} dimensions wants {2 * n} shared rows or more, has {rows}: enlarge the shared set"


def held_out(hashed: UInt64Array, share: float = 0.2) -> BoolArray:
    """Marks the rows with the lowest hashes, so that their order has no influence.

    Args:
        hashed: uint64[s].
        share: of the rows to mark, in (0, 1).

    Returns:
        bool[s]; at least one row is marked, and at least two are not.
    """
    count = min(max(1, round(share * len(hashed))), len(hashed) - 2)
    held = np.zeros(len(hashed), dtype=bool)
    held[np.argsort(hashed, kind="stable")[:count]] = True
    return held


def _check(
    source: FloatArray,
    target: FloatArray,
    method: str,
    ridges: Sequence[float],
    holdout: float,
) -> None:
    if method not in ("ridge", "procrustes", "none"):
        raise UsageError(f"unknown alignment method {method!r}", "use ridge, procrustes or none")
    if not ridges or min(ridges) <= 0 or not 0 < holdout < 1:
        raise UsageError(f"ridges {tuple(ridges)}, holdout {holdout:g}", "need ridges > 0 and 0 < holdout < 1")
    if source.ndim != 2 or source.shape != target.shape:
        raise InputError(
            f"source has shape {source.shape}, target {target.shape}", "give the same shared rows and dimension of both"
        )
    if len(source) < _LEAST_ROWS:
        raise InputError(
            f"alignment needs {_LEAST_ROWS} shared rows or more, has {len(source)}", "enlarge the shared set"
        )
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise InputError("shared vectors hold NaN or infinite values", "reject such rows before aligning")


def _hash_values(source: FloatArray, target: FloatArray, seed: int) -> UInt64Array:
    """Hashes the rows' values, uint64[s], for rows without ids."""
    pairs = np.concatenate([source, target], axis=1).astype(np.float32) + np.float32(0)  # -0 and 0 are equal
    bits = pairs.view(np.uint32).astype(np.uint64)
    random = np.random.Generator(np.random.PCG64(seed))
    # Sums modulo 2^64 are exact in any order; the multiplications after them mix high bits into low ones (splitmix64).
    hashed = (bits * random.integers(1, 2**63, bits.shape[1], dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: UInt64Array = hashed
    return result


def _solver(x: Float64Array, y: Float64Array, method: Method) -> Callable[[float], Float64Array]:
    """Returns ridge -> T float64[n, n]; all candidates share one eigendecomposition."""
    if method == "none":
        identity = np.eye(x.shape[1])
        return lambda ridge: identity
    cross = y.T @ x
    if method == "procrustes":
        left, _, right = np.linalg.svd(cross)
        rotation = left @ right
        return lambda ridge: rotation
    values, vectors = np.linalg.eigh(x.T @ x)
    values = np.maximum(values, 0)
    rotated = cross @ vectors
    return lambda ridge: (rotated / (values + ridge)) @ vectors.T


def _r2(matrix: Float64Array, x: Float64Array, y: Float64Array, mean: Float64Array) -> float:
    total = float(np.sum((y - mean) ** 2))
    return 1 - float(np.sum((x @ matrix.T - y) ** 2)) / total if total > 0 else 0.0
