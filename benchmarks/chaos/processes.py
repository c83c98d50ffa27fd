"""Processes of one cluster and its commands, found by a mark in their environment; nobody else's is ever touched."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "COEVO_RAY_CHAOS_PROCESS"
# Idle workers, a node's agents, and actors that Ray Data leaves on a cluster, one of each, for whoever comes next.
_NOT_AT_WORK = (
    "IDLE",
    "DashboardAgent",
    "RuntimeEnvAgent",
    "ActorLocationTracker",
    "_AutoscalingCoordinatorActor",
    "_StatsActor",
    "_UsageCollectionActor",
)


@dataclass(frozen=True)
class Process:
    """A process that runs.

    Attributes:
        pid: its number.
        title: its command line, in which a worker of Ray says what it does.
    """

    pid: int
    title: str

    @property
    def works(self) -> bool:
        """A worker of Ray with a task or an actor of a command."""
        return self.title.startswith("ray::") and not any(name in self.title for name in _NOT_AT_WORK)


class Marked:
    """Processes with a mark.

    Args:
        mark: value of the environment variable `MARK` that they were started with.
    """

    def __init__(self, mark: str) -> None:
        self._needle = f"{MARK}={mark}".encode()
        self._known: dict[int, bool] = {}
        self._again = 0.0

    def all(self) -> list[Process]:
        """Those that run now; a process that ended and was not waited for is none."""
        with os.scandir("/proc") as entries:
            numbers = {int(entry.name) for entry in entries if entry.name.isdigit()}
        if time.monotonic() > self._again:  # numbers are given again, and a process may become another one
            self._known, self._again = {pid: True for pid, ours in self._known.items() if ours}, time.monotonic() + 1
        for pid in numbers - self._known.keys():
            self._known[pid] = self._needle in _read(pid, "environ")
        found = [(pid, _read(pid, "cmdline")) for pid, ours in self._known.items() if ours and pid in numbers]
        return [Process(pid, line.replace(b"\0", b" ").decode(errors="replace").strip()) for pid, line in found if line]

    def titled(self, text: str) -> list[Process]:
        """Workers of Ray that are at something."""
        return [process for process in self.all() if process.works and text in process.title]

    def wait(self, until: Callable[[list[Process]], bool], seconds: float) -> list[Process]:
        """Waits for a condition; returns the processes as they are then, or when the time is over."""
        deadline = time.monotonic() + seconds
        while not until(found := self.all()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def end(self) -> None:
        """Ends all of them."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.all():
                kill(process.pid, number)
            self.wait(lambda found: not found, 10)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Sends a signal; False where the process had ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""  # it ended, or belongs to somebody else
