"""Two feeds in step: labelled rows in a cycle, and beside them the rows for consistency.

Both orders follow from (seed, pass, rows) and the position in them from the number of the step: equal steps on every
rank, the same rows for any number of workers, and an exact restart, as in `feed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch

from coevo_ray.core.arrays import Float32Array, UInt8Array
from coevo_ray.core.feed.cycles import Cycle
from coevo_ray.core.feed.epoch_plan import Subset, plan_epoch
from coevo_ray.core.rows import row_set
from coevo_ray.training.feed.batch import Batch, ahead, on_device

_AHEAD = 4


class BatchSource(Protocol):
    """Source of batches, as `Feed` is to a training loop."""

    def epoch(self, subset: Subset, rank: int, world_size: int, start: int = 0) -> Iterator[Batch]:
        """One rank's batches of an epoch, from a global sample offset on."""
        ...


@dataclass(frozen=True)
class PairedBatch:
    """One rank's part of a step.

    Attributes:
        labelled: rows with a label.
        unlabelled: rows for consistency, or None.
        passes: which pass over their rows each of them is in; the second is 0 without unlabelled rows.
        offset: steps of the epoch that are done after this one.
    """

    labelled: Batch
    unlabelled: Batch | None
    passes: tuple[int, int]
    offset: int


@dataclass(frozen=True)
class Rows:
    """Rows that are visited pass after pass.

    Attributes:
        row_ids: int64[n], increasing, or a set.
        cycle: cuts a pass into steps.
        weights: float32[n], or None for ones.
    """

    row_ids: row_set.Rows
    cycle: Cycle
    weights: Float32Array | None = None


class PairedFeed:
    """Steps of labelled and unlabelled rows.

    Args:
        labelled: source and rows; the source's global batch is that of the cycle.
        unlabelled: the same for consistency, or None for labelled rows alone.
        steps: steps of an epoch.
        device: of the tensors.

    Attributes:
        steps: steps of an epoch.
    """

    def __init__(
        self,
        labelled: tuple[BatchSource, Rows],
        unlabelled: tuple[BatchSource, Rows] | None,
        steps: int,
        device: torch.device,
    ) -> None:
        self._labelled, self._unlabelled, self._device = labelled, unlabelled, device
        self.steps = steps

    def epoch(self, epoch: int, rank: int, world_size: int, start: int = 0) -> Iterator[PairedBatch]:
        """One rank's part of an epoch.

        Args:
            epoch: number of the epoch.
            rank, world_size: this worker's place.
            start: steps of it that are done; the number of workers may have changed since.

        Raises:
            InputError: a row is not in the table.
        """
        first = epoch * self.steps + start

        def stream(source: BatchSource, rows: Rows) -> Iterator[Batch]:
            return islice(_passes(source, rows, first, rank, world_size), self.steps - start)

        # A small set's passes may be a step each: they are read ahead over their ends, once, not again for each.
        labelled = on_device(ahead(stream(*self._labelled), _AHEAD), self._device)
        unlabelled = None if self._unlabelled is None else stream(*self._unlabelled)
        try:
            for step in range(start, self.steps):
                there = None if unlabelled is None else next(unlabelled)
                here = next(labelled)
                yield PairedBatch(here, there, self._pass_of(epoch * self.steps + step), step + 1)
        finally:
            del labelled, unlabelled  # generators end their threads when nothing holds them

    def samples(self, epoch: int) -> int:
        """Rows that an epoch uses, of both kinds and over all workers."""
        first, last = epoch * self.steps, (epoch + 1) * self.steps
        cycles = [part[1].cycle for part in (self._labelled, self._unlabelled) if part is not None]
        return sum(cycle.visits(last) - cycle.visits(first) for cycle in cycles)

    def _pass_of(self, step: int) -> tuple[int, int]:
        other = 0 if self._unlabelled is None else self._unlabelled[1].cycle.at(step)[0]
        return self._labelled[1].cycle.at(step)[0], other


def _passes(source: BatchSource, rows: Rows, step: int, rank: int, world_size: int) -> Iterator[Batch]:
    """Batches from a step of the whole training on, without end."""
    number, offset = rows.cycle.at(step)
    while True:
        yield from source.epoch(Subset(number, rows.row_ids, rows.weights), rank, world_size, offset)
        number, offset = number + 1, 0


class ArraySource:
    """Images in memory as a source of batches, in the order of a feed whose table is one block.

    Args:
        images: uint8[n, 3, s, s]; row_ids are places in it.
        global_batch: rows of a batch over all workers.
        seed: seed of the order.
    """

    def __init__(self, images: UInt8Array, global_batch: int, seed: int) -> None:
        self.images, self.global_batch, self.seed = images, global_batch, seed

    def epoch(self, subset: Subset, rank: int, world_size: int, start: int = 0) -> Iterator[Batch]:
        """One rank's batches of an epoch: `image` uint8[b, 3, s, s]."""
        blocks = np.zeros(1, dtype=np.int64)
        plan = plan_epoch(subset, seed=self.seed, global_batch=self.global_batch, block_starts=blocks, window_blocks=1)
        for part in plan.rank_batches(rank, world_size, start):
            tensors = {"image": torch.from_numpy(self.images[part.row_ids])}
            yield Batch(tensors, part.row_ids, torch.from_numpy(part.weights), part.offset, part.global_rows)
