"""Progress of Ray Train workers, seen from the driver: workers note it, a thread of the driver shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from coevo_ray.progress import Ticker


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Holds the latest count of finished units."""

    def __init__(self) -> None:
        self.done, self.text = 0, ""

    def note(self, done: int, text: str = "") -> None:
        """Sets the number of finished units and a short text."""
        self.done, self.text = max(done, self.done), text

    def read(self) -> tuple[int, str]:
        """The latest count and text."""
        return self.done, self.text


@dataclass(frozen=True)
class BoardHandle:
    """Notes progress from any process; pickles, so that it can be passed to workers.

    Attributes:
        actor: handle of the `ProgressBoard`.
    """

    actor: Any  # Ray gives an actor's methods to its handle at run time

    def note(self, done: int, text: str = "") -> None:
        """Sets the number of finished units and a short text; does not wait for the board."""
        self.actor.note.remote(done, text)


@contextmanager
def progress_board(title: str, total: int, unit: str) -> Iterator[BoardHandle]:
    """Yields a board's handle for workers; shows it until the block ends."""
    board = ProgressBoard.remote()  # type: ignore[attr-defined]  # ray.remote adds it at run time
    stop = threading.Event()
    with Ticker(title, total, unit) as ticker:
        watcher = threading.Thread(target=_watch, args=(board, ticker, stop), daemon=True)
        watcher.start()
        try:
            yield BoardHandle(board)
        finally:
            stop.set()
            watcher.join(timeout=5)
            ray.kill(board)


def _watch(board: Any, ticker: Ticker, stop: threading.Event) -> None:
    last = False
    while not last:
        last = stop.wait(0.5)
        try:
            done, text = ray.get(board.read.remote(), timeout=2)
        except GetTimeoutError:
            continue  # a busy machine; the next look will do
        except RayError:
            return  # the board is only for show: the work goes on without it
        ticker.advance(done - ticker.done, text)
