"""One worker's network, optimizer, schedule and history: every objective trains, saves and resumes with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import nn
from torch.optim.swa_utils import AveragedModel

from coevo_ray.config import LearningConfig
from coevo_ray.core.feed.epoch_plan import EpochRows
from coevo_ray.errors import InputError
from coevo_ray.training.feed.feed import Batch, Feed
from coevo_ray.training.feed.meter import FeedMeter
from coevo_ray.training.loop.descent import Descent
from coevo_ray.training.loop.fine_tuning import FineTuning, thaw
from coevo_ray.training.loop.ray_train import resume, save_checkpoint
from coevo_ray.training.loop.schedules import Progress, rate_factor, steps_of


class _Step(Protocol):
    """One step's input."""

    @property
    def offset(self) -> int:
        """Position in the epoch after it."""
        ...


StepT = TypeVar("StepT", bound=_Step)


class Learner:
    """A network in training on a Ray Train worker; the first thing that a loop makes.

    `prepare` comes first. Then, for each epoch from `len(history)` on: `begin_training`; `epoch` yields batches, `step`
    takes the losses of each, `finish` ends the epoch and `save` keeps it. A run that ends inside an epoch goes on
    behind the last step that was checkpointed, with any number of workers: positions count rows over all of them. An
    objective whose steps are not batches of one feed has `steps` and `descend` instead of `epoch` and `step`, and
    positions of its own.

    Args:
        config: optimizer, schedule, precision.
        planned: steps of each epoch, as far as they are known beforehand.
        sums: number of sums that `descend` keeps over an epoch; the first over the second is the epoch's loss.

    Attributes:
        rank, world: this worker's place.
        device: of the network.
        network: the network, joined with the other workers' copies.
        average: its averaged weights, or None.
        descent: its optimizer.
        history: one entry for each finished epoch.
        after_step: called after every step, with a text that says how far the epoch is.
        before_checkpoint: called on every worker before a checkpoint inside an epoch, which no later start repeats.
    """

    def __init__(self, config: LearningConfig, planned: Sequence[int], sums: int = 2) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self.config, self._planned = config, list(planned)
        self._resumed, self.history = resume()
        state = self._resumed or {}
        self._open: dict[str, Any] | None = state.get("open")
        self._progress = Progress(state.get("progress"))
        self._sums = torch.zeros(sums, dtype=torch.float64, device=self.device)
        self._since_checkpoint, self._offset, self._seconds = 0, 0, 0.0
        self.before_checkpoint: Callable[[], None] | None = None
        self.after_step: Callable[[str], None] | None = None
        self._kept: dict[str, torch.Tensor] = {}
        torch.manual_seed(config.seed)

    def prepare(self, network: nn.Module, tuning: FineTuning | None = None) -> None:
        """Takes a network at its start, or what the last checkpoint holds of it; joins the workers' copies."""
        # Channels last, the layout that convolutions are fastest in.
        network = network.to(memory_format=torch.channels_last)
        if self._resumed is not None:
            network.load_state_dict(self._resumed["model"])
        self._tuning = tuning or FineTuning()
        self._frozen = self._tuning.freeze(network, len(self.history))
        self.network: nn.Module = ray.train.torch.prepare_model(network)
        inner = self.network.module if hasattr(self.network, "module") else self.network
        assert isinstance(inner, nn.Module)
        self.descent = Descent(self.config, self.network, inner, self.device, self._tuning)
        if self._resumed is not None:
            self.descent.load(self._resumed)

    def begin_training(self) -> None:
        """Puts the network into training mode for the next epoch, or into evaluation mode while only its classifier
        learns.
        """
        frozen = self._tuning.is_frozen(len(self.history))
        if self._frozen and not frozen:
            # DDP joins the gradients of the parameters that had one when it was made. So a frozen backbone needs no
            # backward pass and nothing waits for its gradients; for the freed one a new DDP takes the place.
            thaw(self._frozen)
            self.network = self.descent.network = ray.train.torch.prepare_model(self.inner)
        self.network.train(not frozen)

    def keep(self, name: str, tensor: torch.Tensor) -> None:
        """Makes a tensor, the same on all workers, part of the training's state; puts the last checkpoint's into it."""
        self._kept[name] = tensor
        if self._resumed is not None:
            tensor.copy_(self._resumed["kept"][name])

    @property
    def inner(self) -> nn.Module:
        """The network without what joins the workers."""
        return self.descent.inner

    @property
    def average(self) -> AveragedModel | None:
        """See the class."""
        return self.descent.average

    def autocast(self) -> torch.autocast:
        """Computes in the configured precision inside a with statement."""
        return self.descent.autocast()

    def epoch(self, feed: Feed, subset: EpochRows) -> Iterator[Batch]:
        """This worker's batches of the next epoch; where one was left open, those behind the last checkpoint.

        Raises:
            InputError: as in `Feed.epoch`.
        """
        rows = len(subset)

        def batches(start: int) -> Iterator[Batch]:
            return feed.epoch(subset, self.rank, self.world, start)

        return self.steps(batches, rows, steps_of(rows, self.config.batch_rows), counts_rows=True)

    def steps(
        self, batches: Callable[[int], Iterator[StepT]], length: int, steps: int, *, counts_rows: bool = False
    ) -> Iterator[StepT]:
        """This worker's part of the next epoch's steps; where one was left open, of those behind the last checkpoint.

        Args:
            batches: makes the steps' inputs, from an offset on; 0 is the beginning.
            length: the last step's offset.
            steps: their number in the whole epoch.
            counts_rows: whether offsets count rows, for the metrics.
        """
        started, epoch = time.monotonic(), len(self.history)
        self._begin(steps)
        before = self._seconds
        meter = FeedMeter(self.rank, counts_rows)
        for batch in meter.timed(batches(self._offset), self._offset):
            # What the network draws (dropout) is a function of the step, so that a restart changes nothing.
            self._seed_step(_seed(self.config.seed, epoch, batch.offset, self.rank))
            self.descent.set_rate(self._factor())
            yield batch
            self._offset = batch.offset
            if self.after_step is not None:
                self.after_step(f"epoch {epoch + 1}: {self._offset / max(1, length):.0%}")
            self._seconds = before + time.monotonic() - started
            if self._checkpoint_due(length):
                self._save_open()
        self._seconds = before + time.monotonic() - started

    def _seed_step(self, seed: int) -> None:
        """Seeds this worker's device as `torch.manual_seed` does.

        That also keeps a stack trace with each call for devices that are not in use: half of a head's time, and memory.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _begin(self, steps: int) -> None:
        self._sums.zero_()
        self._offset, self._seconds, self._since_checkpoint = 0, 0.0, 0
        if self._open is None:
            self._progress.plan(steps, self._planned[len(self.history) + 1 :])
            return
        self._offset, self._seconds = self._open["offset"], self._open["seconds"]
        if self.rank == 0:  # the sums are over all workers: one of them carries them on
            self._sums.copy_(torch.tensor(self._open["sums"], dtype=torch.float64))
        self._open = None

    def _factor(self) -> float:
        return rate_factor(self.config.schedule, self.config.warm_up, self._progress.step())

    def _checkpoint_due(self, length: int) -> bool:
        self._since_checkpoint += 1
        every = self.config.compute.checkpoint_steps
        return every > 0 and self._since_checkpoint >= every and self._offset < length

    def step(self, losses: torch.Tensor, batch: Batch) -> None:
        """Applies one optimizer step on the weighted mean loss of the global batch.

        Args:
            losses: float[rows], each row's loss, not yet weighted.
            batch: its rows.
        """
        weights = batch.weights.to(self.device, non_blocking=True)
        weighted = (losses.float() * weights).sum()
        # DDP averages over workers: with this factor the gradient is the global batch's mean for any number.
        sums = torch.stack([weighted.detach().double(), weights.sum().double()])
        self.descend(weighted * (self.world / batch.global_rows), sums)

    def descend(self, loss: torch.Tensor, sums: torch.Tensor) -> None:
        """Applies one optimizer step.

        Args:
            loss: this worker's scalar; the step follows the mean of the workers' gradients.
            sums: float64[sums], this worker's part of the epoch's sums.
        """
        self.descent.step(loss)
        self._sums += sums

    def finish(self, samples: int, **figures: Any) -> dict[str, Any]:
        """Ends an epoch: adds it to the history, which the next `save` keeps. All workers call it.

        Args:
            samples: rows that the epoch used, over all workers.
            figures: further entries.

        Returns:
            The entry: `epoch`, `loss` (weighted mean over its rows), `samples` and `seconds` (of training, summed up
            over the epochs), `learning_rate` of the last step, and the figures.

        Raises:
            InputError: the loss is not finite.
        """
        total, weight = self.total_sums()[:2]
        loss = total / max(weight, 1e-12)
        if not np.isfinite(loss):
            raise InputError(
                f"the loss of epoch {len(self.history)} is {loss}: training diverged",
                "lower learning_rate, set clip_norm, or take precision float32; then choose another output",
            )
        before = self.history[-1] if self.history else {"samples": 0, "seconds": 0.0}
        entry = {
            "epoch": len(self.history),
            "loss": loss,
            **figures,
            "samples": before["samples"] + samples,
            "seconds": before["seconds"] + self._seconds,
            "learning_rate": self.descent.learning_rate,
        }
        self.history.append(entry)
        return entry

    def save(self) -> None:
        """Checkpoints the learner after an epoch; all workers wait for one another here."""
        save_checkpoint(self._state() if self.rank == 0 else {}, self.history, self.history[-1])

    def _save_open(self) -> None:
        """Checkpoints inside an epoch."""
        self._since_checkpoint = 0
        if self.before_checkpoint is not None:
            self.before_checkpoint()
        sums = self.total_sums()
        where = {"epoch": len(self.history), "offset": self._offset}
        state = self._state() | {"open": {**where, "sums": sums, "seconds": self._seconds}} if self.rank == 0 else {}
        save_checkpoint(state, self.history, where)

    def _state(self) -> dict[str, Any]:
        return {**self.descent.state(), "progress": self._progress.state(), "kept": self._kept}

    def total_sums(self) -> list[float]:
        """The sums of the open epoch so far, over all workers, who all call it."""
        sums = self._sums.clone()
        if self.world > 1:
            torch.distributed.all_reduce(sums)
        return [float(value) for value in sums]

    def share_average(self) -> None:
        """Gives all workers rank 0's averaged buffers: each has those of its own rows, and DDP does not know them."""
        if self.average is not None and self.world > 1:
            for buffer in self.average.buffers():
                torch.distributed.broadcast(buffer, src=0)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
