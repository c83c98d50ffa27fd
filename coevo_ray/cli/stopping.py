"""Ends a command that is told to stop: by an error in its main thread and, if that takes too long, at once.

The error is not enough: native code returns to Python late, libraries catch errors that are none of theirs or make
others of them, and Ray may be slow to shut down, or crash Python's own end where its start was broken off. So behind
the command the process ends without Python's end, after the processes that it started. What is left then is what a kill
leaves, which the same command goes on from.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from coevo_ray.errors import StoppedError

GRACE_S = 7.0
_RAY_END_S = 2.0
_REMEDY = "run the same command again: finished parts are kept"


class Stopping:
    """State of SIGTERM for one command; `told` is True once the signal has come."""

    def __init__(self) -> None:
        self.told = False
        # Noted before any of them is told to end, since a process whose parent has ended is nobody's.
        self.started: dict[int, str] = {}

    def error(self) -> StoppedError | None:
        """Returns the error that ends a stopped command, also if a library swallowed it; None before SIGTERM."""
        return StoppedError(f"stopped by {signal.SIGTERM.name}", _REMEDY) if self.told else None

    def handle(self, number: int, frame: FrameType | None) -> NoReturn:
        """Handles SIGTERM.

        Raises:
            StoppedError: always.
        """
        self.told = True
        # A second one would break off the end; not inherited by processes that are started here.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        raise StoppedError(f"stopped by {signal.SIGTERM.name}", _REMEDY)


@contextmanager
def ends_on_sigterm() -> Iterator[Stopping]:
    """Has SIGTERM end this process with the exit code for "resumable" within the block, entered in the main thread.

    A signal that came within it ends the process behind it: with 0 where the command was done all the same.
    """
    stopping, (reading, writing) = Stopping(), os.pipe()
    os.set_blocking(writing, False)
    # The number of a signal is written there when it comes; a Python handler runs only once native code returns.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reading, stopping), name="coevo-stop", daemon=True).start()
    signal.signal(signal.SIGTERM, stopping.handle)
    try:
        yield stopping
    except BaseException as error:
        if stopping.told:
            if not isinstance(error, SystemExit):
                os.write(2, f"error: stopped by SIGTERM\nremedy: {_REMEDY}\n".encode())
            done = isinstance(error, SystemExit) and error.code in {0, None}
            _end(0 if done else StoppedError.exit_code, stopping)
        raise
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _end_in_time(reading: int, stopping: Stopping) -> None:
    """Waits for SIGTERM, then gives the main thread its time."""
    while signal.SIGTERM not in (come := os.read(reading, 64)):
        if not come:  # the block has ended
            os.close(reading)
            return
    stopping.started.update(_descendants(os.getpid()))
    time.sleep(GRACE_S)
    stopping.started.update(_descendants(os.getpid()))
    _end_ray()
    _send(signal.SIGKILL, dict(stopping.started))
    os.write(2, f"error: stopped by SIGTERM, and not ended after {GRACE_S:g} s\nremedy: {_REMEDY}\n".encode())
    os._exit(StoppedError.exit_code)


def _end_ray() -> None:
    """Ends a local session's processes; in a thread, as the main one may hold Ray's locks."""
    session = sys.modules.get("coevo_ray.runtime.session")  # without it there is none
    if session is not None:
        ending = threading.Thread(target=session.end_local_node, daemon=True)
        ending.start()
        ending.join(_RAY_END_S)


def _end(code: int, stopping: Stopping) -> NoReturn:
    """Ends this process, and before it the processes that it started: a start of Ray that was broken off left them."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    stopping.started.update(_descendants(os.getpid()))
    started = dict(stopping.started)
    _send(signal.SIGTERM, started)
    deadline = time.monotonic() + _RAY_END_S
    while _running(started) and time.monotonic() < deadline:
        time.sleep(0.05)
    _send(signal.SIGKILL, started)
    os._exit(code)


# -- processes: their number, and when each began, since numbers are given again --------------------------------------


def _descendants(root: int) -> dict[int, str]:
    """Processes that a process started, and theirs; none where there is no /proc."""
    found = {int(folder.name): about for folder in Path("/proc").glob("[0-9]*") if (about := _about(folder))}
    descendants, todo = dict[int, str](), [root]
    while todo:
        one = todo.pop()
        children = {pid: began for pid, (_, parent, began) in found.items() if parent == one}
        descendants |= children
        todo += children
    return descendants


def _about(folder: Path) -> tuple[str, int, str] | None:
    """State, parent and beginning of a process; None where it has ended."""
    try:
        # Behind the name, which may have spaces and brackets in it.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), fields[19]


def _running(started: dict[int, str]) -> list[int]:
    """Those that have not ended; what waits for its parent to look (Z) has."""
    about = {pid: _about(Path("/proc") / str(pid)) for pid in started}
    return [pid for pid, now in about.items() if now and now[0] != "Z" and now[2] == started[pid]]


def _send(number: int, started: dict[int, str]) -> None:
    for pid in _running(started):
        with suppress(OSError):
            os.kill(pid, number)
