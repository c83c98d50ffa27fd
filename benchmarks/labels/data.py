"""The pools of the labels benchmark: principal components of frozen features of real images, and their graphs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.types import NeighbourGraph

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

SKEWED = "long_tail"
POOLS = ("clean", "copies", SKEWED)
SMALL, PICTURES = "small", "pictures"
DIM = 256
COPIED = 0.5  # of the rows of `copies` are near-copies of other rows
IMBALANCE = 50
_NEIGHBOURS = 16


@dataclass(frozen=True, eq=False)
class LabelPool:
    """Rows to label, and rows to judge by.

    Attributes:
        features, test_features: float32[N, d], float32[t, d], centred on the pool's mean.
        labels, test_labels: int64[N], int64[t], the true ones; a method sees those of rows that it asked for.
        graph: neighbours of the pool's rows.
        classes: C.
        rows: int64[N], which image each row is: of the training images, or of the near-copies behind them.
    """

    features: Vectors
    labels: Ids
    test_features: Vectors
    test_labels: Ids
    graph: NeighbourGraph
    classes: int
    rows: Ids


def make_pools(file: Path, folder: Path, parts: dict[str, int], threads: int) -> None:
    """Makes pools and writes each to `folder`, for `load_pool`.

    Args:
        file: of `benchmarks.policies.data.encode_images`.
        folder: gets `NAME.npz`.
        parts: further pools beside `POOLS`: how many rows each has, at random. Of `POOLS`, `clean` has all images;
            `copies` as many rows, half of them near-copies of others; of `long_tail` the smallest class is 50 times
            rarer than the largest.
        threads: of the computation.
    """
    torch.set_num_threads(threads)
    with np.load(file) as arrays:
        features, labels = arrays["train_features"], arrays["train_labels"].astype(np.int64)
        extra, of = arrays["copy_features"], arrays["copy_of"]
        test, test_labels = arrays["test_features"], arrays["test_labels"].astype(np.int64)
    classes = int(labels.max()) + 1
    for name in (*POOLS, *parts):
        rows = _rows_of(name, labels, of, parts.get(name), np.random.default_rng(0))
        there, beside = rows[rows < len(labels)], rows[rows >= len(labels)] - len(labels)
        x, x_test = principal_components(np.concatenate([features[there], extra[beside]]), test)
        graph = build_graph(x, _NEIGHBOURS, "exact")
        np.savez(
            folder / f"{name}.npz",
            features=x,
            labels=np.concatenate([labels[there], labels[of[beside]]]),
            test_features=x_test,
            test_labels=test_labels,
            indices=graph.indices,
            similarities=graph.similarities,
            classes=classes,
            rows=rows,
        )


def _rows_of(name: str, labels: Ids, of: Ids, part: int | None, random: np.random.Generator) -> Ids:
    """Which images a pool has, increasing; those behind the training images are near-copies."""
    everything: Ids = np.arange(len(labels))
    if part is not None:
        return np.sort(random.permutation(everything)[:part])
    if name == "copies":
        copies = np.sort(random.permutation(len(of))[: round(COPIED * len(labels))])
        alone = random.permutation(np.setdiff1d(everything, of))
        originals = np.concatenate([np.unique(of), alone])[: len(labels) - len(copies)]
        return np.concatenate([np.sort(originals), len(labels) + copies])
    if name == SKEWED:
        last, kept = max(1, int(labels.max())), []
        for label in range(last + 1):
            members = random.permutation(np.flatnonzero(labels == label))
            kept.append(members[: max(2, round(len(members) * IMBALANCE ** (-label / last)))])
        return np.sort(np.concatenate(kept))
    return everything


def principal_components(features: Vectors, test: Vectors) -> tuple[Vectors, Vectors]:
    """The pool's leading principal components, and the test rows in the same directions.

    Labels are not looked at, so this is open to every method and to the gate's user alike.
    """
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = torch.from_numpy(features - mean)
    covariance = (centred.T @ centred).double() / len(features)
    directions = torch.linalg.eigh(covariance)[1].flip(1)[:, :DIM].float()
    return (centred @ directions).numpy(), (torch.from_numpy(test - mean) @ directions).numpy()


@lru_cache(maxsize=1)
def load_pool(file: Path) -> LabelPool:
    """A pool that `make_pools` wrote; the latest one stays in memory."""
    with np.load(file) as arrays:
        graph = NeighbourGraph(arrays["indices"], arrays["similarities"], "exact", 1.0)
        return LabelPool(
            features=arrays["features"],
            labels=arrays["labels"],
            test_features=arrays["test_features"],
            test_labels=arrays["test_labels"],
            graph=graph,
            classes=int(arrays["classes"]),
            rows=arrays["rows"],
        )
