"""Runs the command line in processes that can be killed and are all found again, by a mark in their environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

MARK = "COEVO_RAY_TEST_PROCESS"


class Marked:
    """A command whose processes, workers included, carry a mark.

    Args:
        arguments: the command.
        environment: added to this process's environment; RAY_ADDRESS is left out unless it is given here.
    """

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self.out, self.err = folder / f"{self.mark}.out", folder / f"{self.mark}.err"
        base = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                arguments, stdout=out, stderr=err, env={**base, **(environment or {}), MARK: self.mark}
            )

    def wait(self, timeout_s: float = 600) -> int:
        """The exit code; the whole of stderr is in the error when it takes too long."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            self.end()
            raise AssertionError(f"still running after {timeout_s} s:\n{self.err.read_text()}") from error

    def until(self, there: Callable[[], bool], timeout_s: float = 400) -> None:
        """Waits for a condition while the command runs."""
        deadline = time.monotonic() + timeout_s
        while not there():
            assert self.process.poll() is None, f"it ended too early:\n{self.err.read_text()}"
            assert time.monotonic() < deadline, f"it never came:\n{self.err.read_text()}"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL for the command alone; what it started has to end by itself."""
        self.process.kill()
        self.process.wait(10)

    def left(self) -> list[int]:
        """Processes with the mark that still run."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if needle in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # it ended, or belongs to somebody else
        return found

    def assert_gone(self, killed: bool = False) -> None:
        """All processes end by themselves; names those that do not.

        Args:
            killed: the command was killed: then a worker that was just starting looks for its raylet for nearly a
                minute, and Ray's agents are not waited for, see `assert_agents_gone`.
        """
        self._assert_ends(120 if killed else 60, agents_too=not killed)

    def assert_agents_gone(self) -> None:
        """All processes of a killed command end by themselves, Ray's agents too.

        The two agents of its node report the end of their raylet to Ray's head, which has ended as well: they give up
        after the 60 s that Ray waits for a head that does not answer.
        """
        self._assert_ends(150, agents_too=True)

    def _assert_ends(self, seconds: float, agents_too: bool) -> None:
        deadline = time.monotonic() + seconds
        while commands := [command for pid in self.left() if (command := _command(pid))]:
            if not agents_too and all(b"Agent" in command for command in commands):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"processes were left behind: {commands}")
            time.sleep(0.2)

    def gone(self, timeout_s: float = 60) -> bool:
        """Whether all processes end by themselves in time."""
        deadline = time.monotonic() + timeout_s
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.2)
        return not self.left()

    def end(self) -> None:
        """Ends every process with the mark."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.left():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            self.gone(5)


def _command(pid: int) -> bytes:
    """Its command line; empty when it has ended meanwhile."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()[:200]
    except OSError:
        return b""


def coevo_ray(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> Marked:
    """Starts the command line."""
    return Marked([sys.executable, "-m", "coevo_ray", *arguments], folder, environment)
