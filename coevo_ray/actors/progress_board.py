"""Progress of Ray Train workers, seen from the driver: workers note it, a thread of the driver shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from coevo_ray.progress import Ticker

_BEAT_S = 5.0


@ray.remote(num_cpus=0)
class ProgressBoard:
    """Holds the latest count of finished units."""

    def __init__(self) -> None:
        self.done, self.text, self.beats = 0, "", 0

    def beat(self, text: str = "") -> None:
        """Notes that work moves, though no unit is finished; a text says how far the open one is."""
        self.text = text or self.text
        self.beats += 1

    def note(self, done: int, text: str = "") -> None:
        """Sets the number of finished units and a short text."""
        self.done, self.text = max(done, self.done), text
        self.beats += 1

    def read(self) -> tuple[int, str, int]:
        """The latest count and text, and a number that grows while work moves."""
        return self.done, self.text, self.beats


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

    def beats(self) -> Callable[[str], None]:
        """A function to call with every step and a text: every few seconds it notes that work moves, and how far."""
        last = [time.monotonic()]

        def beat(text: str = "") -> None:
            if time.monotonic() - last[0] > _BEAT_S:
                last[0] = time.monotonic()
                self.actor.beat.remote(text)

        return beat


@contextmanager
def progress_board(title: str, total: int, unit: str, moved: Callable[[], None] | None = None) -> Iterator[BoardHandle]:
    """Yields a board's handle for workers; shows it until the block ends.

    Args:
        title, total, unit: see `Ticker`.
        moved: called, in a thread of its own, whenever workers noted something.
    """
    board = ProgressBoard.remote()  # type: ignore[attr-defined]  # ray.remote adds it at run time
    stop = threading.Event()
    with Ticker(title, total, unit) as ticker:
        watcher = threading.Thread(target=_watch, args=(board, ticker, stop, moved), daemon=True)
        watcher.start()
        try:
            yield BoardHandle(board)
        finally:
            stop.set()
            watcher.join(timeout=5)
            ray.kill(board)


def _watch(board: Any, ticker: Ticker, stop: threading.Event, moved: Callable[[], None] | None) -> None:
    last, beats = False, 0
    while not last:
        last = stop.wait(0.5)
        try:
            done, text, now = ray.get(board.read.remote(), timeout=2)
        except GetTimeoutError:
            continue  # a busy machine; the next look will do
        except RayError:  # the board is gone and nobody knows: the work goes on, and counts as moving
            if moved is not None:
                moved()
            continue
        ticker.advance(done - ticker.done, text)
        if now != beats:
            ticker.moved()
            if moved is not None:
                moved()
        beats = now
