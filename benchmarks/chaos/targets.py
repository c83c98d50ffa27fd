"""What is killed: each target is found by what it is at, and killed in the midst of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.cluster import Command, LocalCluster
from benchmarks.chaos.processes import kill
from benchmarks.chaos.slow import noted
from benchmarks.chaos.workloads import ENCODE, GATE, TRAIN, Workload


@dataclass
class Scene:
    """A command that runs, and where its traces are.

    Attributes:
        cluster: where it runs.
        notes: folder of its notes.
        out: folder of its result.
        chance: for choices among several.
        command: the latest run of it.
    """

    cluster: LocalCluster
    notes: Path
    out: Path
    chance: random.Random
    command: Command = field(init=False)
    left: set[str] = field(default_factory=set)  # temporary files of processes that were killed

    def worker(self, text: str) -> int | None:
        """Kills a worker of Ray that has this text in its title; its pid, or None where there is none now."""
        found = self.cluster.processes.titled(text)
        return found[0].pid if found and kill(found[0].pid) else None

    def noted(self, name: str) -> int | None:
        """Kills the process that made the latest note, if that is at work still."""
        pids = noted(self.notes, name)
        there = {process.pid for process in self.cluster.processes.all() if process.works}
        return pids[-1] if pids and pids[-1] in there and kill(pids[-1]) else None

    def driver(self) -> int | None:
        """Kills the command."""
        return self.command.process.pid if kill(self.command.process.pid) else None


Strike = Callable[[Scene], int | None]


@dataclass(frozen=True)
class Target:
    """What is killed.

    Attributes:
        name: for the result.
        strike: kills it once it is there; returns its pid then.
        ends: the command cannot go on: it has to be given again.
        takes_nodes: the cluster has to be restored before that.
    """

    name: str
    strike: Strike
    ends: bool = False
    takes_nodes: bool = False


def _appending(scene: Scene) -> int | None:
    """Kills the service while a record of its journal is being written."""
    writing = {file.name for file in (scene.out / "journal").glob("*.record.tmp-*")} - scene.left
    pid = scene.worker("SelectionActor") if writing else None
    scene.left |= writing if pid is not None else set()
    return pid


ACTOR = Target("encode_actor", lambda scene: scene.noted("forward"))
READER = Target("encode_reader", lambda scene: scene.worker("MapBatches(Prepare)"))
WRITER = Target("encode_writer", lambda scene: scene.worker("MapBatches(WriteParts)"))
WORKER = Target("train_worker", lambda scene: scene.noted("step"))
CONTROLLER = Target("train_controller", lambda scene: scene.worker("TrainController"))
LEDGER = Target("ledger_service", lambda scene: scene.worker("SelectionActor"))
SERVICE = Target("gate_service", lambda scene: scene.worker("SelectionActor"))
TAKING = Target("gate_service_in_append", _appending)
DRIVER = Target("driver", Scene.driver, ends=True)
NODE = Target("raylet", lambda scene: scene.cluster.kill_node(scene.chance), takes_nodes=True)
HEAD = Target("head", lambda scene: scene.cluster.kill_head(), ends=True, takes_nodes=True)

# A deck of trials: the kills that one command and its repeats have to bear, one after the other.
DECK: tuple[tuple[Workload, tuple[Target, ...]], ...] = (
    (ENCODE, (READER, ACTOR, WRITER, READER, WRITER, ACTOR, WRITER, ACTOR, DRIVER, WRITER, ACTOR)),
    (ENCODE, (ACTOR, READER, WRITER, NODE, ACTOR, WRITER, ACTOR, WRITER, ACTOR)),
    (ENCODE, (WRITER, ACTOR, HEAD, READER, ACTOR, WRITER)),
    (TRAIN, (WORKER, LEDGER, WORKER, LEDGER, WORKER, LEDGER)),
    (TRAIN, (WORKER, WORKER, WORKER, DRIVER, WORKER, LEDGER)),
    (TRAIN, (WORKER, NODE, LEDGER)),
    (TRAIN, (CONTROLLER, WORKER, WORKER)),
    (TRAIN, (LEDGER, HEAD, WORKER)),
    (GATE, (TAKING, SERVICE, TAKING, DRIVER, TAKING, SERVICE, TAKING)),
)
QUICK: tuple[tuple[Workload, tuple[Target, ...]], ...] = (
    (ENCODE, (ACTOR, WRITER)),
    (TRAIN, (WORKER, DRIVER)),
    (GATE, (TAKING,)),
)
