"""The sides of the encode benchmark: our stage, and a bare PyTorch loop over the same pool. Each runs in a child."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.encode.pool import PIXELS

PRIOR = "efficientnet_lite:0"
Images = npt.NDArray[np.uint8]


def encode_pool(folder: str, config: dict[str, Any], index: int) -> dict[str, Any]:
    """Our turn, from starting Ray to the finished targets.

    Args:
        folder: holds the pool; the run's output goes to `ours-{index}`, its features to `ours.npy`.
        config: settings of encode.
        index: number of the turn.

    Returns:
        `session_seconds`: starting and stopping Ray; `encode_seconds`: the call of `encode`; `steady_seconds`: of them,
        from the moment when the first actor has its model; `aside_seconds`: the benchmark's own work; `fit_seconds`: an
        alignment fit of the published form, else 0; `stage_seconds`: stage -> seconds over all its tasks and actors;
        `waiting_share`.
    """
    from coevo_ray.pipelines.make_targets import encode
    from coevo_ray.runtime.session import ray_session

    out = Path(folder) / f"ours-{index}"
    began = time.time()
    with ray_session():
        started = time.time()
        targets = encode(config, str(Path(folder) / "pool"), str(out))
        ended = time.time()
    stopped = time.time()
    fit_seconds = _fit(out) if config["projection"] == "random" else 0.0
    summary = targets.manifest.summary
    (prior,) = summary["priors"]
    np.save(Path(folder) / "ours.npy", _features(out))
    wave = prior["seconds"] - prior["startup_seconds"] + prior["stage_seconds"].get("components", 0.0)
    return {
        "session_seconds": started - began + stopped - ended,
        "encode_seconds": ended - started,
        "steady_seconds": wave + summary["seconds"],
        "aside_seconds": time.time() - stopped,
        "fit_seconds": fit_seconds,
        "stage_seconds": {**prior["stage_seconds"], **summary["stage_seconds"]},
        "waiting_share": prior["waiting_share"],
    }


def _fit(out: Path) -> float:
    """A lone prior is its own reference and fits nothing; the fit costs the same whatever it is fitted to."""
    from coevo_ray.core.alignment.alignment import fit_alignment

    shared = _features(out, shared=True)
    started = time.time()
    fit_alignment(shared, np.ascontiguousarray(shared[:, ::-1]))
    return time.time() - started


def _features(out: Path, shared: bool = False) -> npt.NDArray[np.float32]:
    from coevo_ray.pipelines.encode.contribution import Contribution
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import vectors

    contribution = Contribution(Location.parse(out / "contributions" / "00"))
    return (
        contribution.shared_features()[1] if shared else vectors(contribution.own_rows(["feature"]).column("feature"))
    )


def bare_loop(folder: str, batch_rows: int, threads: int, prefetch: bool) -> dict[str, Any]:
    """The peer's turn: read, decode, forward, keep the features in memory.

    Args:
        folder: holds the pool; the features go to `loop.npy`.
        batch_rows: rows of a forward pass.
        threads: threads of PyTorch.
        prefetch: decode the next batches in a thread meanwhile.

    Returns:
        `steady_seconds`: the loop alone; `encode_seconds`: with loading the model; `aside_seconds`: the benchmark's
        own work.
    """
    import torch

    from coevo_ray.priors.registry import load_prior

    torch.set_num_threads(threads)
    began = time.time()
    prior = load_prior(PRIOR, PIXELS)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (prior.mean, prior.std))
    started = time.time()
    batches, parts = _batches(Path(folder) / "pool", batch_rows), []
    with torch.inference_mode():
        for images in _ahead(batches) if prefetch else batches:
            # Channels last, the faster layout, as in our stage.
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            parts.append(prior.module((pixels - mean) / std).numpy())
    features = np.concatenate(parts)
    ended = time.time()
    np.save(Path(folder) / "loop.npy", features)
    return {
        "steady_seconds": ended - started,
        "encode_seconds": ended - began,
        "aside_seconds": time.time() - ended,
    }


def _batches(pool: Path, batch_rows: int) -> Iterator[Images]:
    import pyarrow.parquet as pq

    from coevo_ray.pool.images import decode_resized

    for path in sorted(pool.glob("rows-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_rows, columns=["image"]):
            yield np.stack([decode_resized(data.as_py(), PIXELS) for data in batch.column(0)])


def _ahead(batches: Iterable[Images]) -> Iterator[Images]:
    """Makes two batches ahead in a thread; Pillow's decoders release Python's lock."""
    iterator = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(next, iterator, None) for _ in range(2)]
        while (images := waiting.pop(0).result()) is not None:
            waiting.append(thread.submit(next, iterator, None))
            yield images
