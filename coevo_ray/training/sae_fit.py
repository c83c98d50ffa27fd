"""Fits the sparse autoencoder on a feature table with Ray Train."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed

from coevo_ray.actors.progress_board import BoardHandle
from coevo_ray.config import SaeConfig, SettingsLike, as_settings
from coevo_ray.core.arrays import Int64Array, UInt64Array
from coevo_ray.core.factors.sae import SAEConfig, SAELoss, TopKSAE
from coevo_ray.core.factors.sae_steps import SAESteps, Schedule, plateaued
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location, Place
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.row_table import RowTable, vector_column_of, vectors
from coevo_ray.store.sae_files import save_sae
from coevo_ray.training.feed.feed import Batch, Feed
from coevo_ray.training.feed.meter import FeedMeter
from coevo_ray.training.feed.statistics import input_statistics
from coevo_ray.training.loop.ray_train import resume, save_checkpoint
from coevo_ray.training.loop.run_training import ModelArtifact, Trained, Training, run_training


def fit_sae(
    config: SettingsLike[SaeConfig],
    pool: Pool,
    features: RowTable,
    out: Place,
    *,
    column: str | None = None,
) -> Location:
    """Fits a TopK SAE on the targets, or on any vectors, of the pool's training rows.

    The vectors are streamed from their files in every pass. A run that was stopped goes on from its last checkpoint,
    in the middle of a pass too. With another number of workers the result differs by the rounding of sums alone.

    Args:
        config: latents, k, epochs, when to stop; a dict is validated.
        pool: tells which rows are held out.
        features: targets, the pool itself where it has vectors, or any row table with a column of vectors.
        out: folder of the model.
        column: name of the column of vectors; None for the only one.

    Returns:
        The folder, with `sae.safetensors` and `sae.json`. Its summary has `explained_variance`, `l0` and
        `dead_fraction` of the last window of rows, the `history` of (samples, explained variance), `samples` and
        `stopped_early`.

    Raises:
        InputError: fewer training rows than k, no such column, or vectors that are not finite.
        UsageError: settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = as_settings(SaeConfig, config, "sae")
    run = _SaeRun(config, pool, features, vector_column_of(features, column), Location.parse(out))
    inputs = {"pool": pool.manifest.identity, "features": features.manifest.identity}
    content = {"column": run.column} | config.model_dump(mode="json", exclude={"compute", "rare_quantile"})
    run_training(ModelArtifact(run.folder, content, inputs, kind="sae"), run.prepare)
    return run.folder


@dataclass(frozen=True, eq=False)
class _SaeArguments:
    """Arguments of the workers; `statistics` are the mean float32[d] and the mean square of the inputs."""

    config: SaeConfig
    features: Location
    column: str
    rows: ray.ObjectRef[RowSet]
    statistics: tuple[torch.Tensor, float]
    board: BoardHandle


@dataclass(frozen=True, eq=False)
class _SaeRun:
    """A fit that is not finished yet."""

    config: SaeConfig
    pool: Pool
    features: RowTable
    column: str
    folder: Location

    def prepare(self) -> Training[_SaeArguments]:
        rows = np.intersect1d(self.features.row_ids(), self.pool.train_ids(), assume_unique=True)
        if len(rows) < self.config.k:
            raise InputError(
                f"{len(rows)} training rows for k = {self.config.k} active factors", "give more rows, or lower sae.k"
            )
        return Training(
            title="fit SAE",
            epochs=self.config.epochs,
            compute=self.config.compute,
            worker=_fit_on_worker,
            arguments=functools.partial(self._arguments, rows),
            write_files=self._write_files,
            summarise=functools.partial(self._summarise, len(rows)),
            reads=(self.features.location,),
        )

    @contextmanager
    def _arguments(self, rows: Int64Array, board: BoardHandle) -> Iterator[_SaeArguments]:
        task = ray.remote(input_statistics).options(num_cpus=0.5)
        statistics = ray.get(task.remote(self.features, rows, self.column))
        kept = ray.put(RowSet.from_ids(rows, len(self.pool)))
        yield _SaeArguments(self.config, self.features.location, self.column, kept, statistics, board)

    def _write_files(self, trained: Trained[_SaeArguments]) -> list[FileEntry]:
        sae = TopKSAE(SAEConfig(**trained.state["config"]))
        sae.load_state_dict(trained.state["steps"]["model"])
        return save_sae(self.folder, sae)

    def _summarise(self, rows: int, trained: Trained[_SaeArguments]) -> JsonObject:
        history, last = trained.history, trained.history[-1]
        return {
            **{name: last[name] for name in ("explained_variance", "dead_fraction", "l0")},
            "latents": self.config.latents,
            "k": self.config.k,
            "rows": rows,
            "history": [[entry["samples"], entry["explained_variance"]] for entry in history],
            "samples": last["samples"],
            "stopped_early": last["samples"] < self.config.epochs * rows,
            "seconds": trained.wall_seconds,
        }


