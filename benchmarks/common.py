"""What all benchmarks share: arguments, facts about the machine, timing, child processes and the result's form."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
_STAT = Path("/proc/stat")
_QUIET = 0.15
_PACKAGES = ("coevo-ray", "ray", "torch", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True)
class Child:
    """What a child process gave back.

    Attributes:
        result: what its function returned.
        seconds: wall-clock time from the start of the process to its end.
        peak_bytes: its largest resident memory, interpreter and libraries included.
        busy_before: share of the machine's cores that other work kept busy just before it started.
    """

    result: Any
    seconds: float
    peak_bytes: int
    busy_before: float


def parser(description: str, rows: int, quick_rows: int) -> argparse.ArgumentParser:
    """Arguments that every benchmark takes; `rows_of` reads the last of them."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object on the last line of stdout")
    made.add_argument("--quick", action="store_true", help="a small run that shows the form, not the figures to quote")
    made.add_argument("--rows", type=positive, help=f"rows; otherwise {rows:,}, with --quick {quick_rows:,}")
    made.set_defaults(full_rows=rows, quick_rows=quick_rows)
    return made


def rows_of(arguments: argparse.Namespace) -> int:
    """Rows that were asked for."""
    return int(arguments.rows or (arguments.quick_rows if arguments.quick else arguments.full_rows))


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them, for argparse."""
    return tuple(text.split(","))


def fill_in(arguments: argparse.Namespace, standard: dict[str, Any]) -> argparse.Namespace:
    """Sets the arguments that were not given."""
    for name, value in standard.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def note(text: str) -> None:
    """Writes a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """A function's result and the wall-clock seconds that it took."""
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def middle(values: Sequence[float]) -> float:
    """The median, rounded for print."""
    return round(statistics.median(values), 4)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Smallest, median and largest of repeated measurements."""
    return {"min": round(min(values), 4), "median": middle(values), "max": round(max(values), 4)}


def in_child(function: Callable[..., Any], *arguments: Any) -> Child:
    """Calls a module-level function in a fresh process, so that memory and threads are its own."""
    context = multiprocessing.get_context("spawn")

    def call() -> tuple[Any, int]:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_with_peak, function, arguments).result()

    busy = _busy_share()
    if busy > _QUIET:
        note(f"warning: other work keeps {busy:.0%} of the cores busy, so the figures will be off")
    (result, peak), seconds = timed(call)
    return Child(result, seconds, peak, busy)


def _with_peak(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, int]:
    result = function(*arguments)
    return result, peak_bytes()


def _busy_share() -> float:
    """Share of the time of all cores that was not idle in the next half second; 0 where Linux does not say."""

    def busy_and_all() -> tuple[int, int]:
        ticks = [int(field) for field in _STAT.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
        return sum(ticks) - sum(ticks[3:5]), sum(ticks)  # the fourth and fifth are idle and waiting for disks

    if not _STAT.is_file():
        return 0.0
    before = busy_and_all()
    time.sleep(0.5)
    after = busy_and_all()
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def busiest(children: Iterable[Child]) -> float:
    """The largest `busy_before`, for the result."""
    return round(max(child.busy_before for child in children), 3)


def peak_bytes() -> int:
    """Largest resident memory of this process so far; unlike getrusage's it does not begin with the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def facts() -> dict[str, Any]:
    """`hardware` and `versions`, for the result."""
    import torch  # here, so that a benchmark's parent process stays small while children run

    return {
        "hardware": {
            "cpu": _cpu_model(),
            "cores": cores(),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def finish(name: str, result: dict[str, Any], as_json: bool) -> None:
    """Prints a result with the facts: one line of JSON, or indented for people."""
    print(json.dumps({"benchmark": name, **result, **facts()}, indent=None if as_json else 2, allow_nan=False))
