"""Factors and scores from SAE codes (arXiv 2603.04981; DESIGN section 5.2).

Codes of n rows are `indices` int32[n, k] and `values` float32[n, k] >= 0; a value of 0 is no activity.
"""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float16Array, Float32Array, Float64Array, Int32Array, Int64Array
from coevo_ray.errors import InputError


def count_factors(indices: Int32Array, values: Float32Array | Float16Array, latents: int) -> Int64Array:
    """Rows in which each factor is active, int64[latents]; counts of shards add up.

    Raises:
        InputError: an index is outside the latents.
    """
    active = indices[values > 0]
    if active.size and (active.min() < 0 or active.max() >= latents):
        raise InputError(
            f"factors {active.min()} to {active.max()} in codes of {latents} latents", "the codes belong to another SAE"
        )
    return np.bincount(active, minlength=latents).astype(np.int64)


def factor_frequencies(counts: Int64Array, rows: int) -> Float64Array:
    """p_j: share of rows in which factor j is active, float64[latents].

    Raises:
        InputError: there are no rows.
    """
    if rows < 1:
        raise InputError(f"frequencies over {rows} rows", "score at least one row")
    return counts / rows


def shares(values: Float32Array) -> Float32Array:
    """a_ij: values normalised to sum 1 in each row, float32[n, k]; rows without activity stay 0."""
    total = values.sum(axis=1, keepdims=True)
    normalised: Float32Array = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    return normalised


def representativeness(indices: Int32Array, values: Float32Array, p: Float64Array) -> Float32Array:
    """R_i = sum_j a_ij p_j, float32[n]: rows made of frequent factors come first (D5.2; p float64[latents])."""
    result: Float32Array = (shares(values) * p[indices]).sum(axis=1).astype(np.float32)
    return result


def diversity(
    indices: Int32Array,
    values: Float32Array,
    p: Float64Array,
    rare_quantile: float = 0.5,
    covered: Int64Array | None = None,
) -> Float32Array:
    """D_i = sum over rare j of a_ij log(1 / p_j), float32[n] (arXiv 2603.04981, D5.2).

    Args:
        indices, values: codes.
        p: frequencies; factors with p = 0 are dead and count nowhere.
        rare_quantile: factors up to this quantile of the living ones' p are rare.
        covered: int64[latents], how often a trajectory has covered each factor; its term is divided by 1 + covered.
    """
    alive = p > 0
    if not alive.any():
        return np.zeros(len(indices), dtype=np.float32)
    rare = alive & (p <= np.quantile(p[alive], rare_quantile))
    worth = np.where(rare, -np.log(np.where(alive, p, 1.0)), 0.0)
    if covered is not None:
        worth = worth / (1.0 + covered)
    result: Float32Array = (shares(values) * worth[indices]).sum(axis=1).astype(np.float32)
    return result


def rank_normalise(x: Float32Array) -> Float32Array:
    """Ranks scaled to [0, 1], float32[n]; equal values share their mean rank, a single value gets 0."""
    if len(x) < 2:
        return np.zeros(len(x), dtype=np.float32)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts + 1) / 2.0
    return (mean_rank[inverse] / (len(x) - 1)).astype(np.float32)


def strongest_factor(indices: Int32Array, values: Float32Array) -> Int32Array:
    """The factor with the largest value in each row, int32[n]; -1 where nothing is active.

    Among equal values the lowest index wins, so that the order of a row's codes does not matter.
    """
    best = values.max(axis=1, initial=0.0)
    none = np.iinfo(np.int32).max
    strongest = np.where(values == best[:, None], indices, none).min(axis=1, initial=none)
    return np.where(best > 0, strongest, -1).astype(np.int32)
