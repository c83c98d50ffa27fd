"""A neighbour graph in parts that lie elsewhere: in other processes, or in files that are read one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from coevo_ray.core.arrays import BoolArray, Int32Array, IntArray, UInt16Array
from coevo_ray.core.graph.types import GraphPart, Near, PartWork
from coevo_ray.errors import InputError


class PartHolders(Protocol):
    """Holds the parts of a graph, numbered from 0."""

    def each(self, work: PartWork, shared: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Runs a function on all parts; yields numbers and results, see `Neighbours.map_parts`."""

    def some(self, work: PartWork, given: Mapping[int, Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Runs a function on some parts, each with arguments of its own; yields numbers and results."""


class PartedGraph:
    """Reads a graph in parts, as `Neighbours`.

    It keeps 6 bytes for each row: which part it is in, and the rows of each part.

    Args:
        shape: N and k.
        holders: of the parts, whose rows are together 0 to N - 1, each once; not more than 65 536.

    Raises:
        InputError: rows are in two parts or in none.
    """

    def __init__(self, shape: tuple[int, int], holders: PartHolders) -> None:
        (total, self._k), self._holders = shape, holders
        self._rows: dict[int, Int32Array] = dict(holders.each(_rows_of, ()))
        self._owner: UInt16Array = np.zeros(total, dtype=np.uint16)
        there: BoolArray = np.zeros(total, dtype=np.bool_)
        for number, rows in self._rows.items():
            self._owner[rows], there[rows] = number, True
        have = sum(map(len, self._rows.values()))
        if have != total or not there.all():
            raise InputError(
                f"a graph whose parts have {int(there.sum())} of {total} rows, with repeats {have}",
                "delete the graph and build it again",
            )

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return len(self._owner)

    @property
    def k(self) -> int:
        """Number of neighbours per row k."""
        return self._k

    @property
    def parts(self) -> int:
        """Number of parts."""
        return len(self._rows)

    def near(self, rows: IntArray, width: int | None = None) -> Near:
        """Neighbours of n rows, see `Neighbours`."""
        width = self._k if width is None else min(width, self._k)
        asked = _by_owner(self._owner[rows])
        given = {
            number: (np.searchsorted(self._rows[number], rows[places]).astype(np.int32), width)
            for number, places in asked.items()
        }
        near = Near(np.empty((len(rows), width), np.int32), np.empty((len(rows), width), np.float32))
        for number, found in self._holders.some(_near, given):
            near.indices[asked[number]], near.similarities[asked[number]] = found
        return near

    def map_parts(self, work: PartWork, *shared: Any) -> Iterator[tuple[Int32Array, Any]]:
        """Runs a function on each part, see `Neighbours`."""
        for number, result in self._holders.each(work, shared):
            yield self._rows[number], result


def _by_owner(owner: UInt16Array) -> dict[int, IntArray]:
    """Places of each owner, by its number."""
    order = np.argsort(owner, kind="stable")
    numbers, first = np.unique(owner[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, first[1:]), strict=True)) if len(order) else {}


def _rows_of(part: GraphPart) -> Int32Array:
    return part.names(slice(0, len(part))).astype(np.int32)


def _near(part: GraphPart, places: Int32Array, width: int) -> Near:
    return part.near(places, width)
