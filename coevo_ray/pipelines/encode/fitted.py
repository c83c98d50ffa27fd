"""Priors that are fitted to the shared set before they encode: their states are made once, beside the contribution."""

from __future__ import annotations

import numpy as np

from coevo_ray.config import PriorConfig
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.job import Job
from coevo_ray.pool.pool import Pool
from coevo_ray.priors.fitted import PREFIX, state_hash, state_name
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.registry import fit_prior, is_fitted
from coevo_ray.progress import say
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, load_manifest
from coevo_ray.store.parts import Parts

# Shared rows that a prior is fitted to, chosen by hash: more would take memory and change little.
_MOST_ROWS = 100_000


def fit_priors(job: Job, locations: list[Location], made_of: list[str]) -> list[Location | None]:
    """Fits the priors that are to be fitted, unless an earlier attempt did, or targets carry their states.

    Args:
        job: priors, pool and shared set.
        locations: folder of each prior's contribution.
        made_of: hash of each contribution's settings and inputs.

    Returns:
        File of each prior's state; None for a prior that is not fitted.

    Raises:
        InputError: a prior cannot be fitted, or the targets that are used lack its state.
        StoppedError: the store or the cluster failed.
    """
    states: list[Location | None] = []
    for index, prior in enumerate(job.config.priors):
        location = locations[index]
        if not is_fitted(prior.name):
            states.append(None)
        elif location.child(MANIFEST).is_file():  # finished by another attempt: only its manifest decides
            states.append(location.child(_stated(location, prior)))
        elif job.like is not None:
            states.append(_carried(job, prior, location))
        else:
            parts = Parts.of(location, made_of[index], PREFIX)
            states.append(location.child(_earlier(parts) or _fit(job, index, parts)))
    return states


def state_files(location: Location) -> list[str]:
    """Names of the states in a folder."""
    return [name for name in location.files() if name.startswith(PREFIX)]


def _stated(location: Location, prior: PriorConfig) -> str:
    """Name of the state that a finished contribution has."""
    manifest = load_manifest(location, "contribution")
    for entry in manifest.files:
        if entry.path.startswith(PREFIX):
            return entry.path
    raise InputError(f"{location} has no state of {prior.label}", "encode again elsewhere")


def _carried(job: Job, prior: PriorConfig, location: Location) -> Location:
    """Copies the state that the targets' prior of this name has."""
    assert job.like is not None
    there = job.like.location.child(state_name(dict(job.like.priors)[prior.label]))
    if not there.is_file():
        raise InputError(f"{job.like.location} has no state of {prior.label}: {there.name}", "restore the file")
    file = location.child(there.name)
    file.write_bytes(there.read_bytes())
    return file


def _earlier(parts: Parts) -> str | None:
    """The state of an earlier attempt with the same settings and inputs; others are deleted."""
    found = None
    for name in state_files(parts.folder):
        if found is None and parts.arrays(name) is not None:
            found = name
        else:
            parts.folder.child(name).delete_file()
    return found


def _fit(job: Job, index: int, parts: Parts) -> str:
    prior, compute = job.config.priors[index], job.computes[index]
    shared = job.shared
    pool = shared.location if isinstance(shared, Pool) else job.pool.location
    rows: Int64Array = np.arange(len(shared), dtype=np.int64) if isinstance(shared, Pool) else shared
    chosen = choose_rows(rows, min(len(rows), _MOST_ROWS), seed=0)
    say(f"{prior.label}: fits to {len(chosen):,} shared rows")
    title, need = f"fit {prior.label}", Need("task", compute.cpus)
    with ray_errors(title):
        fitting = start_task(title, _fit_to_rows, prior, job.samples, pool, chosen, parts, need=need)
        name: str = task_result(title, fitting)
    return name


def _fit_to_rows(prior: PriorConfig, samples: Samples, pool: Location, rows: Int64Array, parts: Parts) -> str:
    """Ray task: fits a prior to rows of a pool; returns the name of its state's file."""
    texts = Pool(pool).read(rows, [samples.modality]).column(samples.modality).to_pylist()
    state = fit_prior(prior.name, prior.input_size, samples, texts)
    return parts.write_arrays(state_name(state_hash(state)), state).path
