"""Many small files in order, several requests ahead: a store takes tens of milliseconds to answer each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from coevo_ray.core.rows.chunks import map_ahead
from coevo_ray.store.location import Location

AT_ONCE = 16  # requests of one reader

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], near: Location) -> Iterator[Result]:
    """Applies a function that reads a file, as `map` does, up to `AT_ONCE` items ahead if the store is remote.

    Args:
        read: called by several threads for a remote store.
        items: inputs of `read`, taken as they are needed.
        near: the folder of the files; on a local disk they are read one by one.

    Yields:
        The results in the order of the items. An error of `read` is raised in its turn.
    """
    yield from map(read, items) if near.is_local else map_ahead(read, items, workers=AT_ONCE, most=AT_ONCE)
