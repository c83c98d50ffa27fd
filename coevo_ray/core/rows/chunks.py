"""Work on long arrays in chunks and threads, so that temporaries stay small; results come in the chunks' order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Rows of a chunk; a multiple of 8, so that chunks end between the bytes of packed bits. 2^18 values of 8 bytes are
# 2 MB: what one step of a computation leaves, the next one finds in the processor's cache.
CHUNK_ROWS = 1 << 18
_MOST_THREADS = 8


class Chunk(NamedTuple):
    """Rows `start` to `stop` - 1."""

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """The chunk as an index."""
        return slice(self.start, self.stop)


def map_chunks(rows: int, work: Callable[[Chunk], Result]) -> Iterator[Result]:
    """Results of `work` on all chunks of `rows` rows, in order.

    Chunks run in threads: NumPy works outside the interpreter's lock.
    """
    yield from map_ahead(work, [Chunk(start, min(rows, start + CHUNK_ROWS)) for start in range(0, rows, CHUNK_ROWS)])


def map_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results of `work` on items, in order, made in threads, only a few ahead of the caller and of the items."""
    workers = threads()
    if workers <= 1 or (isinstance(items, list) and len(items) <= 1):
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="coevo-chunks") as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def each_chunk(rows: int, work: Callable[[Chunk], None]) -> None:
    """Does `work` on all chunks; they must not touch one another's rows."""
    for _ in map_chunks(rows, work):
        pass


def threads() -> int:
    """Threads that work on chunks: the cores of this process, at most 8. No result depends on it."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(_MOST_THREADS, cores)
