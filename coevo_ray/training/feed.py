"""The feed: hands a subset's batches to training workers (DESIGN section 5.5).

The order of an epoch is fixed by (seed, epoch, subset) alone; rank r of W takes every W-th row of each global batch, so
all ranks make the same number of steps whatever their number is. Rows outside the subset are neither decoded nor moved,
and a row group without a selected row is not read.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from coevo_ray.core.epoch_plan import EpochPlan, RankBatch, Subset, plan_epoch
from coevo_ray.core.rows import Int64Array
from coevo_ray.store.row_table import RowTable

Tensors = dict[str, torch.Tensor]
Transform = Callable[[pa.Table, np.random.Generator], Tensors]


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        tensors: what the transform made of the rows, first dimension rows.
        row_ids: int64[rows].
        weights: float32[rows]; 0 for padding, which repeats a row so that all ranks have equal shapes.
        offset: global samples of the epoch that are done after this batch.
        global_rows: real rows of the global batch; dividing the weighted sum of losses by it, times the number
            of workers, makes DDP's mean gradient independent of that number.
    """

    tensors: Tensors
    row_ids: Int64Array
    weights: torch.Tensor
    offset: int
    global_rows: int


class Feed:
    """Batches of a row table, by epoch.

    Args:
        table: pool, targets or any other row table.
        columns: columns that the transform needs.
        transform: makes tensors of some rows; gets a generator for augmentation.
        global_batch: rows of a batch over all workers.
        seed: seed of the order and of augmentation.
        window_blocks: row groups among which rows are shuffled; bounds memory.
        prefetch: batches that are made ahead in a thread; 0 makes them when asked.
    """

    def __init__(
        self,
        table: RowTable,
        columns: list[str],
        transform: Transform,
        *,
        global_batch: int,
        seed: int,
        window_blocks: int = 16,
        prefetch: int = 4,
    ) -> None:
        self.table, self.columns, self.transform = table, columns, transform
        self.global_batch, self.seed = global_batch, seed
        self.window_blocks, self.prefetch = window_blocks, prefetch
        self.rows_made = 0
        self._blocks = table.block_starts()

    def plan(self, subset: Subset) -> EpochPlan:
        """The global order of an epoch; the same in every process.

        Raises:
            InputError: the subset is empty.
        """
        return plan_epoch(
            subset,
            seed=self.seed,
            global_batch=self.global_batch,
            block_rows=self._blocks,
            window_blocks=self.window_blocks,
        )

    def epoch(self, subset: Subset, rank: int = 0, world_size: int = 1, start: int = 0) -> Iterator[Batch]:
        """One rank's batches of an epoch.

        Args:
            subset: rows and weights of the epoch.
            rank, world_size: this worker's place.
            start: global samples that are already done (a batch's `offset`).

        Raises:
            InputError: the subset is empty, a row is not in the table, or `start` is not a batch's offset.
        """
        steps = list(self.plan(subset).rank_batches(rank, world_size, start))
        batches = self._batches(steps, subset.epoch, rank, world_size)
        return batches if self.prefetch == 0 else _ahead(batches, self.prefetch)

    def _batches(self, steps: list[RankBatch], epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        # Steps of about one window are read together, so that each row group is read about once per rank.
        group_rows = int(np.median(np.diff(self._blocks))) if len(self._blocks) > 1 else len(self.table)
        span = max(1, group_rows * self.window_blocks // self.global_batch)
        for first in range(0, len(steps), span):
            window = steps[first : first + span]
            wanted = np.unique(np.concatenate([step.row_ids for step in window]))
            rows = self.table.read(wanted, self.columns)
            for step in window:
                random = np.random.default_rng([self.seed, epoch, step.offset, rank, world_size])
                tensors = self.transform(rows.take(np.searchsorted(wanted, step.row_ids)), random)
                self.rows_made += len(step.row_ids)
                yield Batch(tensors, step.row_ids, torch.from_numpy(step.weights), step.offset, step.global_rows)


_END = object()


def _ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """Makes batches in a thread, at most `depth` ahead; ends the thread when the reader stops early."""
    ready: queue.Queue[object] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(_END)
        except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
            put(error)

    thread = threading.Thread(target=work, daemon=True, name="coevo-feed")
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            assert isinstance(item, Batch)
            yield item
    finally:
        stop.set()
        thread.join()
