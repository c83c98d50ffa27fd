"""Factor statistics and row scores from SAE codes (arXiv 2603.04981; docs/design.md#factor-scores).

Codes of n rows are `indices` int32[n, k] and `values` float32[n, k] >= 0; a value of 0 means no activity.
"""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float16Array, Float32Array, Float64Array, Int32Array, Int64Array
from coevo_ray.errors import InputError


def count_factors(indices: Int32Array, values: Float32Array | Float16Array, latents: int) -> Int64Array:
    """Counts the rows in which each factor is active; counts of shards add up.

    Args:
        indices: int32[n, k].
        values: float[n, k] >= 0.
        latents: m.

    Returns:
        int64[m].

    Raises:
        InputError: an index is outside 0..m-1.

    Examples:
        >>> indices = np.array([[0, 2], [2, 1]], dtype=np.int32)
        >>> values = np.array([[1.0, 0.5], [2.0, 0.0]], dtype=np.float32)
        >>> count_factors(indices, values, latents=3).tolist()
        [1, 0, 2]
    """
    active = indices[values > 0]
    if active.size and (active.min() < 0 or active.max() >= latents):
        raise InputError(
            f"factors {active.min()} to {active.max()} in codes of {latents} latents", "the codes belong to another SAE"
        )
    return np.bincount(active, minlength=latents).astype(np.int64)


def factor_frequencies(counts: Int64Array, rows: int) -> Float64Array:
    """Computes p_j, the share of rows in which factor j is active: float64[m] from counts int64[m].

    Raises:
        InputError: there are no rows.
    """
    if rows < 1:
        raise InputError(f"frequencies over {rows} rows", "score at least one row")
    return counts / rows


def shares(values: Float32Array) -> Float32Array:
    """Computes a_ij, values float32[n, k] scaled to sum 1 in each row; rows without activity stay 0."""
    total = values.sum(axis=1, keepdims=True)
    normalised: Float32Array = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    return normalised


def representativeness(indices: Int32Array, values: Float32Array, p: Float64Array) -> Float32Array:
    """Computes R_i = sum_j a_ij p_j: higher for rows made of frequent factors.

    arXiv 2603.04981 (docs/design.md#factor-scores).

    Args:
        indices, values: codes int32[n, k] and float32[n, k].
        p: float64[m], frequencies of the factors.

    Returns:
        float32[n] in [0, 1].

    Examples:
        >>> indices, values = np.array([[0, 1]], dtype=np.int32), np.array([[3.0, 1.0]], dtype=np.float32)
        >>> representativeness(indices, values, p=np.array([0.8, 0.4])).tolist()  # 3/4 * 0.8 + 1/4 * 0.4
        [0.699999988079071]
    """
    result: Float32Array = (shares(values) * p[indices]).sum(axis=1).astype(np.float32)
    return result


def diversity(
    indices: Int32Array,
    values: Float32Array,
    p: Float64Array,
    rare_quantile: float = 0.5,
    covered: Int64Array | None = None,
) -> Float32Array:
    """Computes D_i = sum over rare j of a_ij log(1 / p_j): higher for rows with rare factors.

    arXiv 2603.04981 (docs/design.md#factor-scores).

    Args:
        indices, values: codes int32[n, k] and float32[n, k].
        p: float64[m], frequencies; factors with p = 0 are dead and are ignored.
        rare_quantile: factors up to this quantile of the other factors' p are rare.
        covered: int64[m], times that a trajectory has covered each factor; a factor's term is divided by 1 + covered.

    Returns:
        float32[n] >= 0, in nats.
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
    """Replaces values float32[n] by their ranks, scaled to [0, 1]; ties share their mean rank, a single value gets 0.

    Examples:
        >>> rank_normalise(np.array([5.0, 1.0, 5.0, 9.0], dtype=np.float32)).tolist()
        [0.5, 0.0, 0.5, 1.0]
    """
    if len(x) < 2:
        return np.zeros(len(x), dtype=np.float32)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts + 1) / 2.0
    return (mean_rank[inverse] / (len(x) - 1)).astype(np.float32)


def strongest_factor(indices: Int32Array, values: Float32Array) -> Int32Array:
    """Finds the factor with the largest value in each row: int32[n], -1 for rows without activity.

    The lowest index wins a tie, so that the order of a row's codes does not matter.

    Args:
        indices, values: codes int32[n, k] and float32[n, k].
    """
    largest = values.max(axis=1, initial=0.0)
    none = np.iinfo(np.int32).max
    strongest = np.where(values == largest[:, None], indices, none).min(axis=1, initial=none)
    return np.where(largest > 0, strongest, -1).astype(np.int32)
