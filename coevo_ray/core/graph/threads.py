"""CPU threads of torch while a graph is built: set for a block, then restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """Yields the results of `work` on items, in order, computed in threads.

    Torch runs single-threaded within each, so that no sum float32[...] depends on the number of threads.
    """
    with torch_threads(1):
        if threads <= 1 or len(items) <= 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(threads, "coevo-graph", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, items)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Sets torch's number of CPU threads for a block, then restores it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
