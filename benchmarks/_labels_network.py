"""A small network from scratch on images: all labels, and a share of them with and without the other images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from benchmarks._labels_curve import rounds
from benchmarks._labels_data import Ids, LabelPool
from benchmarks._labels_methods import Gate, first_rows
from benchmarks._policies_networks import SmallResNet
from coevo_ray.training.semi_supervised_arrays import fit_images

# As many steps for every row, each with as many labelled images; those with `semi` also look at others.
TRAINING: dict[str, Any] = {
    "model": "benchmarks._labels_network:small_resnet",
    "epochs": 20,
    "epoch_steps": 60,
    "batch_rows": 64,
    "mu": 3,
    "learning_rate": 0.05,
    "precision": "bfloat16",
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


def small_resnet(num_classes: int) -> nn.Module:
    """The network."""
    return SmallResNet(num_classes)


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
        file: of `_policies_data.encode_images`.
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
        extra, classes, sure = gate.gate.pseudo_labels(LEAST)
        labels[extra], weights[extra] = classes, sure
    return labels, weights
