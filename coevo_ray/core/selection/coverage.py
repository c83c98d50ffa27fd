"""Coverage of factors by random rows, beside which that of a policy is shown (`coevo-ray plan`)."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Int64Array


def random_coverage(sizes: Int64Array, rows: int, drawn: int) -> float:
    """Returns the mean share of factors that random rows, drawn without replacement, have.

    A factor of n rows out of N is missed by b drawn ones with probability C(N - n, b) / C(N, b).

    Args:
        sizes: int64[factors], rows of each factor, above 0.
        rows: N.
        drawn: b, at most N.

    Examples:
        >>> random_coverage(np.array([1, 2]), rows=4, drawn=2)
        0.666666...
    """
    if len(sizes) == 0:
        return 0.0
    # The product of (N - b - i) / (N - i) over i < n, for every n up to the largest; 0 once a factor is too large.
    most = int(sizes.max())
    steps = np.arange(most)
    missed = np.cumprod(np.maximum(rows - drawn - steps, 0) / (rows - steps))
    return float((1.0 - missed[sizes - 1]).mean())
