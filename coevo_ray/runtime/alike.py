"""Checks whether the nodes of a cluster are alike: the same packages, and the same folders at the same paths.

Found before a stage starts and named with the node. Otherwise the first shard that lands on the odd node fails hours
later, with the error of an import or of a file, or writes to a disk that nobody else reads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coevo_ray._version import __version__
from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.progress import say
from coevo_ray.runtime import node_probe
from coevo_ray.runtime.causes import cause_of
from coevo_ray.runtime.node_probe import Answer, installed, python_version
from coevo_ray.store.location import Location

_OURS = "coevo-ray"
# What the work of nodes is made of; another version may give other numbers.
_PACKAGES = ("numpy", "pyarrow", "torch", "torchvision", "faiss-cpu", "pillow", "safetensors")
_ANSWER_S = 120.0  # of a node: a worker starts in seconds, on a busy one in a minute
_SETTLE_S = 10.0  # until a shared volume shows what another node has just made
_MOST_SHOWN = 5


class AlikeNodes:
    """The checks of this session; a node or a path is checked once."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._seen: set[tuple[str, str]] = set()

    def check(self, places: Sequence[Location]) -> None:
        """Compares each node with this process.

        Args:
            places: files or folders that every node must see.

        Raises:
            UsageError: a node lacks a package, has another version of this one or of Python, or does not see a place.
            StoppedError: a node does not answer.
        """
        wanted = {place.uri: place.is_local for place in places}
        asked: dict[str, dict[str, bool]] = {}
        names = _alive()
        for node in names:
            left = {uri: local for uri, local in wanted.items() if (node, uri) not in self._seen}
            if left or node not in self._known:
                asked[node] = left
        answers = _ask(asked, names)
        _compare_packages({names[node]: answer for node, answer in answers.items() if node not in self._known})
        _compare_places({names[node]: answer for node, answer in answers.items()})
        self._known |= answers.keys()
        self._seen |= {(node, uri) for node in answers for uri in asked[node]}


def _alive() -> dict[str, str]:
    """Identifier of each node that is alive -> its name in messages: its address, told apart where there are two."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    count = Counter(addresses.values())
    return {node: at if count[at] == 1 else f"{at} ({node[:8]})" for node, at in addresses.items()}


def _ask(asked: dict[str, dict[str, bool]], names: dict[str, str]) -> dict[str, Answer]:
    """Node -> its answer; a node that died meanwhile has none."""
    running = {}
    with _travelling_as_code():
        task = ray.remote(num_cpus=0, max_retries=2)(node_probe.look)
        for node, places in asked.items():
            there = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            running[there.remote(_PACKAGES, places, _SETTLE_S)] = node
    done, late = ray.wait(list(running), num_returns=len(running), timeout=_ANSWER_S) if running else ([], [])
    alive = _alive()
    silent = [names[running[reference]] for reference in late if running[reference] in alive]
    for reference in late:
        ray.cancel(reference, force=True)
    if silent:
        raise StoppedError(
            f"{_told(silent)} did not answer within {_ANSWER_S:g} s",
            "check whether it starts workers (`ray status`, the logs of its raylet), or remove it from the cluster; "
            "then run the same command again",
        )
    answers = {}
    for reference in done:
        try:
            answers[running[reference]] = ray.get(reference)
        except RayError as error:
            if running[reference] in alive:  # else it is of no use to the work, which is what Ray will see as well
                raise StoppedError(
                    f"{_told([names[running[reference]]])} cannot run a task: {cause_of(error)}",
                    "look into the logs of its raylet, then run the same command again",
                ) from error
    return answers


@contextmanager
def _travelling_as_code() -> Iterator[None]:
    pickling: Any = ray.cloudpickle  # Ray leaves it untyped
    pickling.register_pickle_by_value(node_probe)
    try:
        yield
    finally:
        pickling.unregister_pickle_by_value(node_probe)


def _compare_packages(answers: dict[str, Answer]) -> None:
    """Name of a node -> its answer."""
    must = {"python": python_version(), _OURS: __version__}
    for name, here in must.items():
        others: dict[str | None, list[str]] = defaultdict(list)
        for node, answer in answers.items():
            if answer[name] != here:
                others[answer[name]].append(node)
        for there, which in others.items():
            have = f"does not have {name}" if there is None else f"has {name} {there}"
            raise UsageError(f"{_told(which)} {have}, and this process has {name} {here}", _INSTALL)
    for name in _PACKAGES:
        own = installed(name)
        lacking = [node for node, answer in answers.items() if answer["packages"][name] is None]
        if lacking and own is not None:
            raise UsageError(f"{_told(lacking)} does not have {name}, and this process has {name} {own}", _INSTALL)
        other = {answer["packages"][name] for answer in answers.values()} - {own, None}
        for there in sorted(other):
            which = [node for node, answer in answers.items() if answer["packages"][name] == there]
            say(f"{_told(which)} has {name} {there}, and this process {own}: results may differ between nodes")


_INSTALL = (
    "start all nodes from one image, or install the same there: pip install with the constraints of this process "
    "(pip freeze); the nodes' Python is the one that ran `ray start`"
)


def _compare_places(answers: dict[str, Answer]) -> None:
    """Name of a node -> its answer."""
    blind: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node, answer in answers.items():
        for uri, why in answer["unseen"].items():
            blind[uri, why].append(node)
    for (uri, why), which in blind.items():
        raise UsageError(
            f"{_told(which)} does not see {uri} ({why}), which this process sees",
            "give folders that every node sees at the same path: a shared volume, s3:// or gs:// with credentials on "
            "every node",
        )


def _told(nodes: Sequence[str]) -> str:
    """Nodes, for a message: each of them "does"."""
    shown = ", ".join(sorted(nodes)[:_MOST_SHOWN])
    more = f" and {len(nodes) - _MOST_SHOWN} more" if len(nodes) > _MOST_SHOWN else ""
    return f"node {shown}{more}" if len(nodes) == 1 else f"each of the nodes {shown}{more}"
