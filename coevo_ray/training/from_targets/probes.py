"""Evaluation of a network's frozen features: a linear probe and nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import nn

from coevo_ray.core.arrays import Float32Array, FloatArray, Int64Array
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.core.probes.probe import LinearProbe, knn_accuracy
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.pool.pool import Pool
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.inputs.source import InputSource

NEIGHBOURS = 20
_BATCH_ROWS = 256


@dataclass(frozen=True, eq=False)
class ProbeRows:
    """Labelled rows that features are judged by.

    Attributes:
        train: int64[n] row_ids that the probe is fitted on, increasing.
        test: int64[m] held-out row_ids that it is measured on, increasing.
        train_labels, test_labels: int64 of the same lengths.
        classes: number of classes.
    """

    train: Int64Array
    test: Int64Array
    train_labels: Int64Array
    test_labels: Int64Array
    classes: int

    @classmethod
    def choose(cls, pool: Pool, usable: Int64Array, limit: int, seed: int) -> ProbeRows | None:
        """Labelled rows of both splits.

        Args:
            pool: labels and splits.
            usable: int64 row_ids, increasing, to choose from: those whose samples can be read.
            limit: most rows of each split, chosen by hash; features of so many rows are held in memory.
            seed: seed of that choice.

        Returns:
            The rows; None where a split has no labelled row, or there are fewer than two classes.
        """
        labels, splits = pool.labels(), pool.splits()
        known = usable[labels[usable] >= 0]
        train, test = known[splits[known] == 0], known[splits[known] == 1]
        if min(len(train), len(test)) == 0 or pool.classes < 2:
            return None
        train, test = (choose_rows(rows, min(limit, len(rows)), seed) for rows in (train, test))
        return cls(train, test, labels[train], labels[test], pool.classes)

    def judge(self, train_features: FloatArray, test_features: FloatArray) -> dict[str, float]:
        """Accuracy of both on the held-out rows.

        Args:
            train_features: float[n, d].
            test_features: float[m, d].

        Returns:
            `linear_probe` and `knn`, shares in 0..1.

        Raises:
            InputError: features that are not finite.
        """
        # Features are scaled one by one, so that a training's figures compare with those of version 0.1.0.
        probe = LinearProbe.fit(train_features, self.train_labels, self.classes, scaling="each")
        right = probe.predict_proba(test_features).argmax(axis=1) == self.test_labels
        nearest = knn_accuracy(train_features, self.train_labels, test_features, self.test_labels, NEIGHBOURS)
        return {"linear_probe": float(right.mean()), "knn": nearest}


def evaluate(
    backbone: nn.Module,
    source: InputSource,
    rows: ProbeRows,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Judges a network's frozen features; every rank extracts its share and gets the result.

    Args:
        backbone: samples -> features float[b, d].
        source: what it takes.
        rows: which of them.
        device: where the network is.
        rank, world: this worker's place.
        dtype: bfloat16 computes the features under autocast.

    Returns:
        `linear_probe` and `knn`, shares in 0..1.

    Raises:
        InputError: a sample cannot be read, or features are not finite.
    """
    feed = source.feed(_BATCH_ROWS, 0, torch.device("cpu"))
    training = backbone.training
    backbone.eval()
    place = (device, rank, world, dtype)
    parts = [_features(backbone, feed, source.column, ids, *place) for ids in (rows.train, rows.test)]
    backbone.train(training)
    result: list[Any] = [rows.judge(*parts) if rank == 0 else None]
    if world > 1:
        torch.distributed.broadcast_object_list(result, src=0)
    figures: dict[str, float] = result[0]
    return figures


@torch.inference_mode()
def _features(
    backbone: nn.Module,
    feed: Feed,
    column: str,
    row_ids: Int64Array,
    device: torch.device,
    rank: int,
    world: int,
    dtype: torch.dtype,
) -> Float32Array:
    """float32[rows, d] in the order of `row_ids`; on all ranks."""
    ids, parts = [], []
    for batch in feed.epoch(Subset(0, row_ids, None), rank, world):
        real = batch.weights.numpy() > 0  # padding repeats a row that another rank has
        samples = batch[column].to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = backbone(samples)
        parts.append(found.float().cpu().numpy()[real])
        ids.append(batch.row_ids[real])
    mine = (np.concatenate(ids), np.concatenate(parts))
    gathered: list[Any] = [mine]
    if world > 1:
        gathered = [None] * world
        torch.distributed.all_gather_object(gathered, mine)
    order = np.argsort(np.concatenate([ids for ids, _ in gathered]))
    features: Float32Array = np.concatenate([part for _, part in gathered])[order]
    return features
