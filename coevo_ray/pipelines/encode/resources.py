"""Resources of encode: the number of actors, and who works at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import ray.data

from coevo_ray.config import ActorPool, Compute, EncodeCompute
from coevo_ray.runtime.resources import LOWER, Need, nodes, require, shortage, total

Item = TypeVar("Item")
Resources = dict[str, float]


def settle(wanted: Sequence[EncodeCompute]) -> list[ActorPool]:
    """Settles the number of actors of each prior, and refuses requests beyond the cluster.

    Priors without a number share the cluster: its GPUs by an actor's share of one, else its CPUs by those of an actor
    with one reading task.

    Args:
        wanted: request of each prior.

    Raises:
        UsageError, StoppedError: actors and reading have no room, see `runtime.resources.require`.
    """
    for compute in wanted:
        require("encode", *at_least(compute), remedy=f"{LOWER}, or compute.reader_cpus")
    there = nodes()
    have = total(there)
    by_gpu = sum(c.gpus for c in wanted if c.actors is None)
    by_cpu = sum(c.cpus + c.reader_cpus for c in wanted if c.actors is None and c.gpus == 0)
    computes = []
    for compute in wanted:
        share = have["GPU"] / by_gpu if compute.gpus > 0 and by_gpu else have["CPU"] / (by_cpu or 1)
        most = compute.max_actors or max(1, int(share))
        chosen = _with_actors(compute, compute.actors or min(most, max(1, int(share))))
        while not compute.actors and chosen.actors > 1 and shortage(needs_of(chosen), there):
            chosen = chosen.model_copy(update={"actors": chosen.actors - 1})  # by sums there was room, on no node
        computes.append(chosen)
    return computes


def at_least(compute: EncodeCompute) -> tuple[Need, Need]:
    """Resources that a prior needs at the same time with its minimum of actors."""
    return needs_of(_with_actors(compute, compute.actors or 1))


def _with_actors(compute: EncodeCompute, actors: int) -> ActorPool:
    return ActorPool(**{**compute.model_dump(), "actors": actors})


def strategy_of(compute: ActorPool) -> ray.data.ActorPoolStrategy:
    """Ray Data's actor pool for a prior: a fixed number, or from one on, as far as there is room.

    A pool that may grow asks a cluster that adds nodes by itself for them.
    """
    most = compute.max_actors or compute.actors
    if most <= compute.actors:
        return ray.data.ActorPoolStrategy(size=compute.actors)
    return ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=compute.actors)


def needs_of(compute: Compute) -> tuple[Need, Need]:
    """Resources that a prior's actors, and one task that reads for them, need at the same time."""
    return Need("actor", compute.cpus, compute.gpus, compute.actors), Need("reading task", compute.reader_cpus)


def waves(items: Sequence[Item], compute_of: Callable[[Item], Compute]) -> list[list[Item]]:
    """Groups participants that run side by side: as many, in order, as the cluster has room for.

    Args:
        items: participants.
        compute_of: participant -> its resources.
    """
    groups = fit_waves([compute_of(item) for item in items], total(nodes()))
    return [[items[i] for i in group] for group in groups]


def fit_waves(computes: Sequence[Compute], have: Resources) -> list[list[int]]:
    """The positions of the participants of each wave; one reading task always has room.

    Args:
        computes: resources of each participant.
        have: name -> resources of the cluster.
    """
    groups: list[list[int]] = []
    left: Resources = {}
    for index, compute in enumerate(computes):
        need = _need(compute)
        room = {**left, "CPU": left.get("CPU", 0.0) - compute.reader_cpus}
        if not groups or any(need[name] > room.get(name, 0.0) for name in need):
            groups.append([])
            left = dict(have)
        groups[-1].append(index)
        left = {name: left.get(name, 0.0) - need[name] for name in need}
    return groups


def _need(compute: Compute) -> Resources:
    return {"CPU": compute.actors * compute.cpus, "GPU": compute.actors * compute.gpus}
