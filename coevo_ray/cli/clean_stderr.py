"""Keeps native code's harmless lines out of the bars, and what is no JSON out of JSON logs.

Ray's core writes to file descriptor 2 itself, past Python's `sys.stderr`, so a pipe takes the descriptor's place and a
small process (`stderr_pump`) copies from it. Bars keep writing to the terminal itself.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from coevo_ray.logs import is_json, json_lines
from coevo_ray.telemetry import run_name

FILTER = "COEVO_RAY_FILTER_STDERR"  # environment variable: 0 leaves stderr as it is
_END_S = 2.0
_PUMP = Path(__file__).with_name("stderr_pump.py")


@contextmanager
def clean_stderr() -> Iterator[None]:
    """Filters stderr within the block, where it is a terminal or lines are to be JSON.

    Nothing but the lines of `stderr_pump.HARMLESS` is lost, also where the process is killed within the block.
    """
    with ExitStack() as stack:
        if is_json():
            stack.enter_context(json_lines())
        if _wanted():
            stack.enter_context(_piped())
        yield


def _wanted() -> bool:
    if os.environ.get(FILTER, "").strip() == "0" or not sys.executable:
        return False
    try:
        return sys.stderr.fileno() == 2 and (is_json() or os.isatty(2))
    except (AttributeError, OSError, ValueError):  # replaced, or closed
        return False


@contextmanager
def _piped() -> Iterator[None]:
    sys.stderr.flush()
    terminal = os.dup(2)  # not inherited by processes that are started here
    reading, writing = os.pipe()
    try:
        command = [sys.executable, "-I", "-S", str(_PUMP), "json" if is_json() else "text", run_name()]
        pump = subprocess.Popen(command, stdin=reading, stdout=terminal, stderr=terminal)
    except OSError:  # no room for a process: the command is worth more than clean lines
        for descriptor in (terminal, reading, writing):
            os.close(descriptor)
        yield
        return
    os.close(reading)
    os.dup2(writing, 2)  # inherited, as descriptor 2 is
    os.close(writing)
    before = sys.stderr
    if not is_json():  # bars need a terminal; JSON lines keep their order with others
        sys.stderr = _text_of(terminal)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        sys.stderr = before
        os.dup2(terminal, 2)
        with suppress(subprocess.TimeoutExpired):  # a process that was started here may still write
            pump.wait(_END_S)
        os.close(terminal)


def _text_of(descriptor: int) -> io.TextIOWrapper:
    """A text file like `sys.stderr`, on another descriptor."""
    raw = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - lives as long as the block
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
