"""The arithmetic of an epoch: which rows come in which step on which worker (DESIGN section 5.5).

The global order depends on (subset, seed, epoch, blocks, window) alone. Rank r of W takes every W-th row of each global
batch, so every rank makes the same number of steps by construction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coevo_ray.core.rows import Int64Array
from coevo_ray.errors import InputError

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subset:
    """The rows of one epoch.

    Attributes:
        epoch: from 0.
        row_ids: int64[n], increasing.
        weights: float32[n], or None where every row weighs 1.
    """

    epoch: int
    row_ids: Int64Array
    weights: Float32Array | None = None


@dataclass(frozen=True)
class RankBatch:
    """One rank's part of a global batch.

    Attributes:
        row_ids: int64[b]; b is the same on all ranks of a step.
        weights: float32[b]; 0 for padding: a row of the same global batch that is repeated to make shapes equal.
        offset: global samples that are done after this batch.
        global_rows: rows of the global batch, padding not counted.
    """

    row_ids: Int64Array
    weights: Float32Array
    offset: int
    global_rows: int


@dataclass(frozen=True)
class EpochPlan:
    """The global order of one epoch.

    Attributes:
        order: int64[n], row_ids in the order in which they are used.
        weights: float32[n] in that order.
        global_batch: rows of a global batch; the last one may be smaller.
    """

    order: Int64Array
    weights: Float32Array
    global_batch: int

    @property
    def steps(self) -> int:
        """Steps of the epoch, the same on every rank."""
        return -(-len(self.order) // self.global_batch)

    def rank_batches(self, rank: int, world_size: int, start: int = 0) -> Iterator[RankBatch]:
        """One rank's batches from a global sample offset on.

        Args:
            rank, world_size: 0 <= rank < world_size.
            start: an `offset` of this plan, or 0.

        Raises:
            InputError: the rank is out of range, or `start` is not the end of a global batch.
        """
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} of {world_size} workers", "need 0 <= rank < world_size")
        if start != len(self.order) and (start % self.global_batch or not 0 <= start < len(self.order)):
            raise InputError(
                f"cannot start at sample {start} of {len(self.order)} in batches of {self.global_batch}",
                "start at an offset that this plan has given, with the same global batch",
            )
        for first in range(start, len(self.order), self.global_batch):
            batch = np.arange(first, min(first + self.global_batch, len(self.order)))
            wide = -(-len(batch) // world_size)
            mine = batch[rank::world_size]
            padding = np.full(wide - len(mine), batch[0])
            weights = np.concatenate([self.weights[mine], np.zeros(len(padding), np.float32)])
            rows = np.concatenate([mine, padding]).astype(np.int64)
            yield RankBatch(self.order[rows], weights, int(batch[-1]) + 1, len(batch))


def plan_epoch(
    subset: Subset, *, seed: int, global_batch: int, block_rows: Int64Array | int, window_blocks: int
) -> EpochPlan:
    """Orders a subset: blocks in shuffled order, rows shuffled among `window_blocks` neighbouring blocks of it.

    Args:
        subset: rows of the epoch.
        seed: seed of the run; the epoch is mixed in.
        global_batch: rows of a global batch.
        block_rows: row_ids of a block, or int64 first row_ids of all blocks, increasing.
        window_blocks: blocks whose rows are shuffled together; bounds a reader's memory.

    Raises:
        InputError: the subset is empty, or a size is below 1.
    """
    rows = len(subset.row_ids)
    if rows == 0:
        raise InputError(f"epoch {subset.epoch} has no rows", "raise the kept share, or check the labels")
    if global_batch < 1 or window_blocks < 1:
        raise InputError(f"global batch {global_batch}, window {window_blocks}", "both must be 1 or more")
    generator = np.random.Generator(np.random.PCG64([seed, subset.epoch]))
    if isinstance(block_rows, int):
        block = subset.row_ids // block_rows
    else:
        block = np.searchsorted(block_rows, subset.row_ids, side="right")
    present, block = np.unique(block, return_inverse=True)
    window = (generator.permutation(len(present)) // window_blocks)[block]
    # Sorting by (window, noise) shuffles within windows and keeps windows apart.
    order = np.lexsort((generator.random(rows), window))
    weights = np.ones(rows, dtype=np.float32) if subset.weights is None else subset.weights.astype(np.float32)
    return EpochPlan(subset.row_ids[order], weights[order], global_batch)
