"""A consensus of priors: one latent that all of them reach, and each prior's map to it.

The latent is that of MAXVAR generalised canonical correlation analysis (Kettenring 1971; Carroll 1968) over the priors'
components on the shared set; each prior is regressed onto it with a ridge chosen on held-out rows. It replaces the
random projection and the reference prior of CoOpt (arXiv 2505.14117), on which several priors are worse than one:
docs/design.md#consensus has both, with figures. All of it follows from moments of the shared rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from coevo_ray.core.alignment.moments import Moments, add_moments
from coevo_ray.core.alignment.signs import with_fixed_signs
from coevo_ray.core.arrays import Float32Array, Float64Array
from coevo_ray.errors import InputError

# Relative to the mean variance of a prior's components. Between 0, where every component counts alike (canonical
# correlations; noise is fitted), and infinity, where variance alone counts (principal components of all priors). Chosen
# among 0.3, 3 and 30 on tiny_imagenet and banking77, which hardly differ in it.
SHRINK = 3.0
# Relative to the mean variance of a prior's components.
RIDGES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_SUREST = 0.98  # a larger R^2 counts as this one, so that no prior has infinite weight
_LEAST_WEIGHT = 0.02
_RANK = 1e-9  # of the largest eigenvalue; less is rounding
_FLOOR = 1e-4  # of a covariance's largest eigenvalue, below which directions are not recoloured


@dataclass(frozen=True, eq=False)
class Latent:
    """The consensus: a linear function of all priors' components.

    A dimension's variance on the shared set is its eigenvalue, so that what the priors agree on counts for more.

    Attributes:
        mean: float64[sum of c_k], of all components on the shared set.
        matrix: float64[sum of c_k, n]; g = (z - mean) matrix.
        colour: float64[n, n], the covariance that every prior's targets are given.
    """

    mean: Float64Array
    matrix: Float64Array
    colour: Float64Array


@dataclass(frozen=True, eq=False)
class PriorMap:
    """A prior's map to the latent.

    Attributes:
        matrix: float32[c, n]; a target's direction is z matrix + offset.
        offset: float32[n].
        r2: R^2 of the regression onto the latent, on held-out rows, the latent fitted without them.
        ridge: chosen ridge, relative to the components' mean variance.
        weight: R^2 / (1 - R^2), the precision with which the prior reaches the latent: its weight in a row's mean.
        rows: shared rows of the fit.
    """

    matrix: Float32Array
    offset: Float32Array
    r2: float
    ridge: float
    weight: float
    rows: int


@dataclass(frozen=True, eq=False)
class Consensus:
    """The latent, and the maps of all priors in their order."""

    latent: Latent
    priors: tuple[PriorMap, ...]


def fit_consensus(fit: Moments, held: Moments, widths: Sequence[int], dim: int, shrink: float = SHRINK) -> Consensus:
    """Fits a latent of all priors, and each prior's map to it.

    It is fitted twice: the second time, priors count by how well they reached the first latent, so that a weak one does
    not take a share of it.

    Args:
        fit: moments of all priors' components side by side, float[sum of c_k], on most of the shared rows.
        held: the same on the rows held out to choose ridges and to measure.
        widths: c_k of each prior.
        dim: n of the latent.
        shrink: see `SHRINK`.

    Returns:
        Maps fitted to all shared rows; `r2` is of the held-out ones.

    Raises:
        InputError: there are too few shared rows or components for n dimensions.
    """
    _check(fit, held, widths, dim)
    ends = np.cumsum([0, *widths])
    parts = [slice(a, b) for a, b in pairwise(ends)]
    every = add_moments([fit, held])
    weights = np.ones(len(parts))
    part_of = _fit_latent(fit, parts, weights, dim, shrink)
    chosen = [_choose_ridge(fit, held, part_of, part) for part in parts]
    precision = np.array([_precision(r2) for _, r2 in chosen])
    weights = np.maximum(precision / precision.max(), _LEAST_WEIGHT)
    if (weights != 1.0).any():  # of a lone prior, and of equal ones, the second fit would be the first
        part_of = _fit_latent(fit, parts, weights, dim, shrink)
        chosen = [_choose_ridge(fit, held, part_of, part) for part in parts]
    whole = _fit_latent(every, parts, weights, dim, shrink)
    maps = [_regress(every, whole, part, ridge) for part, (ridge, _) in zip(parts, chosen, strict=True)]
    precision = np.array([_precision(r2) for _, r2 in chosen])
    covariances = [m.T @ every.covariance[part, part] @ m for m, part in zip(maps, parts, strict=True)]
    colour: Float64Array = np.average(covariances, axis=0, weights=precision)
    latent = Latent(whole.mean, whole.matrix, colour)
    done = [
        _finish(every, latent, part, m, *ridge_and_r2)
        for part, m, ridge_and_r2 in zip(parts, maps, chosen, strict=True)
    ]
    return Consensus(latent, tuple(done))


def fit_late_prior(fit: Moments, held: Moments, latent: Latent) -> PriorMap:
    """Regresses a prior that comes later onto the latent that is there.

    Args:
        fit: moments of the latent's components and, after them, of the new prior's, on most of the shared rows.
        held: the same on held-out rows.
        latent: the latent.

    Returns:
        The new prior's map.

    Raises:
        InputError: there are too few shared rows.
    """
    old = len(latent.mean)
    _check(fit, held, [len(fit.mean)], 1)
    wide = Latent(
        np.concatenate([latent.mean, np.zeros(len(fit.mean) - old)]),
        np.concatenate([latent.matrix, np.zeros((len(fit.mean) - old, latent.matrix.shape[1]))]),
        latent.colour,
    )
    part = slice(old, len(fit.mean))
    ridge, r2 = _choose_ridge(fit, held, wide, part)
    every = add_moments([fit, held])
    return _finish(every, wide, part, _regress(every, wide, part, ridge), ridge, r2)


def quality_shares(precisions: Sequence[float], passes: int = 1) -> tuple[float, ...]:
    """Shares of the pool by what priors are worth.

    With one pass a row the best prior gets all rows: rows of several priors beside one another cost accuracy, and the
    others' knowledge is in the latent already (docs/design.md#consensus has figures). Of level ones the first counts.

    Args:
        precisions: `PriorMap.weight` of each prior.
        passes: priors that encode a row. Beyond one, shares are those of `prior_worth`.

    Returns:
        One number for each prior, 0 to 1, the best one's 1.
    """
    if passes > 1:
        return prior_worth(precisions)
    best = max(range(len(precisions)), key=lambda place: precisions[place])
    return tuple(float(place == best) for place in range(len(precisions)))


def prior_worth(precisions: Sequence[float]) -> tuple[float, ...]:
    """The worth of priors beside the best one: 1 for it, 0 for those below half of its precision, linear between.

    Rounded, so that the last bits of a fit do not move rows.

    Args:
        precisions: `PriorMap.weight` of each prior.
    """
    best = max(precisions)
    return tuple(round(max(0.0, 2 * p / best - 1), 3) for p in precisions)


def to_latent(components: Float32Array, prior: PriorMap) -> Float32Array:
    """Maps a prior's components float[b, c] into the latent, float32[b, n], of any length."""
    mapped: Float32Array = components.astype(np.float32, copy=False) @ prior.matrix + prior.offset
    return mapped


