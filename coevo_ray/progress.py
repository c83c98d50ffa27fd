"""Progress on stderr: a bar on a terminal, occasional lines in a log. stdout is left to `--json`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LOG_EVERY_S = 10.0
_STILL_THERE_EVERY_S = 60.0


def say(text: str) -> None:
    """Writes a line to stderr."""
    # A new console each time: stderr may have been replaced since (tests, notebooks).
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(text, markup=False)


class Ticker:
    """Counts and shows the finished units of a long task.

    Args:
        title: name of the task.
        total: number of units; None if unknown.
        unit: name of a unit in log lines.
    """

    def __init__(self, title: str, total: int | None, unit: str = "rows") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._started = self._last = time.monotonic()
        console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(
                *columns, TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(), console=console
            )
            self._task = self._bar.add_task(title, total=total, note="")

    def __enter__(self) -> Ticker:
        if self._bar:
            self._bar.start()
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Adds `count` finished units; `note` is shown behind the count."""
        self.done += count
        if self._bar:
            self._bar.update(self._task, advance=count, note=note)
        elif time.monotonic() - self._last >= (_LOG_EVERY_S if count else _STILL_THERE_EVERY_S):
            self._last = time.monotonic()
            of = f" of {self.total:,}" if self.total is not None else ""
            say(f"{self.title}: {self.done:,}{of} {self.unit} {note}".rstrip())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        if self._bar:
            self._bar.stop()
        elif kind is None:
            say(f"{self.title}: {self.done:,} {self.unit} in {seconds:.1f} s")


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Reports the duration of a stage without countable units."""
    started = time.monotonic()
    yield
    say(f"{title}: {time.monotonic() - started:.1f} s")
