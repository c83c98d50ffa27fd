"""Temperature scaling: one number that makes a model's probabilities as sure as it is right (Guo et al. 2017)."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, FloatArray, IntArray
from coevo_ray.errors import InputError

_LOWEST, _HIGHEST = 0.05, 20.0
_STEPS = 60  # of a golden-section search over log T: far below float32's precision
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_TINY = 1e-12


def apply_temperature(probabilities: FloatArray, temperature: float) -> Float32Array:
    """softmax(log(p) / T): T above 1 makes predictions less sure, below 1 surer; the order of classes stays.

    Args:
        probabilities: float[n, C], rows of sum 1.
        temperature: T > 0.

    Returns:
        float32[n, C], rows of sum 1.
    """
    if temperature == 1.0:
        return probabilities.astype(np.float32)
    logits = np.log(np.maximum(probabilities.astype(np.float32), np.float32(_TINY))) / np.float32(temperature)
    logits -= logits.max(axis=1, keepdims=True)
    scaled: Float32Array = np.exp(logits)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def fit_temperature(probabilities: FloatArray, labels: IntArray) -> float:
    """The temperature of the smallest mean cross-entropy, between 0.05 and 20.

    Cross-entropy is convex in 1/T, so it has one minimum in log T too, which a golden-section search finds.

    Args:
        probabilities: float[n, C], of rows that the model was not fitted on.
        labels: int[n] in 0..C-1.

    Raises:
        InputError: no rows, or labels that do not fit.
    """
    if len(probabilities) == 0 or labels.shape != (len(probabilities),):
        raise InputError(f"{len(probabilities)} predictions and labels of shape {labels.shape}", "give some of both")
    logits = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
    right = logits[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        beta = np.exp(-log_temperature)
        scaled = logits * beta
        top = scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0] - right * beta))

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
