"""The protocol of trackers, and those of a training: where its figures go besides `metrics.jsonl`."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.store.json_text import object_of
from coevo_ray.store.location import Location

TRACKED = "tracked.json"
_LOG = logging.getLogger(__name__)
# Name -> the class, the package that it needs, and the extra that brings it.
TRACKERS = {
    "tensorboard": ("coevo_ray.training.trackers.tensorboard:TensorBoardFiles", "tensorboardX", "tracking"),
    "mlflow": ("coevo_ray.training.trackers.mlflow_runs:MLflowRun", "mlflow", "mlflow"),
    "wandb": ("coevo_ray.training.trackers.wandb_runs:WandbRun", "wandb", "wandb"),
}
# Where a server is and who may write there is told by variables of theirs, which workers elsewhere do not have.
_VARIABLES = ("MLFLOW_", "WANDB_")


@dataclass(frozen=True)
class TrackedRun:
    """A tracker's view of a training.

    Attributes:
        title: what people call it, such as "train rotation".
        folder: its output.
        settings: those that shape its result.
        identity: hex digits that a training which goes on has again, and no other.
    """

    title: str
    folder: Location
    settings: JsonObject
    identity: str


class Tracker(Protocol):
    """Takes the figures of a training's epochs."""

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Takes an epoch's numbers by name; an epoch may come again after a restart, with the same numbers."""
        ...

    def close(self) -> None:
        """Ends it: all epochs were there. A training that is stopped does not come here."""
        ...


class Trackers:
    """The trackers of a training, opened on the worker that logs; pickles before that.

    A tracker that fails is named in the log and left out from then on: figures are in `metrics.jsonl`, and a server
    that is away is no reason to stop a training.

    Args:
        names: keys of `TRACKERS`, or `package.module:Class` of one of yours, which is called with a `TrackedRun`.
        run: the training; its identity is read or made.
        place: file of its identity, which goes where the training's checkpoints go.

    Raises:
        UsageError: a name is unknown, or its package is not installed.
        StoppedError: the store refused.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun, place: Location) -> None:
        check_trackers(names)
        self._names, self._run = list(names), replace(run, identity=_identity(place) if names else "")
        self._variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
        self._open: dict[str, Tracker] | None = None

    def log(self, entry: JsonObject) -> None:
        """Hands an entry of the history to all of them."""
        if self._open is None:
            os.environ.update({name: value for name, value in self._variables.items() if name not in os.environ})
            self._open = {}
            for name in self._names:
                self._try(name, partial(self._begin, name))
        figures = {name: float(value) for name, value in entry.items() if _is_figure(name, value)}
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.log, entry["epoch"], figures))

    def close(self) -> None:
        """Ends all of them."""
        for name, tracker in list((self._open or {}).items()):
            self._try(name, tracker.close)

    def _begin(self, name: str) -> None:
        assert self._open is not None
        self._open[name] = find_tracker(name)(self._run)

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a tracker that fails in any way must not end the training
            _LOG.warning("the tracker %s gets no more figures of %s: %s", name, self._run.title, error)
            assert self._open is not None
            self._open.pop(name, None)


def _identity(place: Location) -> str:
    """The identity of a training that goes on, or a new one: a folder that was made again is another training."""
    if not place.is_file():
        place.write_json({"identity": uuid.uuid4().hex})
    identity: str = object_of(place.read_json(), place, {"identity": str})["identity"]
    return identity


def check_trackers(names: Sequence[str]) -> None:
    """Checks that trackers are known and their packages installed.

    Raises:
        UsageError: one is not.
    """
    for name in names:
        _, package, extra = TRACKERS.get(name, ("", "", ""))
        if package and find_spec(package) is None:
            raise UsageError(f"the tracker {name} needs the package {package}", f"pip install 'coevo-ray[{extra}]'")
        find_tracker(name)


def find_tracker(name: str) -> Callable[[TrackedRun], Tracker]:
    """Finds a tracker's class.

    Raises:
        UsageError: there is none of this name.
    """
    path = TRACKERS[name][0] if name in TRACKERS else name
    module, _, attribute = path.partition(":")
    choices = f"use one of {', '.join(TRACKERS)}, or package.module:Class for your own"
    if not attribute:
        raise UsageError(f"unknown tracker {name!r}", choices)
    try:
        found: Callable[[TrackedRun], Tracker] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"unknown tracker {name!r}: {error}", choices) from error
    return found


def _is_figure(name: str, value: Any) -> bool:
    return name != "epoch" and isinstance(value, int | float)
