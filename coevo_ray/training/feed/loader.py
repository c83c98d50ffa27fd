"""A feed that replaces a torch DataLoader: selected epochs for trainers that take any iterable of batches.

It follows the protocol of stateful data loaders (`state_dict`, `load_state_dict`, `len`, `set_epoch`), which Lightning,
Accelerate and torchdata share. A position is an epoch and a number of global samples, so a training resumes after the
same batch even with another number of processes.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import IterableDataset

from coevo_ray.core.arrays import AnyArray
from coevo_ray.core.rows.row_set import EpochRows, Subset
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.feed.batch import Batch
from coevo_ray.training.feed.exchange import from_all_ranks

Columns = Sequence[str] | Mapping[str, str] | None
_VERSION = 1


class Batches(Protocol):
    """The part of a `Feed` that its loaders use."""

    table: RowTable
    global_batch: int
    seed: int
    window_blocks: int
    rows_made: int

    def epoch(self, subset: EpochRows, *, start: int = 0) -> Iterator[Batch]:
        """See `Feed.epoch`."""
        ...

    def close(self) -> None:
        """See `Feed.close`."""
        ...


class FeedLoader:
    """Batches of the rows that a ledger selects for each epoch; made by `Feed.loader`.

    Iterating begins the next epoch and commits the one before, whether its batches were all taken or not. The first
    iteration after `set_epoch`, `load_state_dict` or `seek` starts at that position instead. Each process of a
    distributed training iterates a loader of its own, made with the same arguments, and gets its part of each global
    batch; the processes' ledgers stay the same without communication.

    Args:
        feed: makes the batches.
        ledger: selects rows; of the rows of the feed's table.
        columns: what a batch holds: names for a tuple of tensors; a mapping of your names to the feed's for a dict of
            tensors; None for a dict of all. Names are those of the transform's tensors, `weights` float32[rows],
            `row_ids` int64[rows], and `texts`, of a feed of texts without a tokenizer.

    Attributes:
        feed, ledger: as given. `ledger.usage()` counts the epochs before the current one.
        epochs: number of epochs that the policy runs.
        names_of_model: names of tensors in a dict of all, if a trainer's model has others; set by `attach`.
        planned: rows of each epoch, as far as the policy knows them beforehand.
    """

    # What `accelerate.skip_first_batches` asks a loader for, besides `dataset`: batches come ready from that.
    batch_size, drop_last, num_workers, prefetch_factor = None, False, 0, None

    def __init__(self, feed: Batches, ledger: SelectionLedger, columns: Columns = None) -> None:
        self.feed, self.ledger = feed, ledger
        self.columns = columns if columns is None or isinstance(columns, Mapping) else list(columns)
        self.planned = planned_visits(ledger.policy, ledger.keep, ledger.epochs, len(ledger.candidates), ledger.rules)
        self.epochs = len(self.planned)
        self._epoch = min(ledger.committed, self.epochs - 1)
        self._subset: Subset = ledger.select(self._epoch)
        self._offset = 0 if self._epoch == ledger.committed else len(self._subset)
        self._begun = False  # a batch was handed out since the position was set
        self._named = False  # the position was set by the caller, who may ask for what is left of a finished epoch
        self.names_of_model: Mapping[str, str] | None = None
        self._running: weakref.ref[Generator[Any, None, None]] | None = None

    # -- batches -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of batches of the present epoch, on every rank; those before a resumed position are among them."""
        return -(-len(self._subset) // self.feed.global_batch)

    def __iter__(self) -> Iterator[Any]:
        """One rank's batches from the position on.

        Raises:
            InputError: all epochs are over.
            UsageError: a name of `columns` is none of a batch (with the first batch).
        """
        finished = self._offset == len(self._subset) and not self._named
        if self._begun or finished:
            self._go_to(self._epoch + 1)
        self._end_running()
        batches = self._batches()
        self._running = weakref.ref(batches)
        return batches

    def _batches(self) -> Generator[Any, None, None]:
        batches = self.feed.epoch(self._subset, start=self._offset)
        try:
            for batch in batches:
                self._offset, self._begun, self._named = batch.offset, True, False
                yield self._formed(batch)
        finally:
            getattr(batches, "close", lambda: None)()

    def _end_running(self) -> None:
        """A loader has one position: the iterator before is over, and its threads end."""
        running = None if self._running is None else self._running()
        if running is not None:
            running.close()

    def _formed(self, batch: Batch) -> Any:
        if self.columns is None and self.names_of_model is not None:
            return {self.names_of_model.get(name, name): tensor for name, tensor in batch.tensors.items()}
        if self.columns is None:
            return {name: _value(batch, name) for name in _names(batch)}
        if isinstance(self.columns, Mapping):
            return {name: _value(batch, source) for name, source in self.columns.items()}
        return tuple(_value(batch, name) for name in self.columns)

    @property
    def dataset(self) -> IterableDataset[Any]:
        """The current epoch's batches from its first, None for those before the position.

        `accelerate.skip_first_batches` makes a loader of it that skips a number of batches. Those before the position
        are not made again.
        """
        return _FromTheFirst(self)

    # -- position ------------------------------------------------------------------------------------------------

    def set_epoch(self, epoch: int) -> None:
        """Moves to the start of an epoch; a just loaded position inside it stays.

        Args:
            epoch: from 0. Epochs between are selected and committed, which policies without losses can do.

        Raises:
            InputError: there is no such epoch, it is before the last committed one, or the policy needs losses of an
                epoch that was skipped.
        """
        if epoch != self._epoch or self._begun:
            self._go_to(epoch)
        self._named = True

    def seek(self, epoch: int, batches: int) -> None:
        """Moves past some batches of an epoch.

        Args:
            epoch: as in `set_epoch`.
            batches: number of global batches of it that are done.

        Raises:
            InputError: as `set_epoch`, or the epoch has fewer batches.
        """
        self._go_to(epoch)
        if not 0 <= batches <= len(self):
            raise InputError(f"batch {batches} of the {len(self)} of epoch {epoch}", "give a number of batches of it")
        self._offset = min(batches * self.feed.global_batch, len(self._subset))
        self._named = True

    def _go_to(self, epoch: int) -> None:
        if not 0 <= epoch < self.epochs:
            raise InputError(
                f"epoch {epoch} was requested, the loader has {self.epochs} from 0 on",
                "make it with as many epochs as the training runs",
            )
        reached = self._epoch + (self._offset > 0)
        if self.ledger.policy.needs_losses and epoch > reached:
            raise InputError(
                f"epoch {epoch} was requested, {reached} is next: {self.ledger.policy.name} needs the losses between",
                "load the loader's state (load_state_dict)",
            )
        while self.ledger.committed < epoch:
            self.ledger.select(self.ledger.committed)
            self.ledger.commit(self.ledger.committed)
        self._subset = self.ledger.select(epoch)
        self._epoch, self._offset, self._begun, self._named = epoch, 0, False, False

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch that was handed out, and the ledger's state; the same on all ranks.

        Only numbers, strings and tensors, for `torch.load(weights_only=True)`. It takes 1 to 2 bytes per row, plus the
        losses that the policy keeps.
        """
        fields, arrays = self.ledger.state()
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        position = {"version": _VERSION, "epoch": self._epoch, "offset": self._offset}
        return {**position, **self._order(), "ledger": json.dumps(fields), "arrays": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where another loader's state was taken; the number of processes may differ.

        Args:
            state: of `state_dict`.

        Raises:
            InputError: it is of another table, batch, seed or policy, or not a loader's state.
        """
        mine = self._order()
        if state.get("version") != _VERSION or not mine.keys() <= state.keys():
            raise InputError("this is no state of a feed's loader", "give what its state_dict returned")
        for name, value in mine.items():
            if state[name] != value:
                have = f"the state's {name} is {state[name]!r}, this loader's is {value!r}"
                raise InputError(have, "make the loader with the former arguments; the number of processes may differ")
        arrays: dict[str, AnyArray] = {name: tensor.cpu().numpy() for name, tensor in state["arrays"].items()}
        self.ledger.restore(json.loads(state["ledger"]), arrays)
        self._epoch, self._offset = int(state["epoch"]), int(state["offset"])
        self._begun = self._named = False
        self._subset = self.ledger.select(self._epoch)

    def _order(self) -> dict[str, Any]:
        """Inputs of the order of batches, besides the ledger."""
        feed = self.feed
        sizes = {"global_batch": feed.global_batch, "seed": feed.seed, "window_blocks": feed.window_blocks}
        return {"table": feed.table.manifest.identity, **sizes}

    # -- losses --------------------------------------------------------------------------------------------------

    def report_losses(self, row_ids: torch.Tensor, losses: torch.Tensor, entropies: torch.Tensor | None = None) -> int:
        """Reports the losses of a batch to the ledger, for policies that use them; others ignore it.

        Every rank has to call it with its part of the same batch: the parts are exchanged, so that all ledgers, and any
        rank's state, know all losses.

        Args:
            row_ids: int64[b], the batch's.
            losses, entropies: float[b] and float[b] or None, in nats.

        Returns:
            Number of rows stored.

        Raises:
            InputError: lengths differ, or a row is outside the table.
        """
        if not self.ledger.policy.needs_losses:
            return 0
        ids, values, others = from_all_ranks(row_ids, losses, entropies)
        return self.ledger.report_losses(self._epoch, ids, values, others)

    def attach(self, trainer: Any) -> None:
        """Makes a `transformers.Trainer` train on this loader, and resume within an epoch.

        Args:
            trainer: the trainer, before `train`. Its `train_dataset` is not used. Where `columns` is None, batches have
                what its model takes: the transform's tensors, `label` as `labels` and `image` by the model's name.

        Raises:
            UsageError: the policy needs losses, or epochs differ in their number of batches: the trainer can do
                neither.
        """
        from coevo_ray.training.feed.transformers_trainer import attach  # imports transformers

        attach(self, trainer)

    def close(self) -> None:
        """Commits the current epoch if it is over, and ends the threads and processes that make batches."""
        self._end_running()
        if self._offset == len(self._subset) and self.ledger.committed == self._epoch:
            self.ledger.commit(self._epoch)
        self.feed.close()

    @property
    def position(self) -> tuple[int, int]:
        """The present epoch, and how many of its global samples were handed out."""
        return self._epoch, self._offset


class _FromTheFirst(IterableDataset[Any]):
    """Batches of a loader's present epoch; see `FeedLoader.dataset`."""

    def __init__(self, loader: FeedLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        _, offset = self._loader.position
        yield from repeat(None, -(-offset // self._loader.feed.global_batch))
        yield from batches


def _names(batch: Batch) -> list[str]:
    return [*batch.tensors, *([] if batch.texts is None else ["texts"]), "weights", "row_ids"]


def _value(batch: Batch, name: str) -> Any:
    """The entry of a batch under a name."""
    if name == "weights":
        return batch.weights
    if name == "row_ids":
        return torch.from_numpy(np.ascontiguousarray(batch.row_ids))
    if name == "texts" and batch.texts is not None:
        return batch.texts
    if name not in batch.tensors:
        raise UsageError(f"batches have no {name!r}", f"columns can be: {', '.join(_names(batch))}")
    return batch.tensors[name]
