"""The order of an epoch: its rows by step and worker (docs/design.md#feed).

The global order depends on (subset, seed, epoch, blocks, window) alone. Rank r of W takes every W-th row of each global
batch, so that all ranks have equal step counts: with unequal ones DDP would hang. A plan holds a few numbers per block
and reads the row_ids and weights of a window when it is reached, so that an epoch of 30 million rows starts as fast as
one of a thousand, and no worker holds more of it than two windows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int32Array, Int64Array
from coevo_ray.core.rows.row_set import EpochRows, RowSet, Subset
from coevo_ray.errors import InputError

__all__ = ["EpochPlan", "EpochRows", "Float32Array", "RankBatch", "Subset", "plan_epoch"]

_FIRST, _END = np.iinfo(np.int64).min, np.iinfo(np.int64).max


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
        rows: the rows of the epoch; read a window at a time.
        seed: seed of the run.
        global_batch: rows of a global batch; the last one may be smaller.
        block_starts: int64[blocks], first row_ids of all blocks, increasing. Rows before the first belong to it.
        window_blocks: number of blocks of a window.

    Attributes:
        rows: number of rows of the epoch.
        steps: number of steps of the epoch, the same on every rank.
        global_batch, seed, epoch: inputs of the order.
    """

    def __init__(
        self, rows: EpochRows, *, seed: int, global_batch: int, block_starts: Int64Array, window_blocks: int
    ) -> None:
        inner = np.asarray(block_starts, dtype=np.int64)[1:]
        self._source, self._ends = rows, np.concatenate([[_FIRST], inner, [_END]])
        self.seed, self.epoch, self.global_batch = seed, rows.epoch, global_batch
        self.rows = len(rows)
        self.steps = -(-self.rows // global_batch)
        bounds = np.concatenate([[0], rows.positions(inner), [self.rows]]).astype(np.int64)
        self._bounds = bounds
        present = np.flatnonzero(np.diff(bounds))
        self._visits = self._generator().permutation(present)
        self._window_blocks = window_blocks
        sizes = np.diff(bounds)[self._visits]
        self._window_starts = np.concatenate([[0], np.add.reduceat(sizes, np.arange(0, len(sizes), window_blocks))])
        np.cumsum(self._window_starts, out=self._window_starts)
        self._window_of_block = np.zeros(len(bounds) - 1, dtype=np.int32)
        self._window_of_block[self._visits] = np.arange(len(self._visits)) // window_blocks

    def window_of(self, row_ids: Int64Array) -> Int32Array:
        """Returns the window of each of some rows int64[n] of the epoch: int32[n], in order of use."""
        windows: Int32Array = self._window_of_block[np.searchsorted(self._ends, row_ids, side="right") - 1]
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

    def _batches(self, start: int) -> Iterator[tuple[int, _Rows]]:
        """Yields offsets and rows of global batches; holds one window and the rest of the one before."""
        if start >= self.rows:
            return
        window = int(np.searchsorted(self._window_starts, start, side="right")) - 1
        held = self._window(window).take(slice(start - self._window_starts[window], None))
        for first in range(start, self.rows, self.global_batch):
            size = min(self.global_batch, self.rows - first)
            parts = [held]
            while sum(map(len, parts)) < size:
                window += 1
                parts.append(self._window(window))
            held = _Rows.joined(parts)
            yield first, held.take(np.argsort(held.row_ids[:size])[_spread(size)])
            held = held.take(slice(size, None))

    def _window(self, window: int) -> _Rows:
        """Reads a window's rows, and shuffles them."""
        blocks = self._visits[window * self._window_blocks : (window + 1) * self._window_blocks]
        spans = np.stack([self._ends[blocks], self._ends[blocks + 1], self._bounds[blocks]], axis=1)
        rows = _Rows(*self._source.read(spans))
        return rows.take(self._generator(window + 1).permutation(len(rows)))

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed % 2**64, self.epoch, *stream]))

    def _rank_batch(self, first: int, batch: _Rows, rank: int, world_size: int) -> RankBatch:
        mine = np.arange(rank, len(batch), world_size)
        padding = -(-len(batch) // world_size) - len(mine)
        places = np.concatenate([mine, np.zeros(padding, dtype=np.int64)])
        given = batch.weights
        weights = np.ones(len(places), np.float32) if given is None else given[places].astype(np.float32)
        weights[len(mine) :] = 0
        return RankBatch(batch.row_ids[places], weights, first + len(batch), len(batch))


@dataclass(frozen=True)
class _Rows:
    """Rows int64[n] with their weights float32[n], or None."""

    row_ids: Int64Array
    weights: Float32Array | None

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, which: slice | Int64Array) -> _Rows:
        """Some of the rows, in the order given."""
        return _Rows(self.row_ids[which], None if self.weights is None else self.weights[which])

    @staticmethod
    def joined(parts: list[_Rows]) -> _Rows:
        """Rows one after another, of one epoch."""
        if len(parts) == 1:
            return parts[0]
        weights = [part.weights for part in parts if part.weights is not None]
        return _Rows(np.concatenate([part.row_ids for part in parts]), np.concatenate(weights) if weights else None)


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
    subset: EpochRows, *, seed: int, global_batch: int, block_starts: Int64Array, window_blocks: int
) -> EpochPlan:
    """Orders a subset: blocks in shuffled order, rows shuffled within windows of `window_blocks` of them.

    Args:
        subset: rows of the epoch.
        seed: seed of the run; the epoch is mixed in.
        global_batch: rows of a global batch.
        block_starts: int64[blocks], first row_ids of all blocks, increasing.
        window_blocks: number of blocks that are shuffled together; bounds a reader's memory.

    Raises:
        InputError: the subset is empty, not increasing, or its weights do not fit; a size is below 1.
    """
    if len(subset) == 0:
        raise InputError(f"epoch {subset.epoch} has no rows", "raise the kept share, or check the labels")
    if isinstance(subset, Subset):
        _check_subset(subset)
    if min(global_batch, window_blocks, len(block_starts)) < 1:
        sizes = f"global batch {global_batch}, window {window_blocks} blocks, {len(block_starts)} blocks"
        raise InputError(sizes, "all must be 1 or more")
    return EpochPlan(
        subset, seed=seed, global_batch=global_batch, block_starts=block_starts, window_blocks=window_blocks
    )


def _check_subset(subset: Subset) -> None:
    rows = subset.rows
    if not isinstance(rows, RowSet) and (rows[1:] <= rows[:-1]).any():
        raise InputError(f"epoch {subset.epoch}: row_ids are not increasing and distinct", "sort them, once each")
    if subset.weights is not None and len(subset.weights) != len(rows):
        raise InputError(
            f"epoch {subset.epoch}: {len(subset.weights)} weights for {len(rows)} rows", "give one for each row"
        )
