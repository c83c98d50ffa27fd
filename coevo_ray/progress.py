"""Progress on stderr: a bar on a terminal, occasional lines in a log. stdout is left to `--json`."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console, OverflowMethod
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from coevo_ray.logs import is_json, say
from coevo_ray.telemetry import StageFigures, named_stage

__all__ = ["Ticker", "say", "stage", "waiting"]

_LOG_EVERY_S = 10.0
_STILL_THERE_EVERY_S = 60.0
_FIRST_WORD_S = 5.0
_TITLE_WIDTH = 28  # of short ones, so that bars stand below one another
_SHOWN: list[Ticker] = []  # bars on the terminal, the innermost last


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
        self._first: _FirstWord | None = None
        self._figures = StageFigures(title, total, unit)
        self._named: AbstractContextManager[None] = named_stage(title)
        console = Console(file=sys.stderr)
        self._bar = _bar(console) if console.is_terminal and not is_json() else None
        if self._bar:
            self._task = self._bar.add_task(title, total=total, unit=unit, note="starting")

    def __enter__(self) -> Ticker:
        self._named.__enter__()
        self._figures.begin()
        if self._bar:
            _SHOWN.append(self)
            self._bar.start()
        elif is_json():
            say("begins", total=self.total, unit=self.unit)
        else:
            self._first = _FirstWord(f"{self.title}: started")
        return self

    def advance(self, count: int = 1, note: str = "", rejected: int = 0) -> None:
        """Adds `count` finished units, of which so many were `rejected`; `note` is shown behind the count."""
        self.done += count
        if count:
            self._figures.advance(count, rejected)
        if self._bar:
            self._bar.update(self._task, advance=count)
            if count or note:
                self._bar.update(self._task, note=note)
        else:
            self._log(count, note)

    @contextmanager
    def noting(self, note: str) -> Iterator[None]:
        """Shows a note within the block."""
        if self._bar is None:
            yield
            return
        before = self._bar.tasks[0].fields["note"]
        self._bar.update(self._task, note=note)
        try:
            yield
        finally:
            self._bar.update(self._task, note=before)

    def moved(self) -> None:
        """Notes that the work moves, though no unit is finished."""
        self._figures.moved()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.monotonic() - self._started
        self._figures.end()
        if self._bar:
            self._bar.stop()
            _SHOWN.remove(self)
        elif kind is None:
            self._say(f"{self.done:,} {self.unit} in {seconds:.1f} s", seconds=round(seconds, 3))
        if self._first is not None:
            self._first.cancel()
        self._named.__exit__(kind, error, trace)

    def _log(self, count: int, note: str) -> None:
        """Says now and then how far it is."""
        if time.monotonic() - self._last < (_LOG_EVERY_S if count else _STILL_THERE_EVERY_S):
            return
        self._last = time.monotonic()
        of = f" of {self.total:,}" if self.total is not None else ""
        self._say(f"{self.done:,}{of} {self.unit} {note}".rstrip())

    def _say(self, text: str, **counters: Any) -> None:
        if self._first is not None:
            self._first.cancel()
        if is_json():
            say(text, done=self.done, total=self.total, unit=self.unit, **counters)
        else:
            say(f"{self.title}: {text}")


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Reports the duration of a stage without countable units."""
    started = time.monotonic()
    yield
    say(f"{title}: {time.monotonic() - started:.1f} s")


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Shows that something without countable units goes on: on a terminal at once, in a log after five seconds.

    Beside a bar it is the bar's note.
    """
    console = Console(file=sys.stderr)
    with named_stage(title):
        if _SHOWN:
            with _SHOWN[-1].noting(title):
                yield
            return
        if is_json() or not console.is_terminal:
            first = _FirstWord(f"{title} ...")
            try:
                yield
            finally:
                first.cancel()
            return
        text = TextColumn("{task.description}", table_column=Column(no_wrap=True))
        with Progress(SpinnerColumn(), text, TimeElapsedColumn(), console=console, transient=True) as shown:
            shown.add_task(title, total=None)
            yield


class _FirstWord(threading.Timer):
    """Says in a log what goes on, unless something else has been said of it meanwhile."""

    def __init__(self, text: str) -> None:
        super().__init__(_FIRST_WORD_S, contextvars.copy_context().run, (say, text))
        self.daemon = True
        self.start()


def _bar(console: Console) -> Progress:
    """A bar whose numbers stay whole in a narrow window: the others give way."""
    return Progress(
        _Cut("description", min(_TITLE_WIDTH, console.width // 4)),
        BarColumn(bar_width=None, table_column=Column(min_width=4, max_width=max(4, console.width // 5))),
        _Count(table_column=Column(no_wrap=True)),
        _Cut("note"),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        console=console,
    )


class _Cut(ProgressColumn):
    """A text of the task, on one line and `least` columns wide, cut where there is no room for it."""

    def __init__(self, name: str, least: int = 0) -> None:
        # Rich narrows columns that may wrap before all others; the text itself does not.
        super().__init__(table_column=Column())
        self._name, self._least = name, least

    def render(self, task: Task) -> Text:
        text = task.description if self._name == "description" else str(task.fields[self._name])
        # A title that is filled up with blanks may lose some of them unseen.
        overflow: OverflowMethod = "ellipsis" if len(text) > self._least else "crop"
        return Text(text.ljust(self._least), no_wrap=True, overflow=overflow)


class _Count(ProgressColumn):
    """`1,024/8,000 rows`; without a total `1,024 rows`."""

    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f"/{int(task.total):,}"
        return Text(f"{int(task.completed):,}{of} {task.fields['unit']}", style="progress.download")
