"""Compares the needs of all stages of a run with the cluster before the first one starts."""

from __future__ import annotations

from collections.abc import Iterator

from coevo_ray.config import Compute, RunConfig
from coevo_ray.pipelines.encode.resources import at_least
from coevo_ray.pipelines.gate.resources import needs_of
from coevo_ray.runtime.resources import Need, require
from coevo_ray.store.layout import RunLayout
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST
from coevo_ray.training.loop.run_training import workers_of
from coevo_ray.training.supervised.train import looks_at_evidence


def require_room(config: RunConfig, folders: RunLayout) -> None:
    """Checks the stages that are not finished; the last one should not be refused after hours of the others.

    Args:
        config: the run.
        folders: of it.

    Raises:
        UsageError, StoppedError: see `runtime.resources.require`.
    """
    for title, folder, needs in _stages(config, folders):
        if not folder.child(MANIFEST).is_file():
            require(title, *needs)


def _stages(config: RunConfig, folders: RunLayout) -> Iterator[tuple[str, Location, tuple[Need, ...]]]:
    yield "ingest", folders.pool, (Need("reading task", config.pool.compute.reader_cpus),)
    for index, prior in enumerate(config.encode.priors):
        yield f"encode by {prior.label}", folders.targets, at_least(config.encode.compute_of(index))
    yield "sae", folders.factors.model, (workers_of(config.sae.compute),)
    yield "sae", folders.factors.codes, (_actors(config.sae.compute),)
    if config.gate:
        yield "gate", folders.gate, needs_of(config.gate.compute.actors, config.gate.compute.cpus)
    if config.train:
        if config.evidence and looks_at_evidence(config.train):
            yield "evidence", folders.evidence, (Need("task", config.evidence.compute.cpus),)
        for policy in config.train.policies:
            yield f"train {policy}", folders.training(policy), (workers_of(config.train.compute),)


def _actors(compute: Compute) -> Need:
    return Need("actor", compute.cpus, compute.gpus, compute.actors)
