"""The loop over epochs that every Ray Train worker runs, whatever it trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from coevo_ray.actors.progress_board import BoardHandle
from coevo_ray.core.json import JsonObject
from coevo_ray.store.location import Location
from coevo_ray.training.loop.learner import Learner
from coevo_ray.training.loop.metrics import write_metrics
from coevo_ray.training.loop.ray_train import wait_for_checkpoints
from coevo_ray.training.trackers.base import Trackers


@dataclass(frozen=True)
class EpochReports:
    """Destinations of an epoch's figures; pickles, so that it can be passed to workers.

    Attributes:
        board: the progress that the driver shows.
        folder: the training's output, for `metrics.jsonl`.
        trackers: take them too.
    """

    board: BoardHandle
    folder: Location
    trackers: Trackers


@dataclass(frozen=True)
class EpochResult:
    """One epoch of all workers.

    Attributes:
        samples: rows that it used.
        figures: entries of the history besides those of `Learner.finish`.
    """

    samples: int
    figures: JsonObject


class Objective(Protocol):
    """One worker's part of a training."""

    @property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        ...

    def train_epoch(self, epoch: int) -> EpochResult:
        """Makes the steps of an epoch, or those that are left of it, and evaluates; all workers call it."""
        ...

    def after_epoch(self, epoch: int, entry: JsonObject) -> str:
        """Commits an epoch that all workers have finished, before it is checkpointed; called on rank 0.

        Args:
            epoch: its number.
            entry: its entry in the history.

        Returns:
            A short text beside the progress bar.
        """
        ...


def train_epochs(learner: Learner, objective: Objective, reports: EpochReports) -> None:
    """Trains from the last checkpoint to the end; every epoch ends with a checkpoint and its figures.

    Args:
        learner: has the network; the objective's steps go through it.
        objective: makes the steps of an epoch.
        reports: destinations of the figures.

    Raises:
        InputError: a row cannot be read, or the loss is not finite.
        StoppedError: the store refused.
    """
    if learner.rank == 0:
        learner.after_step = reports.board.beats()
        reports.board.note(len(learner.history), "training")
    for epoch in range(len(learner.history), objective.epochs):
        result = objective.train_epoch(epoch)
        entry = learner.finish(result.samples, **result.figures)
        if learner.rank == 0:
            # All ranks are past the epoch here: its figures have joined them. A new start goes back by one commit at
            # most, so that the checkpoint of the epoch before has to be known by now.
            if epoch > 0:
                wait_for_checkpoints()
            reports.board.note(epoch + 1, objective.after_epoch(epoch, entry))
        learner.save()
        if learner.rank == 0:
            write_metrics(reports.folder, learner.history)
            reports.trackers.log(learner.history[-1])
    if learner.rank == 0:
        reports.trackers.close()
