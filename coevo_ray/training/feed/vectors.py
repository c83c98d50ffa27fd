"""Batches of vectors for training."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import torch

from coevo_ray.core.arrays import UInt64Array
from coevo_ray.store.row_table import vectors
from coevo_ray.training.feed.batch import new_tensor
from coevo_ray.training.feed.images import labels_of, targets_of


@dataclass(frozen=True)
class VectorTransform:
    """Feed transform: a column of vectors -> float32[b, d]; `label` and `target` where rows have them."""

    column: str

    def __call__(self, rows: pa.Table, seeds: UInt64Array) -> dict[str, torch.Tensor]:
        """Makes one batch."""
        stored = vectors(rows.column(self.column))
        own = new_tensor(stored.shape, torch.float32)
        own.numpy()[...] = stored
        return {**labels_of(rows), **targets_of(rows), self.column: own}
