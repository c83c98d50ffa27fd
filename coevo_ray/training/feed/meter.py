"""Measures how long a training waits for its feed, and how many rows it has trained on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol, TypeVar

from coevo_ray.telemetry import (
    FEED_WAIT,
    FEED_WAIT_SECONDS,
    PUBLISHED_EVERY_S,
    ROWS_DONE,
    ROWS_PER_SECOND,
    is_received,
    record,
)


class _Positioned(Protocol):
    @property
    def offset(self) -> int: ...


BatchT = TypeVar("BatchT", bound=_Positioned)


class FeedMeter:
    """Measures one worker's waits for batches, and publishes them once a second at most.

    Args:
        rank: of the worker; rank 0 counts the rows, which offsets count over all workers.
        counts_rows: whether offsets count rows.

    Attributes:
        waited: seconds of the epoch in which the worker waited.
        elapsed: seconds of the epoch.
    """

    def __init__(self, rank: int, counts_rows: bool = True) -> None:
        self._tags, self._counts_rows = {"rank": str(rank)}, counts_rows and rank == 0
        self.waited = self.elapsed = 0.0

    def timed(self, batches: Iterator[BatchT], start: int = 0) -> Iterator[BatchT]:
        """Yields an epoch's batches.

        Args:
            batches: the rest of an epoch.
            start: its offset.
        """
        begun = asked = published = time.monotonic()
        self.waited, told, rows, told_rows = 0.0, 0.0, start, start
        try:
            for batch in batches:
                now = time.monotonic()
                self.waited += now - asked
                yield batch
                asked, rows = time.monotonic(), batch.offset
                if asked - published >= PUBLISHED_EVERY_S:
                    published, self.elapsed = asked, asked - begun
                    self._publish(self.waited - told, rows - told_rows, rows - start)
                    told, told_rows = self.waited, rows
            self.waited += time.monotonic() - asked
        finally:
            self.elapsed = time.monotonic() - begun
            self._publish(self.waited - told, rows - told_rows, rows - start)

    def _publish(self, waited: float, rows: int, in_all: int) -> None:
        if not is_received() or not self.elapsed:
            return
        record(FEED_WAIT_SECONDS, waited, **self._tags)
        record(FEED_WAIT, self.waited / self.elapsed, **self._tags)
        if self._counts_rows:
            record(ROWS_DONE, rows)
            record(ROWS_PER_SECOND, in_all / self.elapsed)
