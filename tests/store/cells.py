"""A store in memory, and clocks that stand until somebody moves them."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, nullcontext

from coevo_ray.store.lease_cells import Seen


class MemoryCell:
    """The obvious cell: one process, one value, a number for each version."""

    def __init__(self) -> None:
        self.there: Seen | None = None
        self._versions = itertools.count()

    def read(self) -> Seen | None:
        return self.there

    def create(self, content: bytes) -> Seen | None:
        return None if self.there is not None else self._write(content)

    def replace(self, content: bytes, seen: Seen) -> Seen | None:
        return self._write(content) if self.there == seen else None

    def remove(self, seen: Seen) -> bool:
        if self.there != seen:
            return False
        self.there = None
        return True

    def kept(self, seen: Seen) -> AbstractContextManager[bool]:
        return nullcontext(True)

    def _write(self, content: bytes) -> Seen:
        self.there = Seen(content, str(next(self._versions)))
        return self.there


class Clock:
    """A monotonic clock of one machine; sleeping moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
