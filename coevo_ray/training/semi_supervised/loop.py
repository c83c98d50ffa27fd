"""Semi-supervised training on a Ray Train worker: steps of labelled rows and of rows for consistency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import ray
import torch.distributed

from coevo_ray.config import SemiTrainConfig
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import RowSet, ids_of
from coevo_ray.training.feed.paired import PairedBatch, PairedFeed
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.loop.learner import Learner
from coevo_ray.training.loop.train_epochs import EpochReports, EpochResult, train_epochs
from coevo_ray.training.loop.validation import HeldOut, accuracy_note
from coevo_ray.training.semi_supervised.step import FIGURES, SemiRows, SemiSupervisedStep, figures, ramp_factor
from coevo_ray.training.start import Start, make_classifier


@dataclass(frozen=True)
class SemiSupervisedArguments:
    """Arguments of the workers of a semi-supervised training.

    Attributes:
        config: network, views, rule, schedule.
        source: what the network takes.
        rows: labels and splits.
        held_out: labelled rows of the held-out split.
        start: trained network whose backbone the network starts from, or None.
        reports: destinations of the figures.
    """

    config: SemiTrainConfig
    source: InputSource
    rows: ray.ObjectRef[SemiRows]
    held_out: ray.ObjectRef[RowSet]
    start: Start | None
    reports: EpochReports


def train_loop(arguments: SemiSupervisedArguments) -> None:
    """Trains on a worker."""
    objective = _SemiSupervised(arguments)
    train_epochs(objective.learner, objective, arguments.reports)


class _SemiSupervised:
    """One worker's learner and feeds."""

    def __init__(self, arguments: SemiSupervisedArguments) -> None:
        self._config = config = arguments.config
        rows: SemiRows = ray.get(arguments.rows)
        self.epochs = config.epochs
        labelled, unlabelled, steps = rows.plan(config)
        self.learner = learner = Learner(config, [steps] * config.epochs, FIGURES)
        source, device = arguments.source, learner.device
        few, many = source.held_feed(ids_of(labelled.row_ids), labelled.cycle.batch, config.seed), None
        if unlabelled is not None:
            many = (source.decoded_feed(unlabelled.cycle.batch, config.seed, device), unlabelled)
        self._feed = PairedFeed((few, labelled), many, steps, device)
        self._held_out = HeldOut(learner, ray.get(arguments.held_out), source, rows.known)
        learner.prepare(*make_classifier(config, source, rows.classes, arguments.start))
        total = torch.distributed.all_reduce if learner.world > 1 else None
        views = (source.column, source.view_pair(config))
        self._step = SemiSupervisedStep(config, rows, learner.descent, device, views, learner.world, total)
        learner.keep("means", self._step.rule.means)

    def train_epoch(self, epoch: int) -> EpochResult:
        """One epoch's steps, or what is left of them."""
        learner, config, feed = self.learner, self._config, self._feed
        learner.begin_training()

        def batches(start: int) -> Iterator[PairedBatch]:
            return feed.epoch(epoch, learner.rank, learner.world, start)

        for batch in learner.steps(batches, feed.steps, feed.steps):
            if config.teacher == "ema":
                learner.share_average()
            loss, sums = self._step(batch, ramp_factor(config, epoch, batch.offset - 1, feed.steps))
            learner.descend(loss, sums)
        told = figures(learner.total_sums())
        return EpochResult(feed.samples(epoch), {**self._held_out.accuracy(), **told})

    def after_epoch(self, epoch: int, entry: JsonObject) -> str:
        """Commits nothing: the rows of an epoch follow from its number."""
        return accuracy_note(entry)
