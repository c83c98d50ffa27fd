"""A small network, fine-tuned on images: all labels, and a share of them with and without the other images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from benchmarks.labels.curve import rounds
from benchmarks.labels.data import Ids, LabelPool
from benchmarks.labels.method import first_rows
from benchmarks.labels.methods import Gate
from coevo_ray.core.gate import readings
from coevo_ray.priors.efficientnet_lite import load
from coevo_ray.priors.inputs import IMAGES
from coevo_ray.training.feed.images import scale_pixels
from coevo_ray.training.semi_supervised.on_arrays import fit_images

SIZE = 64  # pixels that the network sees
# As many steps for every row, each with as many labelled images; those with `semi` also look at others.
TRAINING: dict[str, Any] = {
    "model": "benchmarks.labels.network:fine_tuned",
    "epochs": 4,
    "epoch_steps": 100,
    "batch_rows": 64,
    "mu": 1,
    "learning_rate": 0.02,
    "precision": "float32",
}
LEAST = 0.95
# Row -> who chose the labels (None: all rows have one), and what is done with the other images.
ROWS: dict[str, tuple[str | None, str]] = {
    "full": (None, "nothing"),
    "random": ("random", "nothing"),
    "gate": ("gate", "nothing"),
    "gate_pseudo_labels": ("gate", "pseudo_labels"),
    "random_semi_supervised": ("random", "consistency"),
    "gate_semi_supervised": ("gate", "consistency"),
}


class FineTuned(nn.Module):
    """EfficientNet-Lite0 with its ImageNet weights and a new last layer; all of it learns.

    Args:
        classes: C.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        prior = load("0", SIZE, IMAGES)
        self.body, self.head = prior.module.train().requires_grad_(True), nn.Linear(prior.info.dim, classes)
        for layer in self.body.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.1  # its own 0.01 is for far longer trainings
        pixels = [scale_pixels(torch.full((1, 3, 1, 1), value)) for value in (127.0, 255.0)]
        self.register_buffer("middle", pixels[0])
        self.register_buffer("reach", pixels[1] - pixels[0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images float[b, 3, s, s] as `scale_pixels` gives them -> logits float[b, C]."""
        own = (images - self.get_buffer("middle")) / self.get_buffer("reach")  # (x - 127) / 128
        logits: torch.Tensor = self.head(self.body(functional.interpolate(own, SIZE, mode="bilinear")))
        return logits


def fine_tuned(num_classes: int) -> nn.Module:
    """The network."""
    return FineTuned(num_classes)


def train_row(
    pool: LabelPool,
    file: Path,
    row: str,
    seed: int,
    counts: Sequence[int],
    decay_rows: float,
    training: dict[str, Any],
) -> dict[str, Any]:
    """Trains the network in one of the ways of `ROWS`.

    Args:
        pool: rows that are training images.
        file: of `benchmarks.policies.data.encode_images`.
        row: which way.
        seed: of the choice of labels, and of the training.
        counts: labels after each of the gate's rounds; the last is what the network gets.
        decay_rows: of the head that the gate looks at.
        training: settings of `SemiTrainConfig`.

    Returns:
        `accuracy` on the test images; `labels` that were asked for; `steps`; `seconds` of the training.
    """
    by, others = ROWS[row]
    labels, weights = _labels(pool, by, others, seed, counts, decay_rows)
    with np.load(file) as arrays:
        pictures, test = arrays["train_images"][pool.rows], arrays["test_images"]
    settings = {**training, "seed": seed, "consistency_weight": float(others == "consistency")}
    started = time.perf_counter()
    _, history = fit_images(
        settings, pictures, labels, pool.classes, (test, pool.test_labels), known=pool.labels, weights=weights
    )
    return {
        "accuracy": history[-1]["accuracy"],
        "labels": len(labels) if by is None else counts[-1],
        "steps": training["epochs"] * training["epoch_steps"],
        "seconds": time.perf_counter() - started,
    }


def _labels(
    pool: LabelPool, by: str | None, others: str, seed: int, counts: Sequence[int], decay_rows: float
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Labels int64[n], -1 where a row has none, and their weights."""
    weights = np.ones(len(pool.labels), dtype=np.float32)
    if by is None:
        return pool.labels, weights
    labels = np.full(len(pool.labels), -1, dtype=np.int64)
    if by == "random":
        rows = first_rows(pool, seed, counts[-1])
        labels[rows] = pool.labels[rows]
        return labels, weights
    gate = Gate(pool, seed, calibrated=True)
    *_, (now, _) = rounds(pool, gate, counts, decay_rows)
    labels[now.rows] = now.labels
    if others == "pseudo_labels":
        gate.learn(now)
        extra, classes, sure, _ = readings.pseudo_labels(gate.gate.inner, LEAST)
        labels[extra], weights[extra] = classes, sure
    return labels, weights
