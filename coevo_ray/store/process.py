"""The identity of a process: tells one that runs from one that has ended, and from another one with the same pid."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process of this machine or of another one.

    Attributes:
        host: name of its machine, for people.
        pid: its number there.
        started: when it started, in clock ticks since the machine did; pids are reused, but not at the same tick.
        space: boot of the machine and pid namespace: only within one do pids and `boot_clock` compare. Empty where the
            system states none.
    """

    host: str
    pid: int
    started: str
    space: str

    @classmethod
    def current(cls) -> Process:
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _started(pid) or "", _space())

    def is_near(self) -> bool:
        """Tests whether this process can see it, had it not ended."""
        return bool(self.space) and self.space == _space()

    def has_ended(self) -> bool:
        """Tests whether it is known to have ended; False for one on another machine."""
        if not self.is_near():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it runs, for another user
        started = _started(self.pid)
        return started is not None and started != self.started


def boot_clock() -> float:
    """Seconds since this machine started, asleep or not: the same for all its processes, and nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _space() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Start of a process; empty for one that has ended and was not waited for, None where it cannot be read."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return "" if state in "ZX" else fields[18]
