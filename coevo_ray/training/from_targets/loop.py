"""Training on targets on a Ray Train worker: views of a row share its target."""

from __future__ import annotations

from dataclasses import dataclass

import ray
import torch
from torch import nn

from coevo_ray.config import TargetTrainConfig
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.store.location import Location
from coevo_ray.training.feed.batch import laid_out
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.views import views_of
from coevo_ray.training.from_targets.network import Keys, PoolWithTargets, TargetNetwork, contrast_loss, cosine_loss
from coevo_ray.training.from_targets.probes import ProbeRows, evaluate
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.loop.learner import Learner
from coevo_ray.training.loop.schedules import steps_of
from coevo_ray.training.loop.train_epochs import EpochReports, EpochResult, train_epochs
from coevo_ray.training.models import FEATURES_OF, without_classifier


@dataclass(frozen=True, eq=False)
class TargetArguments:
    """Arguments of the workers of a training on targets.

    Attributes:
        config: network, views, schedule.
        dim: n of the targets.
        source: what the network takes.
        mean: float32[n], taken off every target.
        pool, targets: folders of the pool and of its targets.
        rows: training rows that have a target.
        probe_rows: rows for evaluation, or None.
        reports: destinations of the figures.
    """

    config: TargetTrainConfig
    dim: int
    source: InputSource
    mean: torch.Tensor
    pool: Location
    targets: Location
    rows: ray.ObjectRef[RowSet]
    probe_rows: ray.ObjectRef[ProbeRows | None]
    reports: EpochReports


def train_loop(arguments: TargetArguments) -> None:
    """Trains on a worker."""
    objective = _Targets(arguments)
    train_epochs(objective.learner, objective, arguments.reports)


class _Targets:
    """One worker's learner and feed."""

    def __init__(self, arguments: TargetArguments) -> None:
        self._rows: RowSet = ray.get(arguments.rows)
        batch = min(arguments.config.batch_rows, len(self._rows))
        self._config = config = arguments.config.model_copy(update={"batch_rows": batch})
        self.epochs = config.epochs
        self.learner = Learner(config, [steps_of(len(self._rows), batch)] * config.epochs)
        self._probe_rows: ProbeRows | None = ray.get(arguments.probe_rows)
        self._pool = PoolWithTargets(arguments.pool, arguments.targets)
        self._source = source = arguments.source
        self._views, columns = source.shape.augmented(config), [source.column, "target"]
        decode, device, seed = source.shape.decoded(source.column), self.learner.device, config.seed
        self._feed = Feed(self._pool, columns, decode, global_batch=batch, seed=seed, device=device)
        backbone = without_classifier(config.model, source.network(config.model, FEATURES_OF), source.shape.sample())
        network = TargetNetwork(backbone, config.head, arguments.dim)
        network.mean.copy_(arguments.mean)
        self._mean = network.mean
        self.learner.prepare(network)

    def train_epoch(self, epoch: int) -> EpochResult:
        """One pass over the rows, or what is left of it."""
        learner, config = self.learner, self._config
        learner.begin_training()
        mean = self._mean.to(learner.device)
        for batch in learner.epoch(self._feed, Subset(epoch, self._rows)):
            samples = batch[self._source.column].to(learner.device, non_blocking=True)
            seen = views_of(samples, batch.row_ids, self._views, config.seed, epoch, config.views)
            with learner.autocast():
                predicted = learner.network(laid_out(seen))
            targets = batch.tensors["target"].to(learner.device)
            losses = cosine_loss(predicted, targets, mean)
            if config.contrast > 0:
                keys = Keys.gather(targets, batch.weights.to(learner.device), learner.rank, learner.world)
                losses = losses + config.contrast * contrast_loss(predicted, targets, mean, keys)
            learner.step(losses, batch)
        return EpochResult(len(self._rows), {**self._evaluated(epoch)})

    def after_epoch(self, epoch: int, entry: JsonObject) -> str:
        """Commits nothing: every epoch has the same rows."""
        found = f", knn {entry['knn']:.3f}" if "knn" in entry else ""
        return f"loss {entry['loss']:.4f}{found}"

    def _evaluated(self, epoch: int) -> dict[str, float]:
        """Probes after the last epoch, and in between where it was asked for; empty otherwise."""
        every = self._config.evaluate_every
        due = epoch + 1 == self.epochs or (every > 0 and (epoch + 1) % every == 0)
        if self._probe_rows is None or not due:
            return {}
        learner = self.learner
        found = self._probe(learner.inner, self._probe_rows)
        if learner.average is not None:
            learner.share_average()
            averaged = self._probe(learner.average.module, self._probe_rows)
            found |= {f"ema_{name}": value for name, value in averaged.items()}
        return found

    def _probe(self, network: nn.Module, rows: ProbeRows) -> dict[str, float]:
        backbone, learner = network.backbone, self.learner
        assert isinstance(backbone, nn.Module)
        dtype: torch.dtype = getattr(torch, self._config.precision)
        place = (learner.device, learner.rank, learner.world)
        return evaluate(backbone, self._source, rows, *place, dtype=dtype)
