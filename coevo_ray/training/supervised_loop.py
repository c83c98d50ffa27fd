"""What every Ray Train worker of a supervised training does."""

from __future__ import annotations

import functools
import time
from typing import Any

import ray
import torch
import torch.distributed
from torch import nn

from coevo_ray.actors.selection import SelectionHandle
from coevo_ray.config import TrainConfig
from coevo_ray.core.epoch_plan import Subset
from coevo_ray.core.rows import Int64Array
from coevo_ray.pool.pool import Pool
from coevo_ray.training.feed import Feed
from coevo_ray.training.images import ImageTransform
from coevo_ray.training.learner import Learner
from coevo_ray.training.loss_reports import LossReports
from coevo_ray.training.metrics import write_metrics
from coevo_ray.training.models import make_model
from coevo_ray.training.trainer import worker_threads


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
            **trainer.evaluate(),
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
        self.learner = Learner(config, arguments["planned"])
        self.selection: SelectionHandle = arguments["selection"]
        self.reports = LossReports(self.selection) if arguments["report_losses"] else None
        if self.reports is not None:
            self.learner.before_checkpoint = self.reports.flush
        self.labels: Int64Array = ray.get(arguments["labels"])
        pool = Pool(arguments["pool"])
        batch, device = config.batch_rows, self.learner.device
        feed = functools.partial(Feed, pool, ["image"], global_batch=batch, seed=config.seed, device=device)
        self.feed = feed(transform=ImageTransform(config.image_size, config.augment))
        self.test_feed = feed(transform=ImageTransform(config.image_size, "none"))
        test = pool.test_ids()
        self.test = Subset(0, test[self.labels[test] >= 0], None)
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
                logits = learner.network(self._images(batch.tensors))
            losses = nn.functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
            learner.step(losses, batch)
            if self.reports is not None:
                self.reports.add(batch, logits, labels)
        if self.reports is not None:
            self.reports.flush()

    def _images(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        images = tensors["image"].to(self.learner.device, non_blocking=True)
        return images.contiguous(memory_format=torch.channels_last)

    def evaluate(self) -> dict[str, float | None]:
        """`accuracy` (None without held-out labels) and, with averaged weights, `ema_accuracy`; over all ranks."""
        learner = self.learner
        found = {"accuracy": self._accuracy(learner.network)}
        if learner.average is not None:
            learner.share_average()
            found["ema_accuracy"] = self._accuracy(learner.average)
        return found

    @torch.no_grad()
    def _accuracy(self, network: nn.Module) -> float | None:
        """Share of held-out rows that are classified rightly."""
        if len(self.test.row_ids) == 0:
            return None
        learner = self.learner
        network.eval()
        right = torch.zeros(1, device=learner.device)
        for batch in self.test_feed.epoch(self.test, learner.rank, learner.world):
            labels = torch.from_numpy(self.labels[batch.row_ids]).to(learner.device)
            with learner.autocast():
                predicted = network(self._images(batch.tensors)).argmax(dim=1)
            right += ((predicted == labels) * batch.weights.to(learner.device)).sum()
        if learner.world > 1:
            torch.distributed.all_reduce(right)
        return float(right.item() / len(self.test.row_ids))
