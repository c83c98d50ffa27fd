"""Fits the sparse autoencoder on a feature table with Ray Train (DESIGN section 5.2)."""

from __future__ import annotations

import functools
import json
import operator
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.train
import ray.train.torch
import torch
import torch.distributed
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from coevo_ray.actors.progress import progress_board
from coevo_ray.config import SaeConfig, make_config
from coevo_ray.core.epoch_plan import Subset
from coevo_ray.core.rows import Int64Array
from coevo_ray.core.sae import Codes, ReconstructionStatistics, SAEConfig, TopKSAE
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.store.artifact import begin, finish, load_manifest, write_blob
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors
from coevo_ray.training.feed import Feed
from coevo_ray.training.trainer import fit, load_checkpoint, resume, save_checkpoint, worker_threads

_WEIGHTS, _CONFIG = "sae.safetensors", "sae.json"


def fit_sae(config: SaeConfig | dict[str, Any], pool: Pool, targets: RowTable, out: str | Location) -> Location:
    """Fits a TopK SAE on the targets of the pool's training rows.

    Args:
        config: latents, k, epochs; a dict is validated.
        pool: tells which rows are held out.
        targets: a row table with a `target` column.
        out: folder of the model.

    Returns:
        The folder, with `sae.safetensors` and `sae.json`.

    Raises:
        InputError: fewer training rows than k, or targets that are not finite.
        UsageError: settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = config if isinstance(config, SaeConfig) else make_config(SaeConfig, config, "sae")
    location = Location.parse(out)
    inputs = {"pool": pool.manifest.identity, "targets": targets.manifest.identity}
    content = config.model_dump(mode="json", exclude={"compute", "rare_quantile"})
    if begin(location, "sae", content, inputs) is not None:
        return location
    started = time.monotonic()
    rows = np.intersect1d(targets.row_ids(), pool.train_ids(), assume_unique=True)
    if len(rows) < config.k:
        raise InputError(
            f"{len(rows)} training rows for k = {config.k} active factors", "give more rows, or lower sae.k"
        )
    with ray_session(), ray_errors("fit SAE"), progress_board("fit SAE", config.epochs, "epochs") as board:
        statistics = ray.get(ray.remote(input_statistics).options(num_cpus=0.5).remote(targets, rows))
        loop_config = {
            "config": config,
            "targets": targets.location,
            "rows": ray.put(rows),
            "statistics": statistics,
            "board": board,
        }
        checkpoint = fit("fit SAE", _loop, loop_config, config.compute, location.child("training"))
    state, history = load_checkpoint(checkpoint)
    sae = TopKSAE(SAEConfig(**state["config"]))
    sae.load_state_dict(state["model"])
    files = [
        write_blob(location, _WEIGHTS, save_safetensors(sae.state_dict())),
        write_blob(location, _CONFIG, json.dumps(state["config"], indent=2).encode()),
    ]
    summary = {
        **{name: history[-1][name] for name in ("explained_variance", "dead_fraction", "l0")},
        "latents": config.latents,
        "k": config.k,
        "rows": len(rows),
        "history": [[h["samples"], h["explained_variance"]] for h in history],
        "seconds": round(time.monotonic() - started, 3),
    }
    finish(location, "sae", content, inputs, files, summary)
    return location


def load_sae(location: Location) -> TopKSAE:
    """Reads a fitted model back.

    Raises:
        InputError: there is no finished SAE here.
    """
    load_manifest(location, "sae")
    sae = TopKSAE(SAEConfig(**location.child(_CONFIG).read_json()))
    sae.load_state_dict(load_safetensors(location.child(_WEIGHTS).read_bytes()))
    return sae.eval()


def _loop(arguments: dict[str, Any]) -> None:
    """Runs on every Ray Train worker."""
    config: SaeConfig = arguments["config"]
    worker_threads(config.compute.cpus, config.compute.gpus)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    rows: Int64Array = ray.get(arguments["rows"])
    table = RowTable(arguments["targets"])
    feed = Feed(table, ["target"], _to_tensors, global_batch=min(config.batch_rows, len(rows)), seed=config.seed)
    device = ray.train.torch.get_device()
    torch.manual_seed(config.seed)
    mean, mean_square = arguments["statistics"]
    sizes = {"dim": len(mean), "latents": config.latents, "k": config.k}
    sae = TopKSAE(SAEConfig(**sizes, dead_after_samples=4 * len(rows)))
    sae.set_input_statistics(mean, mean_square)
    sae.to(device)
    state, history = resume()
    if state is not None:
        sae.load_state_dict(state["model"])
    model = ray.train.torch.prepare_model(_Loss(sae))
    optimizer = torch.optim.Adam(sae.parameters(), lr=config.learning_rate)
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(len(history), config.epochs):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (config.epochs - epoch) / max(1, config.epochs // 5))
        statistics = _epoch(model, sae, optimizer, feed, Subset(epoch, rows, None), rank, world)
        history.append(
            {
                "samples": (epoch + 1) * len(rows),
                "explained_variance": statistics.explained_variance,
                "dead_fraction": statistics.dead_fraction,
                "l0": statistics.mean_l0,
            }
        )
        if rank == 0:
            arguments["board"].note.remote(epoch + 1, f"explained variance {statistics.explained_variance:.3f}")
        if (epoch + 1) % 10 == 0 or epoch + 1 == config.epochs:
            saved = {"model": sae.state_dict(), "optimizer": optimizer.state_dict(), "config": sae.config.to_dict()}
            save_checkpoint(saved, history, history[-1])


class _Loss(torch.nn.Module):
    """Makes the loss the forward pass, as DDP needs it."""

    def __init__(self, sae: TopKSAE) -> None:
        super().__init__()
        self.sae = sae

    def forward(self, features: torch.Tensor) -> Any:
        return self.sae.loss(features)


def _to_tensors(rows: Any, seeds: npt.NDArray[np.uint64]) -> dict[str, torch.Tensor]:
    return {"target": torch.from_numpy(vectors(rows.column("target")))}


def input_statistics(table: RowTable, rows: Int64Array) -> tuple[torch.Tensor, float]:
    """Ray task: mean float32[d] and mean square about it, in one streamed pass over the training rows."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for index in range(len(table.files)):
        for part in table.iter_file(index, ["target"]):
            use = np.isin(part.column("row_id").to_numpy(), rows, assume_unique=True)
            x = vectors(part.column("target")).astype(np.float64)[use]
            count, total, squares = count + len(x), total + x.sum(axis=0), squares + (x * x).sum(axis=0)
    mean = total / count
    mean_square = float((squares / count - mean * mean).mean())
    # Float16 values that are all the same still differ from their mean by rounding.
    if not np.isfinite(mean_square) or mean_square <= 1e-12:
        raise InputError(f"the targets' mean square is {mean_square}", "they are constant or not finite: see encode")
    return torch.from_numpy(mean).float(), mean_square


def _epoch(
    model: torch.nn.Module,
    sae: TopKSAE,
    optimizer: torch.optim.Optimizer,
    feed: Feed,
    subset: Subset,
    rank: int,
    world: int,
) -> ReconstructionStatistics:
    """One pass; returns the statistics of all ranks."""
    statistics = ReconstructionStatistics.empty(sae.config.dim, sae.config.latents)
    for batch in feed.epoch(subset, rank, world):
        x = batch.tensors["target"].to(sae.decoder.device)
        loss = model(x)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        sae.remove_parallel_gradient_()
        optimizer.step()
        sae.normalise_decoder_()
        real = batch.weights > 0  # padding repeats a row that another rank has
        codes = Codes(loss.codes.indices[real], loss.codes.values[real])
        counts = sae.active_counts(codes)
        statistics = statistics + ReconstructionStatistics.measure(x[real], loss.xhat[real], counts)
        if world > 1:
            torch.distributed.all_reduce(counts)
        sae.note_active_(counts, batch.global_rows)
    return _over_ranks(statistics) if world > 1 else statistics


def _over_ranks(statistics: ReconstructionStatistics) -> ReconstructionStatistics:
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, statistics)
    total: ReconstructionStatistics = functools.reduce(operator.add, parts)
    return total
