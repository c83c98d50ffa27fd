"""Many small files in order, several requests ahead: a store takes tens of milliseconds to answer each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from coevo_ray.store.location import Location

AT_ONCE = 16  # requests of one reader

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(read: Callable[[Item], Result], items: Iterable[Item], near: Location) -> Iterator[Result]:
    """Applies a function that reads a file, as `map` does, up to `AT_ONCE` items ahead where the store is remote.

    Args:
        read: called by several threads for a remote store.
        items: what it reads, taken as they are needed.
        near: the folder of the files; tells whether they are on a local disk, where they are read one by one.

    Yields:
        The results in the order of the items. An error of `read` is raised in its turn.
    """
    if near.is_local:
        yield from map(read, items)
        return
    threads = ThreadPoolExecutor(AT_ONCE, "coevo-read-ahead")
    asked = deque[Future[Result]]()
    try:
        for item in items:
            asked.append(threads.submit(read, item))
            if len(asked) == AT_ONCE:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
