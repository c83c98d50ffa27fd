"""The objective `targets`: a fresh network regresses stored targets (CoOpt, arXiv 2505.14117), with Ray Train.

Training reads no labels. Augmented views of a row have its target; labels serve only the evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
import torch

from coevo_ray.actors.progress_board import BoardHandle
from coevo_ray.config import SettingsLike, TargetTrainConfig, as_settings
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.progress import say
from coevo_ray.store.artifact import Artifact
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.opening import open_table
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.feed.statistics import input_statistics
from coevo_ray.training.from_targets.loop import TargetArguments, train_loop
from coevo_ray.training.from_targets.network import PoolWithTargets, TargetNetwork
from coevo_ray.training.from_targets.probes import ProbeRows
from coevo_ray.training.inputs.base import backbone_for
from coevo_ray.training.inputs.choose import made_with, open_input, settled
from coevo_ray.training.inputs.shapes import check_size, shape_of
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.loop.run_training import (
    ModelArtifact,
    Trained,
    Training,
    epoch_reports,
    run_training,
    write_network,
)
from coevo_ray.training.loop.weights import CARD, WEIGHTS, read_weights
from coevo_ray.training.model_files import check_made, check_outputs, read_made

_TITLE = "train targets"


def train_targets(
    config: SettingsLike[TargetTrainConfig],
    pool: ArtifactLike,
    targets: ArtifactLike,
    out: Place,
) -> Artifact:
    """Trains a fresh network to predict the targets of the pool's training rows, then probes its frozen features.

    Args:
        config: network, views, schedule; a dict, or a YAML file.
        pool: samples, or their folder. Its labels are read for evaluation only. For a pool of vectors the input is its
            column `vector`, for texts as `model` and `features` say.
        targets: target table of that pool, or its folder. Rows without a target take no part.
        out: folder of the result: `model.safetensors` (backbone and head), `model.json`, `network.safetensors` (the
            backbone alone, for `load_network`), `network.json` and manifest.

    Returns:
        The model. Its summary: `linear_probe` and `knn` (shares of held-out rows; null where rows have no labels), the
        last epoch's mean `loss` per row, `samples`, `seconds` of training, and the `history`.

    Raises:
        InputError: an input is missing, the targets are not this pool's, or no training row has a target.
        UsageError: the model is unknown or does not fit the pool, or settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config, pool = as_settings(TargetTrainConfig, config, "train"), pool_for("train_targets", pool)
    targets = open_table(targets, "targets")
    config = settled(config, pool.modality)
    source = open_input(config, pool, targets)
    if source.kind == "targets":
        raise UsageError("targets cannot be learned from themselves", "set features to a column of the pool")
    if config.views > 1 and source.shape.kind == "vector":
        raise UsageError(f"views is {config.views}, and views of vectors are all the same", "leave views out")
    backbone_for(source.shape, config.model)  # a wrong name shows before any work
    run = _TargetRun(config, pool, targets, source, _dimension(targets), Location.parse(out))
    content = {"objective": "targets", **config.content()}
    inputs = {"pool": pool.manifest.identity, "targets": targets.manifest.identity}
    return run_training(ModelArtifact(run.folder, content, inputs), run.prepare)


