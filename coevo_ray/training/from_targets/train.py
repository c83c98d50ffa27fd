"""The objective `targets`: a fresh network regresses stored targets (CoOpt, arXiv 2505.14117), with Ray Train.

No label is read in training. Two augmented views of a row share its target; labels serve the evaluation alone.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import nn

from coevo_ray.actors.progress_board import progress_board
from coevo_ray.config import SettingsLike, TargetTrainConfig, as_settings
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.progress import say
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.store.artifact import Artifact, Manifest, begin, finish, load_manifest, write_blob
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.opening import open_table
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.feed.views import Decode, Views, two_views
from coevo_ray.training.from_targets.network import PoolWithTargets, TargetNetwork, cosine_loss
from coevo_ray.training.from_targets.probes import ProbeRows, evaluate
from coevo_ray.training.loop.learner import Learner
from coevo_ray.training.loop.metrics import METRICS, json_lines, write_metrics
from coevo_ray.training.loop.ray_train import fit, load_checkpoint, worker_threads
from coevo_ray.training.loop.schedules import steps_of
from coevo_ray.training.loop.weights import CARD, read_weights, write_weights
from coevo_ray.training.models import make_backbone
from coevo_ray.training.sae_fit import input_statistics


def train_targets(
    config: SettingsLike[TargetTrainConfig],
    pool: ArtifactLike,
    targets: ArtifactLike,
    out: Place,
) -> Artifact:
    """Trains a fresh network to predict the targets of the pool's training rows, then probes its frozen features.

    Args:
        config: network, views, schedule; a dict, or a YAML file.
        pool: images, or their folder. Its labels are read for evaluation only.
        targets: target table of that pool, or its folder. Rows without a target take no part.
        out: folder of the result: `model.safetensors` (backbone and head), `model.json` and manifest.

    Returns:
        The model. Its summary: `linear_probe` and `knn` (shares of held-out rows; null where rows have no labels), the
        last epoch's mean `loss` per row, `samples`, `seconds` of training, and the `history`.

    Raises:
        InputError: an input is missing, the targets are not this pool's, or no training row has a target.
        UsageError: the model is unknown, or settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config, pool = as_settings(TargetTrainConfig, config, "train"), Pool.open(pool)
    targets = open_table(targets, "targets")
    location = Location.parse(out)
    dim = _dimension(targets)
    make_backbone(config.model, config.image_size, config.stem)  # a wrong name shows before any work
    content = {"objective": "targets", **config.content()}
    inputs = {"pool": pool.manifest.identity, "targets": targets.manifest.identity}
    done = begin(location, "model", content, inputs)
    if done is None:
        done = _train(config, pool, targets, dim, location, content, inputs)
    return Artifact(location, done, done.summary)


def load_target_network(location: ArtifactLike, *, average: bool = False) -> TargetNetwork:
    """Reads a trained network back; its `backbone` gives features.

    Args:
        location: what `train_targets` returned, or its folder.
        average: take the averaged weights (`ema`).

    Raises:
        InputError: there is no finished network of this objective here, or it has no averaged weights.
    """
    location = Location.parse(location)
    manifest = load_manifest(location, "model")
    if manifest.config.get("objective") != "targets":
        raise InputError(
            f"{location} was not trained with the objective targets", "give what train --objective targets made"
        )
    network = TargetNetwork(**location.child(CARD).read_json())
    read_weights(location, network, average=average)
    return network.eval()


def _train(
    config: TargetTrainConfig,
    pool: Pool,
    targets: RowTable,
    dim: int,
    location: Location,
    content: dict[str, Any],
    inputs: dict[str, str],
) -> Manifest:
    started = time.monotonic()
    joined = PoolWithTargets(pool.location, targets.location)
    rows = np.intersect1d(joined.target_rows, pool.train_ids(), assume_unique=True)
    if len(rows) < 2:
        raise InputError(f"{len(rows)} training rows have a target, need 2", "encode the pool's training rows")
    probe_rows = ProbeRows.choose(pool, joined.target_rows, config.probe_rows, config.seed)
    if probe_rows is None:
        say("train targets: no evaluation, for it needs labelled rows of two classes in both splits")
    network = {
        "model": config.model,
        "stem": config.stem,
        "image_size": config.image_size,
        "head": config.head,
        "dim": dim,
    }
    with ray_session(), ray_errors("train targets"), progress_board("train targets", config.epochs, "epochs") as board:
        statistics = ray.get(
            ray.remote(input_statistics).options(num_cpus=0.5).remote(targets, rows + joined.first_target)
        )
        arguments = {
            "config": config,
            "network": network,
            "mean": statistics[0] if config.centre else torch.zeros(dim),
            "pool": pool.location,
            "targets": targets.location,
            "rows": ray.put(rows),
            "probe_rows": ray.put(probe_rows),
            "board": board,
            "out": location,
        }
        checkpoint = fit("train targets", _loop, arguments, config.compute, location.child("training"))
    state, history = load_checkpoint(checkpoint)
    last = history[-1]
    files = write_weights(location, state, network)
    files.append(write_blob(location, METRICS, json_lines(history)))
    summary: dict[str, Any] = {
        "objective": "targets",
        "linear_probe": last.get("linear_probe"),
        "knn": last.get("knn"),
        **{name: last[name] for name in ("ema_linear_probe", "ema_knn") if name in last},
        **{name: last[name] for name in ("loss", "samples")},
        "seconds": round(last["seconds"], 3),
        "epochs": len(history),
        "rows": len(rows),
        "probe_rows": None if probe_rows is None else [len(probe_rows.train), len(probe_rows.test)],
        "dim": dim,
        "history": history,
        "wall_seconds": round(time.monotonic() - started, 3),
    }
    return finish(location, "model", content, inputs, files, summary)


