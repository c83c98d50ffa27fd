"""Kill points of both journals: the process dies at a byte or an operation of a step, or the power goes.

Held is a point at which the state that was acknowledged is there after a restart, what was not is there wholly or not
at all, and the step, made again, leads to the state of a process that nobody killed.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.disk import Disk, Killed
from benchmarks.chaos.services import Gate, Ledger, Step

_MEMORY = Path("/dev/shm")  # a file system in memory where there is one: thousands of syncs


@dataclass(frozen=True)
class _Point:
    """A kill: in a step, after so many units of it, alone or with a power cut."""

    step: int
    units: int
    power: bool


@dataclass(frozen=True)
class _Before:
    """The journal's files and the state before a step, and the state after it."""

    files: dict[str, bytes]
    before: object
    after: object
    boundaries: list[int]
    units: int


def kill_points(subject: Ledger | Gate, points: int, seed: int) -> dict[str, Any]:
    """Kills a service at so many seeded points of its work.

    Args:
        subject: the service.
        points: how many; those at the boundaries of operations first, the others at bytes in between.
        seed: of the choice.

    Returns:
        `points`, `held`, `lost` (a line for each, up to 20), `boundaries` (how many of them), `possible`.
    """
    steps, chance = subject.steps(), random.Random(f"{subject.name} {seed}")
    with tempfile.TemporaryDirectory(prefix="coevo-chaos-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        known = list(_undisturbed(subject, steps, Path(folder) / "whole"))
        chosen, boundaries, possible = _choose(known, points, chance)
        lost = [
            text
            for point in chosen
            if (text := _lost(subject, steps[point.step], known[point.step], point, Path(folder) / "cut", chance))
        ]
    return {
        "points": len(chosen),
        "held": len(chosen) - len(lost),
        "lost": lost[:20],
        "boundaries": boundaries,
        "possible": possible,
    }


def _undisturbed(subject: Ledger | Gate, steps: list[Step], folder: Path) -> Iterator[_Before]:
    folder.mkdir()
    service = subject.make(folder)
    for step in steps:
        files, before, disk = _files(folder), subject.state(service), Disk(folder)
        with disk.mounted():
            step(service)
        yield _Before(files, before, subject.state(service), disk.boundaries, disk.used)


def _choose(known: list[_Before], points: int, chance: random.Random) -> tuple[list[_Point], int, int]:
    edges = [_Point(i, unit, power) for i, b in enumerate(known) for unit in b.boundaries for power in (False, True)]
    possible = 2 * sum(before.units for before in known)
    chance.shuffle(edges)
    chosen = edges[: max(1, points // 2)]
    seen = set(chosen)
    weights = [before.units for before in known]
    while len(chosen) < min(points, possible):
        step = chance.choices(range(len(known)), weights)[0]
        point = _Point(step, chance.randrange(known[step].units), chance.random() < 0.5)
        if point not in seen:
            seen.add(point)
            chosen.append(point)
    return chosen, min(len(edges), max(1, points // 2)), possible


def _lost(
    subject: Ledger | Gate, step: Step, known: _Before, point: _Point, folder: Path, chance: random.Random
) -> str:
    """Dies at a point, goes on, and describes the loss; "" for none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in known.files.items():
        (folder / name).write_bytes(content)
    disk = Disk(folder, point.units)
    try:
        if not _died(subject, step, disk, folder):
            return f"{subject.name}: {point} was not reached"
        if point.power:
            disk.cut_power(chance)
        found = _went_on(subject, step, known, folder)
    except Exception as error:  # noqa: BLE001 - any error of a restart is a finding, not an end of the search
        found = f"{type(error).__name__}: {error}"
    return found and f"{subject.name}: {point}: {found}"


def _died(subject: Ledger | Gate, step: Step, disk: Disk, folder: Path) -> bool:
    service = subject.make(folder)
    try:
        with disk.mounted():
            step(service)
    except Killed:
        return True
    return False


def _went_on(subject: Ledger | Gate, step: Step, known: _Before, folder: Path) -> str:
    service = subject.make(folder)
    if subject.state(service) not in (known.before, known.after):
        return "the state after a restart is neither that before the step nor that after it"
    step(service)
    if subject.state(service) != known.after:
        return "the step made again led to another state"
    if subject.state(subject.make(folder)) != known.after:
        return "what was acknowledged the second time is not there after another restart"
    return ""


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
