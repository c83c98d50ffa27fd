"""Ends a command that is told to stop: by an error in its main thread and, if that takes too long, at once.

The error is not enough: native code returns to Python late, libraries catch errors that are none of theirs, and Ray may
be slow to shut down. What is left then is what a kill leaves, which the same command goes on from.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from coevo_ray.errors import StoppedError

GRACE_S = 7.0
_RAY_END_S = 2.0
_REMEDY = "run the same command again: finished parts are kept"


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Has SIGTERM end this process with the exit code for "resumable" within the block, entered in the main thread.

    A signal that came within it ends the process in time behind it, too: Python's own end may wait for threads.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # The number of a signal is written there when it comes; a Python handler runs only once native code returns.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reading,), name="coevo-stop", daemon=True).start()
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # a second one would break off the end; not inherited
    raise StoppedError(f"stopped by {signal.Signals(number).name}", _REMEDY)


def _end_in_time(reading: int) -> None:
    """Waits for SIGTERM, then gives the main thread its time. Ray's processes of a local session end with this one."""
    while signal.SIGTERM not in (come := os.read(reading, 64)):
        if not come:  # the block has ended
            os.close(reading)
            return
    time.sleep(GRACE_S)
    _end_ray()
    os.write(2, f"error: stopped by SIGTERM, and not ended after {GRACE_S:g} s\nremedy: {_REMEDY}\n".encode())
    os._exit(StoppedError.exit_code)


def _end_ray() -> None:
    """Ends a local session's processes; in a thread, as the main one may hold Ray's locks."""
    session = sys.modules.get("coevo_ray.runtime.session")  # without it there is none
    if session is not None:
        ending = threading.Thread(target=session.end_local_node, daemon=True)
        ending.start()
        ending.join(_RAY_END_S)
