"""What every Ray Train worker of a supervised training does."""

from __future__ import annotations

import time
from typing import Any

import ray
import torch
from torch import nn

from coevo_ray.actors.actor import SelectionHandle
from coevo_ray.config import TrainConfig
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.pool.pool import Pool
from coevo_ray.training.feed.batch import network_input
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.images import ImageTransform
from coevo_ray.training.loop.learner import Learner
from coevo_ray.training.loop.metrics import write_metrics
from coevo_ray.training.loop.ray_train import worker_threads
from coevo_ray.training.loop.schedules import steps_of
from coevo_ray.training.loop.validation import HeldOut
from coevo_ray.training.models import make_model
from coevo_ray.training.supervised.loss_reports import LossReports


def train_loop(arguments: dict[str, Any]) -> None:
    """Runs on every worker, with what `train_policy` put together."""
    config: TrainConfig = arguments["config"]
    worker_threads(config.compute.cpus, config.compute.gpus)
    trainer = _Trainer(arguments)
    learner = trainer.learner
    for epoch in range(len(learner.history), len(arguments["planned"])):
        asked = time.monotonic()
        subset: Subset = trainer.selection.select(epoch)
        selection_seconds = time.monotonic() - asked
        trainer.train_epoch(subset)
        rows = len(subset.row_ids)
        entry = learner.finish(
            rows,
            **trainer.held_out.accuracy(),
            kept_share=rows / arguments["candidates"],
            selection_seconds=selection_seconds,
        )
        if learner.rank == 0:
            # All ranks are past the epoch here: its figures have joined them.
            trainer.selection.commit(epoch)
            accuracy = entry["accuracy"]
            arguments["board"].note.remote(epoch + 1, "" if accuracy is None else f"accuracy {accuracy:.3f}")
        learner.save()
        if learner.rank == 0:
            write_metrics(arguments["out"], learner.history, tensorboard=config.compute.tensorboard)


class _Trainer:
    """One worker's learner and feeds."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        config: TrainConfig = arguments["config"]
        self.config = config
        batch = config.batch_rows
        self.learner = Learner(config, [steps_of(rows, batch) for rows in arguments["planned"]])
        self.selection: SelectionHandle = arguments["selection"]
        self.reports = LossReports(self.selection) if arguments["report_losses"] else None
        if self.reports is not None:
            self.learner.before_checkpoint = self.reports.flush
        self.labels: Int64Array = ray.get(arguments["labels"])
        pool = Pool(arguments["pool"])
        transform, device = ImageTransform(config.image_size, config.augment), self.learner.device
        self.feed = Feed(pool, ["image"], transform, global_batch=batch, seed=config.seed, device=device)
        self.held_out = HeldOut(self.learner, pool, self.labels)
        network = make_model(config.model, arguments["classes"], stem=config.stem, image_size=config.image_size)
        self.learner.prepare(network)

    def train_epoch(self, subset: Subset) -> None:
        """One pass over the subset, or what is left of it."""
        learner, smoothing = self.learner, self.config.label_smoothing
        learner.network.train()
        if self.reports is not None:
            self.reports.begin(subset.epoch)
        for batch in learner.epoch(self.feed, subset):
            labels = torch.from_numpy(self.labels[batch.row_ids]).to(learner.device)
            with learner.autocast():
                logits = learner.network(network_input(batch, learner.device))
            losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
            learner.step(losses, batch)
            if self.reports is not None:
                self.reports.add(batch, logits, labels)
        if self.reports is not None:
            self.reports.flush()
