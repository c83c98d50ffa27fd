"""Irreducible loss: what of a row's loss no training on other rows takes away (docs/design.md#irreducible-loss)."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, FloatArray, IntArray
from coevo_ray.errors import InputError

_LEAST = 1e-7  # smallest probability of a label: float32 has none between it and 0 beside 1


def irreducible_loss(probabilities: FloatArray, labels: IntArray) -> Float32Array:
    """Computes the cross-entropy of labels under predictions by probes that were not fitted on their rows.

    The irreducible loss of RHO-LOSS (Mindermann et al. 2022, arXiv 2206.07137, equation 3), with cross-fitted probes in
    place of a model of a held-out set.

    Args:
        probabilities: float[n, C], see `core.probes.label_doubt.cross_fitted`.
        labels: int[n] in 0..C-1.

    Returns:
        float32[n], nats, from 0 to 16.2.

    Raises:
        InputError: shapes differ, or a label is outside.
    """
    rows, classes = probabilities.shape
    if len(labels) != rows or (rows and not 0 <= labels.min() <= labels.max() < classes):
        raise InputError(f"{len(labels)} labels for probabilities of {rows} rows, {classes} classes", "give one each")
    own = probabilities[np.arange(rows), labels].astype(np.float64)
    losses: Float32Array = -np.log(np.clip(own, _LEAST, 1.0)).astype(np.float32)
    return losses
