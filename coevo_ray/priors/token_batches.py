"""Texts of different lengths, encoded in order of their lengths, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int32Array
from coevo_ray.priors.inputs import PAD


def encode_windows(tokens: Int32Array, encode: Callable[[Int32Array], Float32Array], dim: int) -> Float32Array:
    """Features of texts: the mean over each one's windows, by their tokens.

    Args:
        tokens: int32[b, w, l], see `inputs.Tokens`.
        encode: int32[m, l] of windows that all have tokens, the longest first -> float32[m, dim].
        dim: dimension of the features.

    Returns:
        float32[b, dim], in the order of the texts; 0 for a text without tokens.
    """
    rows, windows, width = tokens.shape
    flat = tokens.reshape(rows * windows, width)
    lengths = (flat != PAD).sum(axis=1)
    # The longest first: if the device's memory is too small, that shows at once.
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    encoded = encode(flat[order])
    if windows == 1:
        features = np.zeros((rows, dim), dtype=np.float32)
        features[order] = encoded
        return features
    text = order // windows
    weights = (lengths[order] / np.maximum(1, np.bincount(text, lengths[order], rows))[text]).astype(np.float32)
    features = np.zeros((rows, dim), dtype=np.float32)
    np.add.at(features, text, encoded * weights[:, None])
    return features


def trimmed(tokens: Int32Array) -> Int32Array:
    """Tokens int32[b, l] without the columns behind the longest row."""
    return tokens[:, : int((tokens != PAD).sum(axis=1).max(initial=0))]
