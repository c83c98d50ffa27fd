"""A small network from scratch on images: all labels, and a share of them with and without the other images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from coevo_ray.training.semi_supervised_arrays import fit_images
from torch import nn

from benchmarks._labels_curve import counts_of, rounds
from benchmarks._labels_data import SMALL, Ids, LabelPool, load_pool, make_pools
from benchmarks._labels_methods import Gate, first_rows
from benchmarks._labels_summary import cell
from benchmarks._policies_networks import SmallResNet
from benchmarks.common import note

# As many steps for every row, each with as many labelled images; those with `semi` also look at others.
TRAINING: dict[str, Any] = {
    "model": "benchmarks._labels_network:small_resnet",
    "epochs": 20,
    "epoch_steps": 75,
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


def measure_networks(
    file: Path,
    folder: Path,
    images: int,
    shares: Sequence[float],
    decay_rows: float,
    seeds: int,
    training: dict[str, Any],
) -> dict[str, Any]:
    """Trains the network in all ways; runs in a child process.

    Args:
        file: encoded images.
        folder: for the pool.
        images: how many of them, at random.
        shares: of labels after each of the gate's rounds; the last is what the network gets.
        decay_rows: of the head that the gate looks at.
        seeds: repeats.
        training: settings of `SemiTrainConfig`.

    Returns:
        `table`: row -> `mean` and `spread` of the accuracy, `seconds` of a training; `labels`, `images`, `steps`.
    """
    threads = torch.get_num_threads()
    folder.mkdir()
    make_pools(file, folder, (SMALL,), images, threads)
    pool = load_pool(folder / f"{SMALL}.npz")
    counts = counts_of(pool, shares)
    with np.load(file) as arrays:
        pictures, test = arrays["train_images"][pool.rows], arrays["test_images"]
    accuracies: dict[str, list[float]] = {row: [] for row in ROWS}
    seconds: dict[str, list[float]] = {row: [] for row in ROWS}
    for seed in range(seeds):
        chosen = _choices(pool, seed, counts, decay_rows)
        for row, (by, others) in ROWS.items():
            started = time.perf_counter()
            labels, weights = _labels(pool, chosen, by, others)
            settings = {**training, "seed": seed, "consistency_weight": float(others == "consistency")}
            _, history = fit_images(
                settings, pictures, labels, pool.classes, (test, pool.test_labels), known=pool.labels, weights=weights
            )
            accuracies[row].append(history[-1]["accuracy"])
            seconds[row].append(time.perf_counter() - started)
            note(f"network {row} {seed}: {accuracies[row][-1]:.4f}, {seconds[row][-1]:.0f} s")
    return {
        "images": len(pool.labels),
        "labels": counts[-1],
        "steps": training["epochs"] * training["epoch_steps"],
        "repeats": seeds,
        "table": {row: {**cell(accuracies[row]), "seconds": round(float(np.median(seconds[row])), 1)} for row in ROWS},
    }


def _choices(pool: LabelPool, seed: int, counts: Sequence[int], decay_rows: float) -> dict[str, Any]:
    """Rows by the gate and at random, and the gate's pseudo-labels after its last round."""
    gate = Gate(pool, seed, calibrated=True)
    *_, (now, _) = rounds(pool, gate, counts, decay_rows)
    gate.learn(now)
    return {"gate": now.rows, "random": first_rows(pool, seed, counts[-1]), "pseudo": gate.gate.pseudo_labels(LEAST)}


def _labels(
    pool: LabelPool, chosen: dict[str, Any], by: str | None, others: str
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Labels int64[n], -1 where a row has none, and their weights."""
    weights = np.ones(len(pool.labels), dtype=np.float32)
    if by is None:
        return pool.labels, weights
    labels = np.full(len(pool.labels), -1, dtype=np.int64)
    labels[chosen[by]] = pool.labels[chosen[by]]
    if others == "pseudo_labels":
        rows, classes, sure = chosen["pseudo"]
        labels[rows], weights[rows] = classes, sure
    return labels, weights
