"""Ends work that stops moving: a prior that hangs, a node that died, a store that does not answer."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.progress import say
from coevo_ray.runtime.at_work import forget_work, longest_at_work
from coevo_ray.runtime.resources import free_cpus

Item = TypeVar("Item")
STALL = "COEVO_RAY_STALL_SECONDS"  # environment variable: seconds without progress after which work is ended; 0: never
_STALL_S = 3600.0
_SAY_AFTER, _SAY_AFTER_S = 0.25, 120.0  # of that, and at most: it is said once


class Patience:
    """Counts the time since anything moved.

    Args:
        title: of the stage, for messages.

    Raises:
        UsageError: `COEVO_RAY_STALL_SECONDS` is no number from 0 on.
    """

    def __init__(self, title: str) -> None:
        self.title, self.limit = title, stall_seconds()
        self._moved, self._said = time.monotonic(), False

    def moved(self) -> None:
        """Notes that something did."""
        self._moved, self._said = time.monotonic(), False

    def wait_s(self) -> float | None:
        """Seconds to wait for something before calling `check`; None for as long as it takes."""
        if math.isinf(self.limit):
            return None
        goal = self.limit if self._said else self._say_after()
        return max(0.01, self._moved + goal - time.monotonic())

    def check(self) -> None:
        """Says that nothing has moved for a while; later ends the work.

        Raises:
            StoppedError: no progress for `COEVO_RAY_STALL_SECONDS`.
        """
        still = time.monotonic() - self._moved
        if still >= self.limit:
            at_work = _at_work()
            forget_work()
            raise StoppedError(
                f"{self.title}: no progress for {still:.0f} s; {at_work}",
                "check that process and `ray status`, then run the same command again: finished parts are kept. "
                f"If single parts take longer: {STALL}=SECONDS, or 0 for no limit",
            )
        if not self._said and still >= self._say_after():
            self._said = True
            say(f"{self.title}: no progress for {still:.0f} s; {_at_work()}; ends at {self.limit:g} s")

    def _say_after(self) -> float:
        return min(self.limit * _SAY_AFTER, _SAY_AFTER_S)


def stall_seconds() -> float:
    """Seconds without progress after which work is ended; infinite for never.

    Raises:
        UsageError: the environment variable is no number from 0 on.
    """
    text = os.environ.get(STALL, "").strip()
    try:
        seconds = float(text or _STALL_S)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise UsageError(f"{STALL} is {text!r}", "give seconds without progress, or 0 for no limit")
    return seconds or math.inf


def watched(
    title: str, rows: Callable[[], Iterable[Item]], end: Callable[[], None], patience: Patience | None = None
) -> Iterator[Item]:
    """Yields what an iterator gives, which may hang: a thread takes it, and this one stops waiting after the limit.

    Args:
        title: of the stage.
        rows: makes the iterator, in that thread.
        end: called where it is given up.
        patience: counts the time without progress; None for one that knows of the iterator's items alone.

    Raises:
        StoppedError: nothing came for too long.
        BaseException: what the iterator raises.
    """
    pump, patience = _Pump(title, rows), patience or Patience(title)
    try:
        while True:
            try:
                kind, value = pump.taken.get(timeout=patience.wait_s())
            except queue.Empty:
                patience.check()
                continue
            if kind == "end":
                return
            if kind == "error":
                raise value
            patience.moved()
            yield value
            patience.moved()  # the caller's time is not the iterator's
    finally:
        pump.given_up.set()
        if pump.is_alive():
            end()


class _Pump(threading.Thread):
    """Takes an iterator's items, one ahead of who waits for them.

    Attributes:
        taken: ("row", item), and last ("end", None) or ("error", what it raised).
        given_up: set where nobody waits any more.
    """

    def __init__(self, title: str, rows: Callable[[], Iterable[Any]]) -> None:
        super().__init__(name=f"coevo-{title}", daemon=True)
        self.taken: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1)
        self.given_up, self._rows = threading.Event(), rows
        self.start()

    def run(self) -> None:
        """Takes items until there are no more or nobody waits."""
        try:
            for row in self._rows():
                if not self._put("row", row):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._put("error", error)
        else:
            self._put("end", None)

    def _put(self, kind: str, value: Any) -> bool:
        while not self.given_up.is_set():
            try:
                self.taken.put((kind, value), timeout=0.2)
            except queue.Full:
                continue
            return True
        return False


def _at_work() -> str:
    """The work in progress, or if none is known, the free resources of the cluster."""
    found = longest_at_work()
    return f"at work: {'; '.join(found)}" if found else f"nothing of it is at work: {free_cpus()}"
