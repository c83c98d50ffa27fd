"""The order of an epoch: its rows by step and worker (docs/design.md#feed).

The global order depends on (subset, seed, epoch, blocks, window) alone. Rank r of W takes every W-th row of each global
batch, so that all ranks have equal step counts: with unequal ones DDP would hang. A plan holds one number per block and
computes a window when it is reached, so that an epoch of 30 million rows starts as fast as one of a thousand.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int32Array, Int64Array
from coevo_ray.core.rows.row_set import Subset
from coevo_ray.errors import InputError

__all__ = ["EpochPlan", "Float32Array", "RankBatch", "Subset", "plan_epoch"]


@dataclass(frozen=True)
class RankBatch:
    """One rank's slice of a global batch.

    Attributes:
        row_ids: int64[b]; b is the same on all ranks of a step.
        weights: float32[b]; 0 for padding, a repeated row of the same global batch.
        offset: number of samples of the epoch before the end of this global batch.
        global_rows: rows of the global batch, without padding.
    """

    row_ids: Int64Array
    weights: Float32Array
    offset: int
    global_rows: int


class EpochPlan:
    """The global order of one epoch; made by `plan_epoch`.

    Blocks are shuffled. `window_blocks` successive blocks form a window, whose rows are shuffled. Global batches are
    cut from that sequence. The rows of a batch are then sorted and taken in bit-reversed order, so that every W-th of
    them is a run of neighbours if W is a power of two. A rank thus reads about 1/W of a window's blocks instead of all
    of them, and the batch stays the same set of rows.

    Args:
        subset: the rows.
        seed: seed of the run.
        global_batch: rows of a global batch; the last one may be smaller.
        bounds: int64[blocks + 1], start of each block's rows in the subset.
        window_blocks: number of blocks of a window.

    Attributes:
        rows: number of rows of the epoch.
        steps: number of steps of the epoch, the same on every rank.
        global_batch, seed, epoch: inputs of the order.
    """

    def __init__(self, subset: Subset, *, seed: int, global_batch: int, bounds: Int64Array, window_blocks: int) -> None:
        self._subset, self._bounds = subset, bounds
        self.seed, self.epoch, self.global_batch = seed, subset.epoch, global_batch
        self.rows = len(subset.row_ids)
        self.steps = -(-self.rows // global_batch)
        present = np.flatnonzero(np.diff(bounds))
        self._visits = self._generator().permutation(present)
        self._window_blocks = window_blocks
        sizes = np.diff(bounds)[self._visits]
        self._window_starts = np.concatenate([[0], np.add.reduceat(sizes, np.arange(0, len(sizes), window_blocks))])
        np.cumsum(self._window_starts, out=self._window_starts)
        self._window_of_block = np.zeros(len(bounds) - 1, dtype=np.int32)
        self._window_of_block[self._visits] = np.arange(len(self._visits)) // window_blocks

    def window_of(self, row_ids: Int64Array) -> Int32Array:
        """Returns the window of each of some rows int64[n] of the subset: int32[n], in order of use."""
        positions = np.searchsorted(self._subset.row_ids, row_ids)
        windows: Int32Array = self._window_of_block[np.searchsorted(self._bounds, positions, side="right") - 1]
        return windows

    def rank_batches(self, rank: int, world_size: int, start: int = 0) -> Iterator[RankBatch]:
        """Yields one rank's batches, from a global sample offset on.

        If the last global batch is not divisible by the number of workers, short slices are padded: the batch's first
        row is repeated with weight 0, so that all ranks have equal shapes in a step.

        Args:
            rank, world_size: 0 <= rank < world_size.
            start: an `offset` of this plan, or 0.

        Returns:
            Batches of row_ids int64[b] and weights float32[b], in the order of steps.

        Raises:
            InputError: the rank is out of range, or `start` is not the end of a global batch.
        """
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} of {world_size} workers", "need 0 <= rank < world_size")
        if start != self.rows and (start % self.global_batch or not 0 <= start < self.rows):
            raise InputError(
                f"cannot start at sample {start} of {self.rows} in batches of {self.global_batch}",
                "start at an offset of this plan, with the same global batch",
            )
        # A generator expression, not `yield`: the errors above are raised by the call, not by the first batch.
        return (self._rank_batch(first, batch, rank, world_size) for first, batch in self._batches(start))

    def _batches(self, start: int) -> Iterator[tuple[int, Int64Array]]:
        """Yields offsets and subset positions of global batches; holds one window and the rest of the one before."""
        if start >= self.rows:
            return
        window = int(np.searchsorted(self._window_starts, start, side="right")) - 1
        held: Int64Array = self._window(window)[start - self._window_starts[window] :]
        for first in range(start, self.rows, self.global_batch):
            size = min(self.global_batch, self.rows - first)
            parts = [held]
            while sum(map(len, parts)) < size:
                window += 1
                parts.append(self._window(window))
            held = np.concatenate(parts) if len(parts) > 1 else held
            yield first, np.sort(held[:size])[_spread(size)]
            held = held[size:]

    def _window(self, window: int) -> Int64Array:
        """Returns the subset positions of a window's rows, shuffled."""
        blocks = self._visits[window * self._window_blocks : (window + 1) * self._window_blocks]
        parts = [np.arange(self._bounds[block], self._bounds[block + 1]) for block in blocks]
        shuffled: Int64Array = self._generator(window + 1).permutation(np.concatenate(parts))
        return shuffled

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed % 2**64, self.epoch, *stream]))

    def _rank_batch(self, first: int, batch: Int64Array, rank: int, world_size: int) -> RankBatch:
        mine = batch[rank::world_size]
        padding = -(-len(batch) // world_size) - len(mine)
        rows = np.concatenate([mine, np.repeat(batch[:1], padding)])
        given = self._subset.weights
        weights = np.ones(len(rows), np.float32) if given is None else given[rows].astype(np.float32)
        weights[len(mine) :] = 0
        return RankBatch(self._subset.row_ids[rows], weights, first + len(batch), len(batch))


@functools.lru_cache(maxsize=8)
def _spread(size: int) -> Int64Array:
    """Returns the ranks of 0..size-1 in the van der Corput sequence of base 2: int64[size]."""
    index = np.arange(size, dtype=np.int64)
    reversed_bits: Int64Array = np.zeros(size, dtype=np.int64)
    for bit in range(max(1, (size - 1).bit_length())):
        reversed_bits = (reversed_bits << 1) | ((index >> bit) & 1)
    ranks: Int64Array = np.argsort(np.argsort(reversed_bits))
    ranks.setflags(write=False)
    return ranks


def plan_epoch(
    subset: Subset, *, seed: int, global_batch: int, block_starts: Int64Array, window_blocks: int
) -> EpochPlan:
    """Orders a subset: blocks in shuffled order, rows shuffled within windows of `window_blocks` of them.

    Args:
        subset: rows of the epoch, row_ids int64[n].
        seed: seed of the run; the epoch is mixed in.
        global_batch: rows of a global batch.
        block_starts: int64[blocks], first row_ids of all blocks, increasing.
        window_blocks: number of blocks that are shuffled together; bounds a reader's memory.

    Raises:
        InputError: the subset is empty, not increasing, or its weights do not fit; a size is below 1.
    """
    _check_subset(subset)
    if min(global_batch, window_blocks, len(block_starts)) < 1:
        sizes = f"global batch {global_batch}, window {window_blocks} blocks, {len(block_starts)} blocks"
        raise InputError(sizes, "all must be 1 or more")
    inner = np.searchsorted(subset.row_ids, np.asarray(block_starts, dtype=np.int64)[1:])
    bounds = np.concatenate([[0], inner, [len(subset.row_ids)]]).astype(np.int64)
    return EpochPlan(subset, seed=seed, global_batch=global_batch, bounds=bounds, window_blocks=window_blocks)


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
