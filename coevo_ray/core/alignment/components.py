"""Leading principal components of a prior's features on the shared set: what a contribution keeps of them.

Of a prior's features only what varies over the shared set can be told apart there. Components keep it in the fewest
columns; docs/design.md#consensus says what a random projection costs beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.alignment.moments import Moments
from coevo_ray.core.alignment.signs import with_fixed_signs
from coevo_ray.core.arrays import Float32Array, FloatArray
from coevo_ray.errors import InputError, UsageError

# Directions with less than this share of the largest variance are rounding.
_RANK = 1e-7


@dataclass(frozen=True, eq=False)
class Components:
    """A map from a prior's features to its leading components.

    Attributes:
        mean: float32[d], of the features on the shared set.
        directions: float32[d, c]; components have mean square 1 on the shared set, over all of them.
        explained: share of the features' variance that they keep, 0 to 1.
        rows: rows of the shared set that they were fitted to.
    """

    mean: Float32Array
    directions: Float32Array
    explained: float
    rows: int


def fit_components(moments: Moments, count: int) -> Components:
    """Fits the leading principal components.

    Args:
        moments: of the prior's features on the shared set.
        count: number of components wanted; fewer come where the features, or the rows, have not as many.

    Returns:
        The map; signs of directions are those of `with_fixed_signs`.

    Raises:
        InputError: there are fewer than 4 rows, or the features are constant.
        UsageError: the count is below 1.
    """
    if count < 1:
        raise UsageError(f"{count} components", "ask for 1 or more")
    if moments.count < 4:
        raise InputError(f"components need 4 shared rows or more, have {moments.count}", "enlarge the shared set")
    values, vectors = np.linalg.eigh(moments.covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    floor = _RANK * max(float(values[0]), 1e-12 * float(np.sum(moments.mean**2)))
    rank = int(np.sum(values > floor)) if values[0] > 0 else 0
    kept = min(count, rank, moments.count - 1)
    if kept < 1:
        raise InputError(
            f"the features are constant on {moments.count} shared rows",
            "are these samples all the same? If not, check the prior's weights and preprocessing, or leave it out",
        )
    directions = with_fixed_signs(vectors[:, :kept] / np.sqrt(values[:kept].mean()))
    explained = float(values[:kept].sum() / values.sum())
    return Components(moments.mean.astype(np.float32), directions.astype(np.float32), explained, moments.count)


def to_components(features: FloatArray, components: Components) -> Float32Array:
    """Computes the components of features.

    Args:
        features: float[b, d].
        components: a fitted map.

    Returns:
        float32[b, c].

    Raises:
        InputError: the features have another number of columns.
    """
    if features.ndim != 2 or features.shape[1] != len(components.mean):
        raise InputError(
            f"features have shape {features.shape}, the components need {len(components.mean)} columns",
            "use the components that were fitted to this prior",
        )
    centred: Float32Array = features.astype(np.float32, copy=False) - components.mean
    return centred @ components.directions