def _check(fit: Moments, held: Moments, widths: Sequence[int], dim: int) -> None:
    rows, columns = fit.count + held.count, sum(widths)
    if fit.count < 3 or held.count < 1:
        raise InputError(f"a consensus needs 4 shared rows or more, has {rows}", "enlarge the shared set")
    if columns < dim or fit.count - 1 < dim:
        raise InputError(
            f"a latent of {dim} dimensions needs as many components and {dim + 1} shared rows besides the held-out "
            f"ones; there are {columns} components and {fit.count} rows",
            "enlarge the shared set, or lower encode.dim"
            if columns >= dim
            else f"lower encode.dim to {columns} or less: the priors tell no more apart on the shared set",
        )


def _fit_latent(moments: Moments, parts: Sequence[slice], weights: Float64Array, dim: int, shrink: float) -> Latent:
    """The leading eigenvectors of the priors' shrunk whitened components."""
    covariance = moments.covariance
    white = np.zeros_like(covariance)
    for part, weight in zip(parts, weights, strict=True):
        block = covariance[part, part]
        size = np.trace(block) / len(block)
        white[part, part] = np.sqrt(weight) * _power(block + shrink * size * np.eye(len(block)), -0.5)
    values, vectors = np.linalg.eigh(white @ covariance @ white)
    # In one piece: NumPy multiplies a reversed view without BLAS, 80 times as slowly.
    values, vectors = values[::-1][:dim], np.ascontiguousarray(vectors[:, ::-1][:, :dim])
    if values[-1] <= _RANK * values[0]:
        raise InputError(
            f"the priors' components have rank {int(np.sum(values > _RANK * values[0]))} on the shared set, a latent "
            f"of {dim} dimensions needs {dim}",
            "enlarge the shared set, or lower encode.dim",
        )
    return Latent(moments.mean, with_fixed_signs(white @ vectors), np.eye(dim))


