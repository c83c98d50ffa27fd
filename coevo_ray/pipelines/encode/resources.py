"""Resources of encode: settled and checked before the start, so that no actor waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import ray

from coevo_ray.config import Compute, EncodeCompute
from coevo_ray.errors import UsageError

Item = TypeVar("Item")
Resources = dict[str, float]


def settle(wanted: Sequence[EncodeCompute]) -> list[Compute]:
    """Settles the number of actors of each prior, and refuses requests beyond the cluster.

    Priors without a number share the cluster: its GPUs by an actor's share of one, else its CPUs by those of an actor
    with one reading task.

    Args:
        wanted: request of each prior.

    Raises:
        UsageError: no node has room for an actor, or actors leave none for reading; states need and stock.
    """
    nodes = _nodes()
    have = _total(nodes)
    by_gpu = sum(c.gpus for c in wanted if c.actors is None)
    by_cpu = sum(c.cpus + c.reader_cpus for c in wanted if c.actors is None and c.gpus == 0)
    computes = []
    for compute in wanted:
        share = have["GPU"] / by_gpu if compute.gpus > 0 and by_gpu else have["CPU"] / (by_cpu or 1)
        actors = compute.actors or max(1, int(share))
        computes.append(Compute(**{**compute.model_dump(), "actors": actors}))
    _check(computes, nodes)
    return computes


def _check(computes: Sequence[Compute], nodes: list[Resources]) -> None:
    for compute in computes:
        for name, need in (("CPU", compute.cpus), ("GPU", compute.gpus)):
            have = max((node.get(name, 0.0) for node in nodes), default=0.0)
            if need > have:
                raise UsageError(
                    f"an actor needs {need:g} {name}s, the largest node of the Ray cluster has {have:g}",
                    f"lower compute.{name.lower()}s, or start a node with more",
                )
        together, there = _need(compute), _total(nodes)
        together["CPU"] += compute.reader_cpus
        for name, need in together.items():
            if need > there[name]:
                raise UsageError(
                    f"{compute.actors} actors and one reading task need {need:g} {name}s, "
                    f"the Ray cluster has {there[name]:g}",
                    "lower compute.actors, compute.cpus or compute.reader_cpus, or start more nodes",
                )


def waves(items: Sequence[Item], compute_of: Callable[[Item], Compute]) -> list[list[Item]]:
    """Groups participants that run side by side: as many, in order, as the cluster has room for.

    Args:
        items: participants.
        compute_of: participant -> its resources.
    """
    groups = fit_waves([compute_of(item) for item in items], _total(_nodes()))
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


def _nodes() -> list[Resources]:
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    return [node["Resources"] for node in alive]


def _total(nodes: list[Resources]) -> Resources:
    return {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
