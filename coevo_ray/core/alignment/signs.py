"""Signs of directions: eigenvectors have none of their own, and libraries return either."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array

# Entries this near to the largest count as largest. Priors that reach a latent equally well have equal entries up to
# rounding, often of opposite signs; the largest alone would then turn a direction with the last bits of a sum.
_NEAR = 1e-3


def with_fixed_signs(directions: Float64Array) -> Float64Array:
    """Turns directions so that the first of each one's largest entries is positive.

    Args:
        directions: float64[d, n], one a column.

    Returns:
        float64[d, n].

    Examples:
        >>> with_fixed_signs(np.array([[-0.70710, 0.1], [0.70711, -0.9]])).round(1).tolist()
        [[0.7, -0.1], [-0.7, 0.9]]
    """
    sizes = np.abs(directions)
    first = (sizes >= (1 - _NEAR) * sizes.max(axis=0, initial=0)).argmax(axis=0)
    leading = np.take_along_axis(directions, first[None], axis=0)
    turned: Float64Array = np.where(leading < 0, -directions, directions)
    return turned
