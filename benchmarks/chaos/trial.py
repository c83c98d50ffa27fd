"""One trial: a command that is killed, given again as its user would, and checked in the end."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.check import Undisturbed, facts_of
from benchmarks.chaos.cluster import LocalCluster
from benchmarks.chaos.targets import Scene, Target
from benchmarks.chaos.workloads import Workload
from benchmarks.common import note

_GIVEN = 6  # times that a command is given at most
_LIMIT_S = 900.0  # for one of them, on a machine with other work
_QUIET_S = 120.0  # until nothing of a command works any more: Ray's agents look for their cluster for a minute
_POLL_S = 0.002
_PATIENCE = 8  # steps of progress after which a target that is not there is left out


@dataclass
class Outcome:
    """What became of a trial.

    Attributes:
        workload: name of the command.
        struck: names of the targets that were killed, in their order.
        missed: names of those that had no chance to be: the command was done before.
        codes: exit codes of the command, each time that it was given.
        seconds: of all of it.
        lost: what was lost, in words; empty where all held.
    """

    workload: str
    struck: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where trials take place.

    Attributes:
        folder: of everything.
        inputs: folder of the inputs.
        notes: folder of notes, which the cluster's processes know.
    """

    folder: Path

    @property
    def inputs(self) -> Path:
        """Folder of the inputs."""
        return self.folder / "inputs"

    @property
    def notes(self) -> Path:
        """Folder of notes."""
        return self.folder / "notes"

    def out(self, name: str) -> Path:
        """A folder for a result; a former one is removed, and the notes with it."""
        for folder in (self.folder / name, self.notes):
            shutil.rmtree(folder, ignore_errors=True)
        self.notes.mkdir()
        return self.folder / name


def run_trial(
    cluster: LocalCluster, place: Place, workload: Workload, targets: Sequence[Target], known: Undisturbed, seed: str
) -> Outcome:
    """Kills some targets of a command, one after the other, and checks what is left in the end.

    Args:
        cluster: a cluster that has all of its nodes; it has them again afterwards.
        place: where.
        workload: the command.
        targets: what is killed.
        known: what undisturbed runs have in common.
        seed: of the moments.
    """
    out, started, outcome = place.out("disturbed"), time.monotonic(), Outcome(workload.name)
    scene, todo = Scene(cluster, place.notes, out, random.Random(seed)), list(targets)
    for attempt in range(_GIVEN):
        log = place.folder / f"disturbed-{attempt}.log"
        scene.command = cluster.command([*workload.arguments(place.inputs), "--out", str(out), "--json"], log)
        dead = _follow(scene, workload, todo, outcome, time.monotonic() + _LIMIT_S)
        if scene.command.running:
            outcome.lost.append(f"it ran for {_LIMIT_S:g} s: {scene.command.said()}")
            scene.command.processes.end()
            break
        outcome.codes.append(code := scene.command.process.returncode)
        if any(target.takes_nodes for target in dead):
            cluster.restore()
        if code == 0:
            break
        if code != 4 and not any(target.ends for target in dead):
            outcome.lost.append(f"exit code {code} after {outcome.struck}: {scene.command.said()}")
            break
    else:
        outcome.lost.append(f"given {_GIVEN} times it was not done: {scene.command.said()}")
    outcome.missed += [target.name for target in todo]
    outcome.lost += [] if outcome.lost else differences(out, known)
    outcome.lost += left_behind(scene)
    outcome.seconds = round(time.monotonic() - started, 1)
    return outcome


def undisturbed(cluster: LocalCluster, place: Place, workload: Workload) -> Undisturbed:
    """Runs a command twice without any kill.

    Raises:
        SystemExit: it fails.
    """
    found = []
    for name in ("one", "two"):
        out, started = place.out(name), time.monotonic()
        arguments = [*workload.arguments(place.inputs), "--out", str(out), "--json"]
        command = cluster.command(arguments, place.folder / f"{name}.log")
        if command.wait(_LIMIT_S) != 0:
            raise SystemExit(f"{workload.name} failed without any kill:\n{command.said()}")
        note(f"{workload.name}, undisturbed: {time.monotonic() - started:.0f} s")
        found.append(facts_of(out))
    return Undisturbed.of(*found)


def differences(out: Path, known: Undisturbed) -> list[str]:
    """What of a finished result is not as it has to be, in words."""
    try:
        different = known.difference(facts_of(out))
    except Exception as error:  # noqa: BLE001 - a damaged result may raise anything, and is told as lost
        return [f"the result cannot be read: {type(error).__name__}: {error}"]
    return [f"the result differs in {len(different)} facts: {different[:10]}"] if different else []


def left_behind(scene: Scene) -> list[str]:
    """What still works though its command has ended, in words; it is ended."""
    scene.cluster.processes.wait(lambda found: not any(each.works for each in found), _QUIET_S)
    working = [each for each in scene.cluster.processes.all() if each.works]
    mine = scene.command.processes.wait(lambda found: not found, 10)
    return [f"{each.title[:120]} was left behind" for each in (*working, *mine)]


def _follow(scene: Scene, workload: Workload, todo: list[Target], outcome: Outcome, deadline: float) -> list[Target]:
    """Follows a command to its end or a deadline; kills one target after the other on the way, and gives those back."""
    dead: list[Target] = []
    at = workload.progress(scene.notes, scene.out) + scene.chance.randint(*workload.stride)
    while scene.command.running and time.monotonic() < deadline:
        if not todo or (dead and dead[-1].ends):
            time.sleep(0.05)
            continue
        now = workload.progress(scene.notes, scene.out)
        if now >= at and (pid := todo[0].strike(scene)) is not None:
            note(f"  {workload.name}: {todo[0].name}, process {pid}, killed at {now}")
            outcome.struck.append(todo[0].name)
            dead.append(todo.pop(0))
            at = now + scene.chance.randint(*workload.stride)
        elif now > at + _PATIENCE:
            outcome.missed.append(todo.pop(0).name)
        time.sleep(_POLL_S)
    return dead