def _fit_on_worker(arguments: _SaeArguments) -> None:
    _Worker(arguments).run()


class _Worker:
    """One worker's model, feed and place in the data."""

    def __init__(self, arguments: _SaeArguments) -> None:
        self.config, self.board = arguments.config, arguments.board
        config, column = arguments.config, arguments.column
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self.rows: RowSet = ray.get(arguments.rows)
        table, batch = RowTable(arguments.features), min(config.batch_rows, len(self.rows))
        self.feed = Feed(table, [column], _Vectors(column), global_batch=batch, seed=config.seed)
        torch.manual_seed(config.seed)
        self.steps = self._make_steps(*arguments.statistics)
        self.epoch, self.offset, self.saved = 0, 0, 0
        state, self.history = resume()
        if state is not None:
            self.steps.load_state_dict(state["steps"])
            self.epoch, self.offset, self.saved = state["epoch"], state["offset"], self.steps.samples

    def _make_steps(self, mean: torch.Tensor, mean_square: float) -> SAESteps:
        config = self.config
        sizes = {"dim": len(mean), "latents": config.latents, "k": config.k}
        # Ten million as published, but a latent that four passes do not wake is dead in a small pool too.
        sae = TopKSAE(SAEConfig(**sizes, dead_after_samples=min(10_000_000, 4 * len(self.rows))))
        sae.set_input_statistics(mean, mean_square)
        sae.to(self.device)
        model = ray.train.torch.prepare_model(
            _Loss(sae, self.world), parallel_strategy_kwargs={"broadcast_buffers": False}
        )
        schedule = Schedule(config.learning_rate, config.epochs * len(self.rows))
        join = _summed if self.world > 1 else None
        return SAESteps(sae, schedule, forward=model, join=join, workers=self.world)

    def run(self) -> None:
        """Passes over the rows until the schedule ends; it shortens itself where the fit stops to improve."""
        if self.steps.done:
            return  # the run was stopped after its last checkpoint
        if self.rank == 0:
            self.board.note(self.epoch, "training")
        meter = FeedMeter(self.rank)
        for epoch in range(self.epoch, self.config.epochs):
            batches = self.feed.epoch(Subset(epoch, self.rows), self.rank, self.world, self.offset)
            for batch in meter.timed(batches, self.offset):
                if self._step(batch):
                    return

    def _step(self, batch: Batch) -> bool:
        """One step of all workers; whether it was the last one."""
        x = batch["vectors"]
        real = batch.weights > 0
        if not real.all():
            x = x[real]  # padding repeats a row that another worker has
        self.steps.step(x.to(self.device), batch.global_rows)
        self.offset = batch.offset
        ended = self.offset == len(self.rows)
        if ended:
            self.epoch, self.offset = self.epoch + 1, 0
        if ended or self.steps.done or self.steps.window_samples >= self.config.window_rows:
            self._look()
        return self.steps.done

    def _look(self) -> None:
        """Notes a window's figures, stops early, saves. All workers come here after the same step."""
        figures = self.steps.look()
        self.history.append(figures)
        patience = self.config.patience
        variances = [entry["explained_variance"] for entry in self.history]
        if patience is not None and plateaued(variances, patience, self.config.min_improvement):
            self.steps.schedule.decay_now(self.steps.samples)
        if self.rank == 0:
            passed = self.steps.samples // len(self.rows)
            self.board.note(passed, f"explained variance {figures['explained_variance']:.3f}")
        if self.steps.done or self.steps.samples - self.saved >= self.config.window_rows:
            self.saved = self.steps.samples
            place = {"epoch": self.epoch, "offset": self.offset}
            state = {"steps": self.steps.state_dict(), "config": self.steps.sae.config.to_dict(), **place}
            save_checkpoint(state, self.history, figures)


class _Loss(torch.nn.Module):
    """Makes the loss the forward pass, as DDP needs it."""

    def __init__(self, sae: TopKSAE, workers: int) -> None:
        super().__init__()
        self.sae, self.join = sae, _summed if workers > 1 else None

    def forward(self, features: torch.Tensor, rows: int) -> SAELoss:
        return self.sae.loss(features, rows, self.join)


def _summed(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    torch.distributed.all_reduce(tensor)
    return tensor


@dataclass(frozen=True)
class _Vectors:
    """Feed transform: a column of vectors -> {"vectors": float32[b, d]}."""

    column: str

    def __call__(self, rows: pa.Table, seeds: UInt64Array) -> dict[str, torch.Tensor]:
        """Makes one batch."""
        return {"vectors": torch.from_numpy(vectors(rows.column(self.column)))}
