"""Fits the sparse autoencoder on a feature table with Ray Train (DESIGN section 5.2)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed

from coevo_ray.actors.progress_board import progress_board
from coevo_ray.config import SaeConfig, SettingsLike, as_settings
from coevo_ray.core.arrays import Int64Array, UInt64Array
from coevo_ray.core.factors.sae import SAEConfig, SAELoss, TopKSAE
from coevo_ray.core.factors.sae_steps import SAESteps, Schedule, plateaued
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.location import Location, Place
from coevo_ray.store.row_table import RowTable, vector_column_of, vectors
from coevo_ray.store.sae_files import save_sae
from coevo_ray.training.feed.feed import Batch, Feed
from coevo_ray.training.loop.ray_train import fit, load_checkpoint, resume, save_checkpoint, worker_threads


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
    in the middle of a pass too. The result does not depend on the number of workers but by the rounding of sums.

    Args:
        config: latents, k, epochs, when to stop; a dict is validated.
        pool: tells which rows are held out.
        features: targets, the pool itself where it has vectors, or any row table with a column of vectors.
        out: folder of the model.
        column: which column has the vectors; None for the only one.

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
    location = Location.parse(out)
    column = vector_column_of(features, column)
    inputs = {"pool": pool.manifest.identity, "features": features.manifest.identity}
    content = {"column": column} | config.model_dump(mode="json", exclude={"compute", "rare_quantile"})
    if begin(location, "sae", content, inputs) is not None:
        return location
    started = time.monotonic()
    rows = np.intersect1d(features.row_ids(), pool.train_ids(), assume_unique=True)
    if len(rows) < config.k:
        raise InputError(
            f"{len(rows)} training rows for k = {config.k} active factors", "give more rows, or lower sae.k"
        )
    with ray_session(), ray_errors("fit SAE"), progress_board("fit SAE", config.epochs, "epochs") as board:
        statistics = ray.get(ray.remote(_statistics).options(num_cpus=0.5).remote(features, rows, column))
        loop_config = {
            "config": config,
            "features": features.location,
            "column": column,
            "rows": ray.put(rows),
            "statistics": statistics,
            "board": board,
        }
        checkpoint = fit("fit SAE", _loop, loop_config, config.compute, location.child("training"))
    state, history = load_checkpoint(checkpoint)
    sae = TopKSAE(SAEConfig(**state["config"]))
    sae.load_state_dict(state["steps"]["model"])
    summary = {
        **{name: history[-1][name] for name in ("explained_variance", "dead_fraction", "l0")},
        "latents": config.latents,
        "k": config.k,
        "rows": len(rows),
        "history": [[h["samples"], h["explained_variance"]] for h in history],
        "samples": history[-1]["samples"],
        "stopped_early": history[-1]["samples"] < config.epochs * len(rows),
        "seconds": round(time.monotonic() - started, 3),
    }
    finish(location, "sae", content, inputs, save_sae(location, sae), summary)
    return location


def _loop(arguments: dict[str, Any]) -> None:
    """Runs on every Ray Train worker."""
    config: SaeConfig = arguments["config"]
    worker_threads(config.compute.cpus, config.compute.gpus)
    _Worker(arguments).run()


class _Worker:
    """One worker's model, feed and place in the data."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        config: SaeConfig = arguments["config"]
        self.config, self.board = config, arguments["board"]
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self.rows: Int64Array = ray.get(arguments["rows"])
        table, batch = RowTable(arguments["features"]), min(config.batch_rows, len(self.rows))
        column = arguments["column"]
        self.feed = Feed(table, [column], _Vectors(column), global_batch=batch, seed=config.seed)
        torch.manual_seed(config.seed)
        self.steps = self._make_steps(*arguments["statistics"])
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
        for epoch in range(self.epoch, self.config.epochs):
            for batch in self.feed.epoch(Subset(epoch, self.rows, None), self.rank, self.world, self.offset):
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
            self.board.note.remote(passed, f"explained variance {figures['explained_variance']:.3f}")
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

    def __call__(self, rows: Any, seeds: UInt64Array) -> dict[str, torch.Tensor]:
        """Makes one batch."""
        return {"vectors": torch.from_numpy(vectors(rows.column(self.column)))}


def input_statistics(targets: RowTable, rows: Int64Array) -> tuple[torch.Tensor, float]:
    """Ray task: mean float32[d] and mean square about it, in one streamed pass over the training rows."""
    return _statistics(targets, rows, "target")


def _statistics(table: RowTable, rows: Int64Array, column: str) -> tuple[torch.Tensor, float]:
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for index in range(len(table.files)):
        for part in table.iter_file(index, [column]):
            use = np.isin(part.column("row_id").to_numpy(), rows, assume_unique=True)
            x = vectors(part.column(column)).astype(np.float64)[use]
            count, total, squares = count + len(x), total + x.sum(axis=0), squares + (x * x).sum(axis=0)
    mean = total / count
    mean_square = float((squares / count - mean * mean).mean())
    # Float16 values that are all the same still differ from their mean by rounding.
    if not np.isfinite(mean_square) or mean_square <= 1e-12:
        raise InputError(
            f"the mean square of {column} is {mean_square}", "its vectors are constant or not finite: see encode"
        )
    return torch.from_numpy(mean).float(), mean_square