@dataclass(frozen=True, eq=False)
class _TargetRun:
    """A training that is not finished yet."""

    config: TargetTrainConfig
    pool: Pool
    targets: RowTable
    source: InputSource
    dim: int
    folder: Location

    @property
    def _card(self) -> JsonObject:
        """Settings by which the network can be made again."""
        return {**made_with(self.config, self.source), "head": self.config.head, "dim": self.dim}

    def prepare(self) -> Training[TargetArguments]:
        config = self.config
        joined = PoolWithTargets(self.pool.location, self.targets.location)
        rows = np.intersect1d(joined.target_rows, self.pool.train_ids(), assume_unique=True)
        if len(rows) < 2:
            raise InputError(f"{len(rows)} training rows have a target, need 2", "encode the pool's training rows")
        probe_rows = ProbeRows.choose(self.pool, joined.target_rows, config.probe_rows, config.seed)
        if probe_rows is None:
            say(f"{_TITLE}: no evaluation: it needs labelled rows of two classes in both splits")
        return Training(
            title=_TITLE,
            epochs=config.epochs,
            compute=config.compute,
            worker=train_loop,
            arguments=functools.partial(self._arguments, rows, rows + joined.first_target, probe_rows),
            write_files=lambda trained: write_network(self.folder, trained, self._card, (), self.source.shape.files()),
            summarise=functools.partial(self._summarise, len(rows), probe_rows),
            reads=(self.pool.location, self.targets.location),
        )

    @contextmanager
    def _arguments(
        self, rows: Int64Array, target_rows: Int64Array, probe_rows: ProbeRows | None, board: BoardHandle
    ) -> Iterator[TargetArguments]:
        task = ray.remote(input_statistics).options(num_cpus=0.5)
        mean, _ = ray.get(task.remote(self.targets, target_rows, "target"))
        yield TargetArguments(
            config=self.config,
            dim=self.dim,
            source=self.source.measured(rows),
            mean=mean if self.config.centre else torch.zeros(self.dim),
            pool=self.pool.location,
            targets=self.targets.location,
            rows=ray.put(RowSet.from_ids(rows, len(self.pool))),
            probe_rows=ray.put(probe_rows),
            reports=epoch_reports(board, _TITLE, self.folder, self.config),
        )

    def _summarise(self, rows: int, probe_rows: ProbeRows | None, trained: Trained[TargetArguments]) -> JsonObject:
        last = trained.history[-1]
        return {
            "objective": "targets",
            "linear_probe": last.get("linear_probe"),
            "knn": last.get("knn"),
            **{name: last[name] for name in ("ema_linear_probe", "ema_knn") if name in last},
            **{name: last[name] for name in ("loss", "samples")},
            "seconds": round(last["seconds"], 3),
            "epochs": len(trained.history),
            "rows": rows,
            "probe_rows": None if probe_rows is None else [len(probe_rows.train), len(probe_rows.test)],
            "dim": self.dim,
            "history": trained.history,
            "wall_seconds": trained.wall_seconds,
        }


def load_target_network(location: ArtifactLike, *, average: bool = False, trust: Sequence[str] = ()) -> TargetNetwork:
    """Loads a trained network; its `backbone` gives features.

    Args:
        location: the result of `train_targets`, or its folder.
        average: take the averaged weights (`ema`).
        trust: as in `training.networks.load_network`.

    Raises:
        InputError: there is no finished network of this objective here, it is damaged, or has no averaged weights.
        UsageError: its model is of a module that `trust` does not name.
    """
    location = Location.parse(location)
    manifest = load_manifest(location, "model")
    if manifest.config.get("objective") != "targets":
        raise InputError(
            f"{location} was not trained with the objective targets", "give what train --objective targets made"
        )
    made = read_made(location, manifest, {"head": str, "dim": int})
    check_made(made, location.child(CARD), trust)
    check_outputs(made["dim"], location.child(WEIGHTS).size(), location)
    check_size(made, location.child(WEIGHTS).size(), location)
    shape = shape_of(made, location)
    network = TargetNetwork(backbone_for(shape, made["model"]), made["head"], made["dim"])
    read_weights(location, manifest, network, average=average)
    return network.eval()


def _dimension(targets: RowTable) -> int:
    """n, from the first row of the table; the column has one size in all files."""
    for index in range(len(targets.files)):
        for part in targets.iter_file(index, ["target"]):
            kind = part.schema.field("target").type
            if not pa.types.is_fixed_size_list(kind):
                raise InputError(f"the targets at {targets.location} are {kind}", "make them with encode or merge")
            return int(kind.list_size)
    raise InputError(f"the targets at {targets.location} have no rows", "encode at least one readable image")
