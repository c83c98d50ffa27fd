"""Chunked, threaded work on long arrays: temporaries stay small, results come in the order of the chunks."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Rows of a chunk. A multiple of 8, so that chunks end between bytes of packed bits, and small enough (2 MB of 8-byte
# values) for one step of a computation to find the result of the previous one in the processor's cache.
CHUNK_ROWS = 1 << 18
_MOST_THREADS = 8
_WORKED_ON = 1 << 22  # cells that a thread works on at a time


class Chunk(NamedTuple):
    """Rows `start` to `stop` - 1."""

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """The chunk as an index of an array[N, ...]."""
        return slice(self.start, self.stop)


def map_chunks(rows: int, work: Callable[[Chunk], Result]) -> Iterator[Result]:
    """Yields the results of `work` on all chunks of `rows` rows, in order.

    Chunks run in threads: NumPy releases the interpreter's lock.

    Args:
        rows: N, number of rows to cut into chunks of `CHUNK_ROWS`.
        work: called once for each chunk, in any thread.
    """
    yield from map_ahead(work, [Chunk(start, min(rows, start + CHUNK_ROWS)) for start in range(0, rows, CHUNK_ROWS)])


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, most: int | None = None
) -> Iterator[Result]:
    """Yields the results of `work` on items, in order, computed in threads.

    Threads run ahead of the caller by a few items only, so neither items nor results pile up.

    Args:
        work: called once for each item, in any thread.
        items: inputs; an iterator is read as threads become free.
        workers: threads; None for those of chunks.
        most: items that are computed or wait for the caller; None for two for each thread and one.
    """
    workers = threads() if workers is None else workers
    most = 2 * workers + 1 if most is None else most
    if workers <= 1 or (isinstance(items, list) and len(items) <= 1):
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="coevo-ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:  # the caller stopped, or an item failed
                left.cancel()


def each_chunk(rows: int, work: Callable[[Chunk], None]) -> None:
    """Runs `work` on all chunks of `rows` rows in threads; each call may write to its own rows only."""
    for _ in map_chunks(rows, work):
        pass


def each_part(rows: int, cells: int, work: Callable[[slice], None]) -> None:
    """Runs `work` on all of N rows in parts, in threads; each call may write to its own rows only.

    Args:
        rows: N.
        cells: numbers that the work on a row takes.
        work: rows -> nothing.
    """
    step = max(1, _WORKED_ON // cells)
    for _ in map_ahead(work, [slice(start, min(start + step, rows)) for start in range(0, rows, step)]):
        pass


def threads() -> int:
    """Returns the number of threads for chunks: this process's cores, at most 8. No result depends on it."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(_MOST_THREADS, cores)
