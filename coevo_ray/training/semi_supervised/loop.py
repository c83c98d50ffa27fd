"""What every Ray Train worker of a semi-supervised training does."""

from __future__ import annotations

from typing import Any

import ray
import torch.distributed

from coevo_ray.config import SemiTrainConfig
from coevo_ray.pool.pool import Pool
from coevo_ray.training.feed.cached_pool import HeldRows
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.paired import PairedFeed
from coevo_ray.training.feed.views import Decode
from coevo_ray.training.loop.learner import Learner
from coevo_ray.training.loop.metrics import write_metrics
from coevo_ray.training.loop.ray_train import worker_threads
from coevo_ray.training.loop.validation import HeldOut
from coevo_ray.training.models import make_model
from coevo_ray.training.semi_supervised.step import FIGURES, SemiSupervisedStep, figures, ramp_factor


def train_loop(arguments: dict[str, Any]) -> None:
    """Runs on every worker, with what `train_semi_supervised` put together."""
    config: SemiTrainConfig = arguments["config"]
    worker_threads(config.compute.cpus, config.compute.gpus)
    trainer = _Trainer(arguments)
    learner = trainer.learner
    for epoch in range(len(learner.history), config.epochs):
        trainer.train_epoch(epoch)
        told = figures(learner.total_sums())
        entry = learner.finish(trainer.feed.samples(epoch), **trainer.held_out.accuracy(), **told)
        if learner.rank == 0:
            accuracy = entry["accuracy"]
            arguments["board"].note.remote(epoch + 1, "" if accuracy is None else f"accuracy {accuracy:.3f}")
        learner.save()
        if learner.rank == 0:
            write_metrics(arguments["out"], learner.history, tensorboard=config.compute.tensorboard)


class _Trainer:
    """One worker's learner and feeds."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.config: SemiTrainConfig = arguments["config"]
        config, rows = self.config, ray.get(arguments["rows"])
        pool = Pool(arguments["pool"])
        labelled, unlabelled, steps = rows.plan(config)
        self.learner = learner = Learner(config, [steps] * config.epochs, FIGURES)
        decode, device = Decode(config.image_size), learner.device
        few, many = HeldRows(pool.location, labelled.row_ids, "image"), None
        batch, seed = labelled.cycle.batch, config.seed
        labelled_feed = Feed(few, ["image"], decode, global_batch=batch, seed=seed, prefetch=0)
        if unlabelled is not None:
            batch = unlabelled.cycle.batch
            many = (Feed(pool, ["image"], decode, global_batch=batch, seed=seed, device=device), unlabelled)
        self.feed = PairedFeed((labelled_feed, labelled), many, steps, device)
        self.held_out = HeldOut(learner, pool, rows.known)
        learner.prepare(make_model(config.model, rows.classes, stem=config.stem, image_size=config.image_size))
        total = torch.distributed.all_reduce if learner.world > 1 else None
        self.step = SemiSupervisedStep(config, rows, learner.descent, device, learner.world, total)
        learner.keep("means", self.step.rule.means)

    def train_epoch(self, epoch: int) -> None:
        """One epoch's steps, or what is left of them."""
        learner, config, feed = self.learner, self.config, self.feed
        learner.network.train()

        def batches(start: int) -> Any:
            return feed.epoch(epoch, learner.rank, learner.world, start)

        for batch in learner.steps(batches, feed.steps, feed.steps):
            if config.teacher == "ema":
                learner.share_average()
            loss, sums = self.step(batch, ramp_factor(config, epoch, batch.offset - 1, feed.steps))
            learner.descend(loss, sums)
