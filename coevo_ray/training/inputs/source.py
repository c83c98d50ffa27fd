"""The source of a training's samples: a column of a table, and their shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ray
import torch
from torch import nn

from coevo_ray.config import SemiTrainConfig
from coevo_ray.core.arrays import Int64Array
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.feed.cached_pool import HeldRows
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.statistics import input_statistics
from coevo_ray.training.inputs.base import Shape, ViewPair
from coevo_ray.training.inputs.vectors import VectorNetwork


@dataclass(frozen=True, eq=False)
class InputSource:
    """A column of a table whose row_ids are the pool's, and the shape of its samples; pickles.

    Attributes:
        shape: of the samples.
        location: the pool's folder, or that of its targets.
        kind: of the table there, "pool" or "targets".
        column: its name.
        identity: of the table's manifest.
        mean: float32[d] of the vectors of the training rows; None before `measured`, and for other samples.
        mean_square: about the mean, over rows and dimensions.
    """

    shape: Shape
    location: Location
    kind: str
    column: str
    identity: str
    mean: torch.Tensor | None = None
    mean_square: float = 1.0

    def table(self) -> RowTable:
        """Opens the table.

        Raises:
            InputError: it is no longer there.
        """
        return Pool(self.location) if self.kind == "pool" else RowTable(self.location, self.kind)

    def network(self, model: str, outputs: int) -> nn.Module:
        """A network at its start, which knows the statistics of its vectors.

        Raises:
            UsageError: as in `Shape.network`.
        """
        network = self.shape.network(model, outputs)
        if self.mean is not None and isinstance(network, VectorNetwork):
            network.normalise(self.mean, self.mean_square)
        return network

    def measured(self, rows: Int64Array) -> InputSource:
        """With the statistics of vectors, in one pass of a task over their table; other samples need none.

        Args:
            rows: int64[n] row_ids of the training rows.

        Raises:
            InputError: the vectors are constant or not finite.
        """
        if self.shape.kind != "vector":
            return self
        task = ray.remote(input_statistics).options(num_cpus=0.5)
        mean, mean_square = ray.get(task.remote(self.table(), rows, self.column))
        return replace(self, mean=mean, mean_square=mean_square)

    def feed(self, global_batch: int, seed: int, device: torch.device, augment: str = "none") -> Feed:
        """A feed of samples as the network takes them."""
        transform = self.shape.transform(self.column, augment)
        return Feed(self.table(), [self.column], transform, global_batch=global_batch, seed=seed, device=device)

    def decoded_feed(self, global_batch: int, seed: int, device: torch.device) -> Feed:
        """A feed of samples as views are made of them."""
        transform = self.shape.decoded(self.column)
        return Feed(self.table(), [self.column], transform, global_batch=global_batch, seed=seed, device=device)

    def held_feed(self, rows: Int64Array, global_batch: int, seed: int) -> Feed:
        """As `decoded_feed` on the CPU, for few rows that are read again and again."""
        held = HeldRows(self.location, rows, self.column, kind=self.kind)
        transform = self.shape.decoded(self.column)
        return Feed(held, [self.column], transform, global_batch=global_batch, seed=seed, prefetch=0)

    def view_pair(self, config: SemiTrainConfig) -> ViewPair:
        """Views for consistency."""
        return self.shape.view_pair(config, self.mean)
