"""Rows for the gate's benchmark: points of moderate dimension behind a random network, in classes that overlap.

Noise alone has no neighbours, and clear clusters make finding them easy; features of real images are between the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.core.probes.probe import LinearProbe

DIM, CLASSES = 256, 10
_LATENT, _HIDDEN = 16, 512  # on a million rows the 16th neighbour has a median cosine of 0.90
_SKEW, _APART, _NOISE = 0.7, 0.9, 0.05
_CHUNK = 1 << 16
_TAUGHT = 2000


class Data(NamedTuple):
    """What both sides are given.

    Attributes:
        features: float16[N, d], as targets are stored.
        labels: int64[N].
        probabilities: float32[N, C], of a linear classifier that has seen some labels.
    """

    features: npt.NDArray[np.float16]
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


def make(folder: str, rows: int, seed: int = 0) -> None:
    """Writes data of some rows as NumPy files."""
    random = np.random.default_rng(seed)
    share = np.arange(1, CLASSES + 1) ** -_SKEW
    labels = random.choice(CLASSES, rows, p=share / share.sum())
    centres = _APART * random.standard_normal((CLASSES, _LATENT))
    first = random.standard_normal((_LATENT, _HIDDEN)).astype(np.float32) / _LATENT**0.5
    bias = 0.5 * random.standard_normal(_HIDDEN).astype(np.float32)
    second = random.standard_normal((_HIDDEN, DIM)).astype(np.float32) / _HIDDEN**0.5
    features = np.empty((rows, DIM), dtype=np.float16)
    for start in range(0, rows, _CHUNK):
        part = slice(start, start + _CHUNK)
        latent = (centres[labels[part]] + random.standard_normal((len(labels[part]), _LATENT))).astype(np.float32)
        hidden = torch.relu(torch.from_numpy(latent @ first + bias)).numpy()
        features[part] = hidden @ second + _NOISE * random.standard_normal((len(latent), DIM))
    taught = random.permutation(rows)[:_TAUGHT]
    probe = LinearProbe.fit(features[taught].astype(np.float32), labels[taught], classes=CLASSES)
    parts = [probe.predict_proba(features[s : s + _CHUNK].astype(np.float32)) for s in range(0, rows, _CHUNK)]
    for name, array in Data(features, labels, np.concatenate(parts))._asdict().items():
        np.save(Path(folder) / f"{name}.npy", array)


def read(folder: str) -> Data:
    """What `make` wrote."""
    return Data(*(np.load(Path(folder) / f"{name}.npy") for name in Data._fields))
