"""Doubt as version 0.1.0 defined it; evidence that it began goes on with it, and benchmarks compare with it.

Mistakes are counted where a class is least probable, so that confusions of similar classes are not seen.
"""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, IntArray

_ANCHORS = 0.1  # share of the rows, those where a class is least probable, at which it counts as absent
_FEWEST = 100


def mistake_rates(probabilities: FloatArray, labels: IntArray) -> Float64Array:
    """Estimates how often rows get each class as a label by mistake: its share where it is least probable.

    Args:
        probabilities: float[n, C], of probes that were not fitted on the row.
        labels: int[n], 0 or above.

    Returns:
        float64[C] in [0, 1]; 0 below 1 000 rows.
    """
    return np.array([_mistakes(probabilities[:, c], labels == c) for c in range(probabilities.shape[1])])


def former_doubt(probabilities: FloatArray, labels: IntArray, rates: FloatArray) -> Float32Array:
    """Computes min(1, mistake rate of the label / its probability).

    Args:
        probabilities: float[n, C], of probes that were not fitted on the row.
        labels: int[n], 0 or above.
        rates: float[C], see `mistake_rates`.

    Returns:
        float32[n] in [0, 1].
    """
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    doubt: Float32Array = np.minimum(rates[labels] / np.maximum(own, 1e-12), 1.0).astype(np.float32)
    return doubt


def _mistakes(likely: FloatArray, labelled: BoolArray) -> float:
    """Returns the share of rows with a class's label where the class is least probable."""
    anchors = round(_ANCHORS * len(likely))
    if anchors < _FEWEST:
        return 0.0
    edge = np.partition(likely, anchors - 1)[anchors - 1]
    return float(labelled[likely <= edge].mean())