def _choose_ridge(fit: Moments, held: Moments, latent: Latent, part: slice) -> tuple[float, float]:
    """The ridge with the best R^2 on held-out rows, and that R^2."""
    second = held.about(fit.mean)
    # About the mean of the fit, whatever the latent's own mean is: both sides are centred on it.
    total = float(np.trace(latent.matrix.T @ second @ latent.matrix))
    best = (RIDGES[0], -np.inf)
    for ridge in RIDGES:
        m = _regress(fit, latent, part, ridge)
        cross = m.T @ second[part] @ latent.matrix
        left = total - 2 * float(np.trace(cross)) + float(np.trace(m.T @ second[part, part] @ m))
        r2 = 1 - left / total if total > 0 else 0.0
        if r2 > best[1]:
            best = (ridge, r2)
    return best


def _regress(moments: Moments, latent: Latent, part: slice, ridge: float) -> Float64Array:
    """Ridge regression of the latent on one prior's components, float64[c, n]."""
    block = moments.covariance[part, part]
    damped = block + ridge * np.trace(block) / len(block) * np.eye(len(block))
    solved: Float64Array = np.linalg.solve(damped, moments.covariance[part] @ latent.matrix)
    return solved


def _finish(moments: Moments, latent: Latent, part: slice, matrix: Float64Array, ridge: float, r2: float) -> PriorMap:
    """Recolours a map: ridges shrink each prior's targets in their own way, which would tell priors apart."""
    recoloured = matrix @ _transport(matrix.T @ moments.covariance[part, part] @ matrix, latent.colour)
    offset = -moments.mean[part] @ recoloured
    return PriorMap(recoloured.astype(np.float32), offset.astype(np.float32), r2, ridge, _precision(r2), moments.count)


def _transport(source: Float64Array, target: Float64Array) -> Float64Array:
    """The symmetric map that turns covariance `source` into `target` and moves rows least (optimal transport)."""
    root, inverse = _power(source, 0.5), _power(source, -0.5)
    made: Float64Array = inverse @ _power(root @ target @ root, 0.5) @ inverse
    return made


def _power(symmetric: Float64Array, exponent: float) -> Float64Array:
    values, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
    values = np.maximum(values, max(_FLOOR * values[-1], np.finfo(np.float64).tiny))
    raised: Float64Array = (vectors * values**exponent) @ vectors.T
    return raised


def _precision(r2: float) -> float:
    bounded = min(max(r2, 0.0), _SUREST)
    return max(bounded / (1 - bounded), 1e-3)
