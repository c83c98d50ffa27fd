"""The arithmetic of an epoch: which rows come in which step on which worker (DESIGN section 5.5).

The global order depends on (subset, seed, epoch, blocks, window) alone. Rank r of W takes every W-th row of each global
batch, so every rank makes the same number of steps by construction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.row_set import Float32Array, Subset
from coevo_ray.core.rows import Int64Array
from coevo_ray.errors import InputError

__all__ = ["EpochPlan", "Float32Array", "RankBatch", "Subset", "plan_epoch"]


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
        weights: float32[n] in that order, or None where every row weighs 1.
        global_batch: rows of a global batch; the last one may be smaller.
        seed, epoch: what the order was made from.
    """

    order: Int64Array
    weights: Float32Array | None
    global_batch: int
    seed: int
    epoch: int

    @property
    def steps(self) -> int:
        """Steps of the epoch, the same on every rank."""
        return -(-len(self.order) // self.global_batch)

    def rank_batches(self, rank: int, world_size: int, start: int = 0) -> Iterator[RankBatch]:
        """One rank's batches from a global sample offset on.

        Where the last global batch does not divide by the workers, short slices are padded: the batch's first row is
        repeated with weight 0, so that all ranks have equal shapes in a step.

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
        # The errors above come with the call, not with the first batch.
        firsts = range(start, len(self.order), self.global_batch)
        return (self._rank_batch(first, rank, world_size) for first in firsts)

    def _rank_batch(self, first: int, rank: int, world_size: int) -> RankBatch:
        end = min(first + self.global_batch, len(self.order))
        mine = slice(first + rank, end, world_size)
        rows = self.order[mine].copy()
        weights = np.ones(len(rows), dtype=np.float32) if self.weights is None else self.weights[mine].copy()
        padding = -(-(end - first) // world_size) - len(rows)
        if padding:
            rows = np.concatenate([rows, np.repeat(self.order[first], padding)])
            weights = np.concatenate([weights, np.zeros(padding, dtype=np.float32)])
        return RankBatch(rows, weights, end, end - first)


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
        InputError: the subset is empty, not increasing, or its weights do not fit; a size is below 1.
    """
    _check_subset(subset)
    rows = len(subset.row_ids)
    size = int(block_rows) if np.ndim(block_rows) == 0 else None
    if min(global_batch, window_blocks, 1 if size is None else size) < 1:
        sizes = f"global batch {global_batch}, window {window_blocks} blocks, block rows {size}"
        raise InputError(sizes, "all must be 1 or more")
    generator = np.random.Generator(np.random.PCG64([seed % 2**64, subset.epoch]))
    ids = subset.row_ids
    block_of = np.searchsorted(np.asarray(block_rows), ids, side="right") if size is None else ids // size
    present, block = np.unique(block_of, return_inverse=True)
    window = (generator.permutation(len(present)) // window_blocks)[block]
    # Sorting by (window, noise) shuffles within windows and keeps windows apart.
    order = np.lexsort((generator.random(rows), window))
    weights = None if subset.weights is None else subset.weights[order].astype(np.float32)
    return EpochPlan(subset.row_ids[order], weights, global_batch, seed, subset.epoch)


def _check_subset(subset: Subset) -> None:
    rows = len(subset.row_ids)
    if rows == 0:
        raise InputError(f"epoch {subset.epoch} has no rows", "raise the kept share, or check the labels")
    if (subset.row_ids[1:] <= subset.row_ids[:-1]).any():
        raise InputError(f"epoch {subset.epoch}: row_ids are not increasing and distinct", "sort them, once each")
    if subset.weights is not None and len(subset.weights) != rows:
        raise InputError(
            f"epoch {subset.epoch}: {len(subset.weights)} weights for {rows} rows", "give one for each row"
        )
