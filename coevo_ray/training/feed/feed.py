"""The feed: hands a subset's batches to training workers.

The order of an epoch depends only on (seed, epoch, subset); rank r of W takes every W-th row of each global batch, so
all ranks make the same number of steps, for any W. Rows outside the subset are neither decoded nor moved, and a row
group without a selected row is not read.

Reading, making tensors and copying them to a GPU run concurrently, each a little ahead of the next.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.feed.epoch_plan import EpochPlan, EpochRows, plan_epoch
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.selection.policies import KeptShares, Policy
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.store.location import ArtifactLike
from coevo_ray.store.row_table import RowTable, vector_column_of
from coevo_ray.training.feed.batch import Batch, Tensors, Transform, ahead, on_device
from coevo_ray.training.feed.exchange import device_of_accelerator, place_among_processes
from coevo_ray.training.feed.images import PerImage
from coevo_ray.training.feed.ledger_of_table import ledger_of
from coevo_ray.training.feed.loader import Columns, FeedLoader
from coevo_ray.training.feed.reading import Work, read_windows
from coevo_ray.training.feed.texts import TextTransform, Tokenize
from coevo_ray.training.feed.vectors import VectorTransform
from coevo_ray.training.feed.workers import MakerProcesses, Packed

__all__ = ["Batch", "Feed", "Tensors", "Transform"]

_WINDOW_BYTES = 256 << 20


class Feed:
    """Batches of a row table, by epoch.

    Memory is bounded by two windows and `prefetch` batches, whatever the table's size. A window's rows come from
    `window_blocks` row groups: if neighbouring rows are alike, as in a pool whose folders are classes, a larger window
    mixes better. Each of W workers holds about a W-th of it.

    Args:
        table: pool, targets or any other row table.
        columns: columns that the transform needs.
        transform: makes tensors of some rows. It gets the rows, with `row_id`, and uint64[rows] seeds, which depend
            only on (seed, epoch, row_id). For map-style transforms see `of_images`.
        global_batch: rows of a batch over all workers.
        seed: seed of the order and of augmentation.
        window_blocks: maximum row groups among which rows are shuffled; fewer if they hold more than 256 MiB.
        prefetch: batches to make ahead; 0 reads and makes them on demand.
        workers: processes that make tensors; 0 makes them in a thread of this process. They start with the first epoch
            and live until `close`. Scripts need the usual `if __name__ == "__main__"` guard, the transform must pickle.
        device: destination of the tensors, copied from pinned memory on a stream of its own if it is a GPU.

    Attributes:
        rows_made: rows that the transform has been given so far, padding included.

    Raises:
        InputError: a size is out of range.
    """

    def __init__(
        self,
        table: RowTable,
        columns: list[str],
        transform: Transform,
        *,
        global_batch: int,
        seed: int,
        window_blocks: int = 32,
        prefetch: int = 4,
        workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if min(global_batch, window_blocks, prefetch + 1, workers + 1) < 1:
            sizes = f"global batch {global_batch}, window {window_blocks}, prefetch {prefetch}, workers {workers}"
            raise InputError(sizes, "the first two must be 1 or more, the others 0 or more")
        self.table, self.columns, self.transform = table, columns, transform
        self.global_batch, self.seed = global_batch, seed
        self.prefetch, self.workers, self.device = prefetch, workers, torch.device(device)
        self.rows_made = 0
        self._blocks = table.block_starts()
        block_bytes = sum(f.bytes for f in table.files) // max(1, len(self._blocks))
        self.window_blocks = max(1, min(window_blocks, _WINDOW_BYTES // max(1, block_bytes)))
        self._makers: MakerProcesses | None = None
        # The column of the texts that batches have as they are.
        self._texts = transform.column if isinstance(transform, TextTransform) and transform.tokenize is None else None

    @classmethod
    def of_images(
        cls,
        pool: Pool | str | os.PathLike[str],
        transform: Any = None,
        *,
        global_batch: int,
        seed: int = 0,
        receives: str = "tensor",
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Feed:
        """A feed of a pool's images and labels, for a training loop of your own.

        Batches have `image`, what the transform made, stacked, and `label` int64[rows], -1 where a row has none.

        Args:
            pool: the pool, or its path or URI.
            transform: any function of one image, for instance from torchvision.transforms.v2, that returns a tensor.
                Its random numbers depend on (seed, epoch, row_id), see `PerImage`.
            global_batch: rows of a batch over all workers.
            seed: seed of the order and of augmentation.
            receives: "tensor": the transform gets uint8[3, h, w]; "pil": an RGB image of Pillow.
            device: destination of the tensors; None is the device of this Ray Train worker or of the Accelerator that
                this process has made, else the CPU.
            options: as in `Feed`.

        Raises:
            InputError: there is no pool.
            UsageError: it holds no images.
        """
        opened = pool_for("feed_of_images", pool)
        made = PerImage(transform, receives=receives)
        place = _worker_device() if device is None else device
        return cls(opened, ["image", "label"], made, global_batch=global_batch, seed=seed, device=place, **options)

    @classmethod
    def of_texts(
        cls,
        pool: Pool | str | os.PathLike[str],
        tokenize: Tokenize | None = None,
        *,
        global_batch: int,
        seed: int = 0,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Feed:
        """A feed of a pool's texts and labels, for a training loop of your own.

        Batches have what the tokenizer made, and `label` int64[rows], -1 where a row has none.

        Args:
            pool: the pool, or its path or URI.
            tokenize: any function of a list of texts that returns a tensor or array with a row for each, which batches
                have as `text`, or a mapping of such, as tokenizers of transformers do with `return_tensors="pt"`. None:
                batches have the texts themselves as `batch.texts`.
            global_batch: rows of a batch over all workers.
            seed: seed of the order.
            device: as in `of_images`.
            options: as in `Feed`.

        Raises:
            InputError: there is no pool.
            UsageError: it holds no texts.
        """
        opened = pool_for("feed_of_texts", pool)
        place = _worker_device() if device is None else device
        made = TextTransform(tokenize)
        return cls(opened, ["text", "label"], made, global_batch=global_batch, seed=seed, device=place, **options)

    @classmethod
    def of_vectors(
        cls,
        table: RowTable | str | os.PathLike[str],
        column: str | None = None,
        *,
        global_batch: int,
        seed: int = 0,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Feed:
        """A feed of a column of vectors, for a training loop of your own.

        Batches have the vectors float32[rows, d] under the name of their column, for a pool also `label` int64[rows],
        -1 where a row has none.

        Args:
            table: a pool, targets, or any other row table; or its path or URI.
            column: its name; None for the only one with vectors.
            global_batch: rows of a batch over all workers.
            seed: seed of the order.
            device: as in `of_images`.
            options: as in `Feed`.

        Raises:
            InputError: there is no such table or column, or there are several columns.
        """
        opened = table if isinstance(table, RowTable) else RowTable(table)
        name, place = vector_column_of(opened, column), _worker_device() if device is None else device
        columns = [name, *(["label"] if opened.manifest.kind == "pool" else [])]
        made = VectorTransform(name)
        return cls(opened, columns, made, global_batch=global_batch, seed=seed, device=place, **options)

    def plan(self, subset: EpochRows) -> EpochPlan:
        """The global order of an epoch; the same in every process.

        Raises:
            InputError: the subset is empty.
        """
        return plan_epoch(
            subset,
            seed=self.seed,
            global_batch=self.global_batch,
            block_starts=self._blocks,
            window_blocks=self.window_blocks,
        )

    def epoch(
        self, subset: EpochRows, rank: int | None = None, world_size: int | None = None, start: int = 0
    ) -> Iterator[Batch]:
        """One rank's batches of an epoch.

        Args:
            subset: rows and weights of the epoch, such as a `Subset`; they are read a window at a time.
            rank: this worker's rank; None: its rank in Ray Train, else in `torch.distributed`, else 0.
            world_size: number of workers; None as for `rank`.
            start: global samples already done (a batch's `offset`); their rows are not read again. The number of
                workers may have changed.

        Raises:
            InputError: the subset is empty, a row is not in the table, or `start` is not a batch's offset.
            StoppedError: a process that makes tensors died.
        """
        if rank is None or world_size is None:
            rank, world_size = _worker_place()
        plan = self.plan(subset)
        steps = plan.rank_batches(rank, world_size, start)
        windows = read_windows(self.table, self.columns, plan, steps)
        if self.prefetch:
            windows = ahead(windows, 1)
        works = (work for window in windows for work in window)
        made = self._made(works, subset.epoch)
        # A transform that draws from this process's generators must not do so while the training loop does.
        shares_random = self.workers == 0 and getattr(self.transform, "global_random", False)
        if self.prefetch and not shares_random:
            made = ahead(made, self.prefetch)
        return on_device(made, self.device)

    def loader(
        self,
        epochs: int,
        columns: Columns = None,
        *,
        policy: str | Policy = "rotation",
        keep: float | KeptShares = 1.0,
        rows: Int64Array | None = None,
        scores: ArtifactLike | None = None,
        evidence: ArtifactLike | None = None,
        policy_options: Mapping[str, Any] | None = None,
    ) -> FeedLoader:
        """An iterable that replaces a torch DataLoader, over the rows that a policy selects for each epoch.

        For Lightning, Accelerate, the Trainer of transformers, or a loop of your own; see `FeedLoader`.

        Args:
            epochs: of the training; policies spread rows over them.
            columns: what a batch holds, see `FeedLoader`: names make it a tuple, a mapping or None a dict.
            policy: its name, or the policy.
            keep: share of the rows that an epoch keeps, in (0, 1], or the schedule of one.
            rows: int64[n], rows that may be selected; None for a pool's training rows (those with a label, if any), or
                all rows of another table.
            scores: result of `sae`, for policies that use factors or scores.
            evidence: evidence on labels and copies, for policies that use it.
            policy_options: the policy's own options, if it is given by name.

        Raises:
            InputError: there are no such rows or tables, or the policy lacks an input.
            UsageError: the policy, an option or a share is wrong.
        """
        known = {"scores": scores, "evidence": evidence}
        options = dict(policy_options or {})
        ledger = ledger_of(self.table, policy, options, rows, known, keep=keep, epochs=epochs, seed=self.seed)
        return FeedLoader(self, ledger, columns)

    def close(self) -> None:
        """Ends the processes that make tensors; a later epoch starts them again."""
        if self._makers is not None:
            self._makers.close()
            self._makers = None

    def _made(self, works: Iterator[Work], epoch: int) -> Iterator[Batch]:
        epoch_seed = int(hash_rows(np.array([epoch], dtype=np.int64), self.seed)[0])
        if self.workers == 0:
            for work in works:
                self.rows_made += len(work.step.row_ids)
                tensors = self.transform(work.rows, hash_rows(work.step.row_ids, epoch_seed))
                yield _batch(work, tensors, self._texts)
            return
        if self._makers is None:
            self._makers = MakerProcesses(self.transform, self.workers)
        waiting: deque[tuple[Work, Future[Packed]]] = deque()
        try:
            for work in works:
                self.rows_made += len(work.step.row_ids)
                waiting.append((work, self._makers.make(work.rows, hash_rows(work.step.row_ids, epoch_seed))))
                if len(waiting) > 2 * self.workers:  # one in work and one to begin with for each process
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()

    def _finished(self, work: Work, future: Future[Packed]) -> Batch:
        return _batch(work, MakerProcesses.result(future), self._texts)


def _batch(work: Work, tensors: Tensors, texts: str | None) -> Batch:
    step = work.step
    values = None if texts is None else work.rows.column(texts).to_pylist()
    return Batch(tensors, step.row_ids, torch.from_numpy(step.weights), step.offset, step.global_rows, values)


def _worker_place() -> tuple[int, int]:
    """Rank and number of Ray Train's workers, or else of torch's processes; (0, 1) in a process that is alone."""
    context = _train_context()
    return place_among_processes() if context is None else (context.get_world_rank(), context.get_world_size())


def _worker_device() -> torch.device:
    """The device that Ray Train gave to this worker, or that an Accelerator here has; in other processes the CPU."""
    if _train_context() is None:
        return device_of_accelerator() or torch.device("cpu")
    device: torch.device = ray.train.torch.get_device()
    return device


def _train_context() -> ray.train.TrainContext | None:
    try:
        return ray.train.get_context()
    except RuntimeError:  # what Ray Train raises outside of a training function
        return None