def _dimension(targets: RowTable) -> int:
    """n, from the first row of the table; the column has one size in all files."""
    for index in range(len(targets.files)):
        for part in targets.iter_file(index, ["target"]):
            kind = part.schema.field("target").type
            if not pa.types.is_fixed_size_list(kind):
                raise InputError(f"the targets at {targets.location} are {kind}", "make them with encode or merge")
            return int(kind.list_size)
    raise InputError(f"the targets at {targets.location} have no rows", "encode at least one readable image")


def _loop(arguments: dict[str, Any]) -> None:
    """Runs on every Ray Train worker."""
    config: TargetTrainConfig = arguments["config"]
    worker_threads(config.compute.cpus, config.compute.gpus)
    trainer = _Trainer(arguments)
    learner = trainer.learner
    for epoch in range(len(learner.history), config.epochs):
        trainer.train_epoch(epoch)
        entry = learner.finish(len(trainer.rows), **trainer.evaluate(epoch))
        if learner.rank == 0:
            found = f", knn {entry['knn']:.3f}" if "knn" in entry else ""
            arguments["board"].note.remote(epoch + 1, f"loss {entry['loss']:.4f}{found}")
        learner.save()
        if learner.rank == 0:
            write_metrics(arguments["out"], learner.history, tensorboard=config.compute.tensorboard)


class _Trainer:
    """One worker's learner and feed."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        config: TargetTrainConfig = arguments["config"]
        self.rows: Int64Array = ray.get(arguments["rows"])
        batch = min(config.batch_rows, len(self.rows))
        self.config = config = config.model_copy(update={"batch_rows": batch})
        self.learner = Learner(config, [steps_of(len(self.rows), batch)] * config.epochs)
        self.probe_rows: ProbeRows | None = ray.get(arguments["probe_rows"])
        self.pool = PoolWithTargets(arguments["pool"], arguments["targets"])
        self.views = Views(config.min_crop, config.flip, config.colour)
        self.dtype: torch.dtype = getattr(torch, config.precision)
        decode = Decode(config.image_size)
        device = self.learner.device
        self.feed = Feed(self.pool, ["image", "target"], decode, global_batch=batch, seed=config.seed, device=device)
        network = TargetNetwork(**arguments["network"])
        network.mean.copy_(arguments["mean"])
        self.mean = network.mean
        self.learner.prepare(network)

    def train_epoch(self, epoch: int) -> None:
        """One pass over the rows, or what is left of it."""
        learner, config = self.learner, self.config
        learner.network.train()
        mean = self.mean.to(learner.device)
        for batch in learner.epoch(self.feed, Subset(epoch, self.rows, None)):
            images = two_views(batch, self.views, config.seed, epoch, learner.device)
            with learner.autocast():
                predicted = learner.network(images.contiguous(memory_format=torch.channels_last))
            learner.step(cosine_loss(predicted, batch.tensors["target"].to(learner.device), mean), batch)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Probes after the last epoch, and in between where it was asked for; empty otherwise."""
        every = self.config.evaluate_every
        due = epoch + 1 == self.config.epochs or (every > 0 and (epoch + 1) % every == 0)
        if self.probe_rows is None or not due:
            return {}
        learner = self.learner
        found = self._probe(learner.inner)
        if learner.average is not None:
            learner.share_average()
            averaged = self._probe(learner.average.module)
            found |= {f"ema_{name}": value for name, value in averaged.items()}
        return found

    def _probe(self, network: nn.Module) -> dict[str, float]:
        assert self.probe_rows is not None
        backbone = network.backbone
        assert isinstance(backbone, nn.Module)
        place = (self.learner.device, self.learner.rank, self.learner.world)
        return evaluate(backbone, self.pool, self.probe_rows, self.config.image_size, *place, dtype=self.dtype)
