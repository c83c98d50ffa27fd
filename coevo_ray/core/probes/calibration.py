"""Temperature scaling: one number that calibrates a model's probabilities (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, FloatArray, IntArray
from coevo_ray.errors import InputError

_LOWEST, _HIGHEST = 0.05, 20.0
_STEPS = 60  # of a golden-section search over log T: far below float32's precision
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_TINY = 1e-12


def apply_temperature(probabilities: FloatArray, temperature: float) -> Float32Array:
    """Computes softmax(log(p) / T) (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    T above 1 lowers the confidence, T below 1 raises it; the order of classes stays.

    Args:
        probabilities: float[n, C], rows of sum 1.
        temperature: T > 0.

    Returns:
        float32[n, C], rows of sum 1.

    Examples:
        >>> float(apply_temperature(np.array([[0.9, 0.1]]), temperature=2.0)[0, 0])  # odds of 9 become 3
        0.75
    """
    if temperature == 1.0:
        return probabilities.astype(np.float32)
    logits = np.log(np.maximum(probabilities.astype(np.float32), np.float32(_TINY))) / np.float32(temperature)
    logits -= logits.max(axis=1, keepdims=True)
    scaled: Float32Array = np.exp(logits)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(probabilities: FloatArray, labels: IntArray, spread: float | None = None) -> float:
    """Finds the temperature T in [0.05, 20] with the smallest mean cross-entropy.

    Guo et al. 2017 (arXiv 1706.04599, section 4.2). Cross-entropy is convex in 1/T, so it has a single minimum in log T
    too, which a golden-section search finds.

    Args:
        probabilities: float[n, C], of rows that the model was not fitted on.
        labels: int[n] in 0..C-1.
        spread: standard deviation of log T about 0 that is expected before any row is seen (the largest posterior is
            taken then, in place of the smallest loss); None for no expectation.

    Raises:
        InputError: there are no rows, or not one label per row.
    """
    if len(probabilities) == 0 or labels.shape != (len(probabilities),):
        raise InputError(f"{len(probabilities)} predictions and labels of shape {labels.shape}", "give some of both")
    logits = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    right = logits[np.arange(len(labels)), labels]
    stiffness = 0.0 if spread is None else 0.5 / (spread**2 * len(labels))

    def loss(log_temperature: float) -> float:
        beta = np.exp(-log_temperature)
        scaled = logits * beta
        top = scaled.max(axis=1, keepdims=True)
        entropy = np.mean(np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0] - right * beta)
        return float(entropy + stiffness * log_temperature**2)

    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_a, loss_b = loss(a), loss(b)
    for _ in range(_STEPS):
        if loss_a <= loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - _GOLDEN * (high - low)
            loss_a = loss(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + _GOLDEN * (high - low)
            loss_b = loss(b)
    return float(np.exp((low + high) / 2.0))
