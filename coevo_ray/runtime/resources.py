"""Resources that a stage needs, against those of the cluster: settled before it starts, so that nothing waits for ever.

A cluster that adds nodes by itself is asked for what is missing and waited for. What other work holds at the moment is
not looked at: it ends some time, and `runtime.watchdog` tells a stage that it keeps waiting.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.progress import say
from coevo_ray.runtime.autoscaler import autoscales

WAIT = "COEVO_RAY_NODE_WAIT_SECONDS"  # environment variable: seconds to wait for nodes that are to come
_WAIT_S = 600.0  # where the cluster adds nodes by itself
_LOOK_EVERY_S, _SAY_EVERY_S = 1.0, 30.0
_MOST_SHOWN = 5  # nodes in a message
LOWER = "lower compute.actors, compute.cpus or compute.gpus of this stage (--actors, --cpus, --gpus)"
_SLACK = 1e-6  # Ray counts resources in steps of 1e-4


@dataclass(frozen=True)
class Need:
    """Equal parts of a stage that run at the same time, each on one node.

    Attributes:
        what: a part in words, "training worker".
        cpus, gpus: that each reserves.
        count: of parts.
    """

    what: str
    cpus: float = 0.0
    gpus: float = 0.0
    count: int = 1

    @property
    def bundle(self) -> dict[str, float]:
        """Resources that each reserves, by Ray's names."""
        return {name: need for name, need in (("CPU", self.cpus), ("GPU", self.gpus)) if need > 0}

    @property
    def options(self) -> dict[str, Any]:
        """The same as options of Ray's tasks and of Ray Data's stages."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}

    def __str__(self) -> str:
        each = " and ".join(f"{need:g} {name}{'' if need == 1 else 's'}" for name, need in self.bundle.items())
        return f"{self.count} {self.what}{'' if self.count == 1 else 's'} of {each}"


TASK = Need("task", 0.5)


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        name: its address.
        cpus, gpus: of Ray's resources.
    """

    name: str
    cpus: float
    gpus: float

    def room(self, need: Need) -> float:
        """Number of parts that fit."""
        have = {"CPU": self.cpus, "GPU": self.gpus}
        return min((math.floor((have[name] + _SLACK) / each) for name, each in need.bundle.items()), default=math.inf)


def require(title: str, *needs: Need, remedy: str = LOWER) -> None:
    """Checks that the cluster has room for a stage; one that adds nodes by itself is asked for them and waited for.

    Args:
        title: of the stage, for errors.
        needs: what runs at the same time.
        remedy: which settings to lower.

    Raises:
        UsageError: the cluster has no room, and adds no nodes by itself.
        StoppedError: nodes did not come within `COEVO_RAY_NODE_WAIT_SECONDS`; ten minutes where the cluster adds nodes
            by itself.
    """
    cause = shortage(needs, nodes())
    if cause is None:
        return
    limit = _wait_s()
    if limit == 0:
        raise UsageError(f"{title} needs {cause}", f"{remedy}, or start nodes with more")
    say(f"{title} needs {cause}; waiting for nodes, {limit:g} s at most")
    begun = said = time.monotonic()
    with _asked_for(needs):
        while (cause := shortage(needs, nodes())) is not None:
            now = time.monotonic()
            if now - begun > limit:
                raise StoppedError(
                    f"{title} needs {cause}; no nodes joined within {limit:g} s",
                    f"{remedy}, see `ray status` for why the cluster adds none, or wait longer: {WAIT}=SECONDS",
                )
            if now - said > _SAY_EVERY_S:
                said = now
                say(f"{title} still waits for nodes, {now - begun:.0f} s: {len(nodes())} are there")
            time.sleep(_LOOK_EVERY_S)


def shortage(needs: Sequence[Need], there: Sequence[Node]) -> str | None:
    """Says what nodes have no room for; None if they may have room for all.

    What is refused has no room wherever its parts go. That parts of several needs crowd each other out is told from
    their sums alone.

    Args:
        needs: what runs at the same time.
        there: the nodes.
    """
    for need in needs:
        room = sum(min(need.count, node.room(need)) for node in there)
        if room < need.count:
            have = f"room for {room:g}" if room else "no room"
            return f"{need}, and the Ray cluster has {have}: {_told(there)}"
    for name, have_all in total(there).items():
        wanted = sum(need.count * need.bundle.get(name, 0.0) for need in needs)
        if wanted > have_all + _SLACK:
            together = " and ".join(str(need) for need in needs if name in need.bundle)
            return f"{together}, {wanted:g} {name}s in all, and the Ray cluster has {have_all:g}: {_told(there)}"
    return None


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    return [
        Node(each["NodeManagerAddress"], each["Resources"].get("CPU", 0.0), each["Resources"].get("GPU", 0.0))
        for each in alive
    ]


def free_cpus() -> str:
    """The number of free CPUs, in words."""
    if not ray.is_initialized():
        return "there is no Ray session"
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    return f"{free.get('CPU', 0.0):g} of the cluster's {total(nodes())['CPU']:g} CPUs are free"


def total(there: Sequence[Node]) -> dict[str, float]:
    """CPUs and GPUs of nodes together, by Ray's names."""
    return {"CPU": sum(node.cpus for node in there), "GPU": sum(node.gpus for node in there)}


def _wait_s() -> float:
    """Seconds to wait for nodes.

    Raises:
        UsageError: the environment variable is no number from 0 on.
    """
    text = os.environ.get(WAIT, "").strip()
    if not text:
        return _WAIT_S if autoscales() else 0.0
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < math.inf:
        raise UsageError(f"{WAIT} is {text!r}", "give the seconds to wait for nodes, or 0")
    return limit


@contextmanager
def _asked_for(needs: Sequence[Need]) -> Iterator[None]:
    """Asks the autoscaler for room; nodes that came stay for its idle time, and have our work by then."""
    ask: Callable[..., None] = request_resources  # Ray leaves it half typed
    ask(bundles=[need.bundle for need in needs for _ in range(need.count)])
    try:
        yield
    finally:
        ask(bundles=[])


def _told(there: Sequence[Node]) -> str:
    """The largest nodes, for a message."""
    shown = sorted(there, key=lambda node: (-node.gpus, -node.cpus))[:_MOST_SHOWN]
    each = [f"{node.name} has {node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in shown]
    if len(there) > len(shown):
        each.append(f"{len(there) - len(shown)} more have no more")
    return ", ".join(each) or "no node is alive"
