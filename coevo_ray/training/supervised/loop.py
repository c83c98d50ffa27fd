"""Supervised training on a Ray Train worker: the steps of each epoch's subset."""

from __future__ import annotations

import time
from dataclasses import dataclass

import ray
import torch
from torch import nn

from coevo_ray.actors.protocols import LedgerCalls
from coevo_ray.config import TrainConfig
from coevo_ray.core.arrays import IntArray
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.training.feed.batch import network_input
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.loop.learner import Learner
from coevo_ray.training.loop.schedules import steps_of
from coevo_ray.training.loop.train_epochs import EpochReports, EpochResult, train_epochs
from coevo_ray.training.loop.validation import HeldOut, accuracy_note
from coevo_ray.training.start import Start, make_classifier
from coevo_ray.training.supervised.loss_reports import LossReports
from coevo_ray.training.supervised.selected_rows import SelectedRows


@dataclass(frozen=True)
class SupervisedArguments:
    """Arguments of the workers of a supervised training.

    Attributes:
        config: network, optimizer, schedule.
        planned: rows of each epoch, as far as the policy knows them beforehand.
        candidates: rows that may be selected.
        report_losses: whether the policy needs each row's loss.
        source: what the network takes.
        classes: outputs of the network.
        start: trained network whose backbone it starts from, or None.
        labels: int[rows of the pool], -1 where a row has none; one copy for all workers of a node.
        held_out: labelled rows of the held-out split.
        selection: chooses each epoch's subset.
        reports: destinations of the figures.
    """

    config: TrainConfig
    planned: list[int]
    candidates: int
    report_losses: bool
    source: InputSource
    classes: int
    start: Start | None
    labels: ray.ObjectRef[IntArray]
    held_out: ray.ObjectRef[RowSet]
    selection: LedgerCalls
    reports: EpochReports


def train_loop(arguments: SupervisedArguments) -> None:
    """Trains on a worker."""
    objective = _Supervised(arguments)
    train_epochs(objective.learner, objective, arguments.reports)


class _Supervised:
    """One worker's learner and feeds."""

    def __init__(self, arguments: SupervisedArguments) -> None:
        self._arguments, self._config = arguments, arguments.config
        config, self._selection = arguments.config, arguments.selection
        self.epochs = len(arguments.planned)
        self.learner = Learner(config, [steps_of(rows, config.batch_rows) for rows in arguments.planned])
        self._reports = LossReports(self._selection.report_losses) if arguments.report_losses else None
        if self._reports is not None:
            self.learner.before_checkpoint = self._reports.flush
        self._labels: IntArray = ray.get(arguments.labels)
        source = arguments.source
        self._column = source.column
        self._feed = source.feed(config.batch_rows, config.seed, self.learner.device, config.augment)
        self._held_out = HeldOut(self.learner, ray.get(arguments.held_out), source, self._labels)
        self.learner.prepare(*make_classifier(config, source, arguments.classes, arguments.start))

    def train_epoch(self, epoch: int) -> EpochResult:
        """One pass over the epoch's subset, or what is left of it."""
        asked = time.monotonic()
        selected = SelectedRows(self._selection, epoch)
        selection_seconds = time.monotonic() - asked
        self._train_on(selected)
        rows = len(selected)
        shares = {"kept_share": rows / self._arguments.candidates, "selection_seconds": selection_seconds}
        return EpochResult(rows, {**self._held_out.accuracy(), **shares})

    def after_epoch(self, epoch: int, entry: JsonObject) -> str:
        """Commits the subset."""
        self._selection.commit(epoch)
        return accuracy_note(entry)

    def _train_on(self, selected: SelectedRows) -> None:
        learner, reports, smoothing = self.learner, self._reports, self._config.label_smoothing
        learner.begin_training()
        if reports is not None:
            reports.begin(selected.epoch)
        for batch in learner.epoch(self._feed, selected):
            labels = torch.from_numpy(self._labels[batch.row_ids]).to(learner.device, torch.int64)
            with learner.autocast():
                logits = learner.network(network_input(batch, self._column, learner.device))
            losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
            learner.step(losses, batch)
            if reports is not None:
                reports.add(batch, logits, labels)
        if reports is not None:
            reports.flush()
