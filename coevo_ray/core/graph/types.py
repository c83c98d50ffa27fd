"""Neighbour graphs: the protocol of their readers, and the finished graph of a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from coevo_ray.core.arrays import AnyArray, Arrays, FloatArray, Int32Array, IntArray
from coevo_ray.errors import InputError


class Near(NamedTuple):
    """Neighbours of n rows.

    Attributes:
        indices: int32[n, k], padded with -1.
        similarities: float[n, k], padded with -1.
    """

    indices: Int32Array
    similarities: FloatArray


@dataclass(frozen=True, eq=False)
class GraphPart:
    """Neighbours of some rows of a graph.

    Attributes:
        total: N, rows of the whole graph.
        rows: int32[n], the rows of the part, increasing; or slice(0, N), all of them.
        indices: int32[n, k], as in `NeighbourGraph`.
        similarities: float[n, k].
    """

    total: int
    rows: Int32Array | slice
    indices: Int32Array
    similarities: FloatArray

    def __len__(self) -> int:
        """Number of rows n."""
        return len(self.indices)

    def near(self, places: IntArray | slice, width: int | None = None) -> Near:
        """Neighbours of m of the part's rows, the nearest `width` of each; None takes all."""
        return Near(self.indices[places, :width], self.similarities[places, :width])

    def own(self, values: AnyArray, places: slice) -> AnyArray:
        """Values [N, ...] of m of the part's rows: [m, ...]."""
        return values[places] if isinstance(self.rows, slice) else values[self.rows[places]]

    def names(self, places: slice) -> IntArray:
        """The rows at m places, int[m]."""
        if isinstance(self.rows, slice):
            return np.arange(*places.indices(self.total), dtype=np.int32)
        return self.rows[places]


def whole_part(indices: Int32Array, similarities: FloatArray) -> GraphPart:
    """All rows of a graph, int32[N, k] and float[N, k], as one part."""
    return GraphPart(len(indices), slice(0, len(indices)), indices, similarities)


# Works on a part: what it returns is of its rows, in their order. One that is sent to other processes pickles.
PartWork = Callable[..., Any]


class Neighbours(Protocol):
    """Read access to a graph, which may lie in parts, in other processes.

    A `NeighbourGraph` has one part, as has a `GrowingIndex`, whose arrays change with `append`.
    """

    @property
    def rows(self) -> int:
        """Number of rows N."""

    @property
    def k(self) -> int:
        """Number of neighbours per row k."""

    @property
    def parts(self) -> int:
        """Number of parts that it lies in."""

    def near(self, rows: IntArray, width: int | None = None) -> Near:
        """Neighbours of n rows int[n], the nearest `width` of each; None takes all."""

    def map_parts(self, work: PartWork, *shared: Any) -> Iterator[tuple[Int32Array | slice, Any]]:
        """Runs a function on each part.

        Args:
            work: (part, *shared) -> result; of a module, so that it pickles.
            shared: arrays of all rows and settings, alike for all parts.

        Yields:
            The rows of each part, and the result for it; in no certain order of the parts.
        """


def over_rows(graph: Neighbours, work: PartWork, *shared: Any) -> tuple[AnyArray, ...]:
    """Arrays of all rows, computed part by part.

    Args:
        graph: neighbours of N rows.
        work: (part, *shared) -> arrays [n, ...] of the part's rows.
        shared: see `Neighbours.map_parts`.

    Returns:
        Arrays [N, ...], by row.
    """
    joined: tuple[AnyArray, ...] = ()
    for rows, found in graph.map_parts(work, *shared):
        if isinstance(rows, slice):  # all of them
            return tuple(found)
        joined = joined or tuple(np.empty((graph.rows, *each.shape[1:]), each.dtype) for each in found)
        for whole, each in zip(joined, found, strict=True):
            whole[rows] = each
    return joined


@dataclass(frozen=True, eq=False)
class NeighbourGraph:
    """The nearest rows of each row.

    Attributes:
        indices: int32[N, k], by decreasing similarity, ties by increasing row, without the row itself; padded with -1.
        similarities: float32[N, k] (or float16[N, k]), cosine in [-1, 1]; padded with -1.
        method: name of the method that built it: `exact` or `ivf`; of a grown graph also `hnsw`.
        recall: share of true neighbours found, on a sample; 1 for `exact`, None if not measured.
        parameters: settings of its construction, JSON values.

    Raises:
        InputError: shapes or dtypes do not fit, or an index is outside -1..N-1.
    """

    indices: Int32Array
    similarities: FloatArray
    method: str
    recall: float | None
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes, kinds = (self.indices.shape, self.similarities.shape), (self.indices.dtype, self.similarities.dtype)
        if self.indices.ndim != 2 or shapes[0] != shapes[1] or kinds[0] != np.int32 or kinds[1].kind != "f":
            raise InputError(
                f"a graph of indices {kinds[0]}{list(shapes[0])} and similarities {kinds[1]}{list(shapes[1])}",
                "give int32[N, k] and float[N, k], as build_graph makes them",
            )
        if self.indices.size and not -1 <= self.indices.min() <= self.indices.max() < self.rows:
            raise InputError(f"a graph of {self.rows} rows names rows outside it", "build the graph again")

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return len(self.indices)

    @property
    def k(self) -> int:
        """Number of neighbours per row k."""
        return int(self.indices.shape[1])

    @property
    def parts(self) -> int:
        """1: it is in one piece."""
        return 1

    def near(self, rows: IntArray, width: int | None = None) -> Near:
        """Neighbours of n rows, see `Neighbours`."""
        return whole_part(self.indices, self.similarities).near(rows, width)

    def map_parts(self, work: PartWork, *shared: Any) -> Iterator[tuple[Int32Array | slice, Any]]:
        """Runs a function on all rows, see `Neighbours`."""
        part = whole_part(self.indices, self.similarities)
        yield part.rows, work(part, *shared)

    def arrays(self) -> tuple[dict[str, Any], Arrays]:
        """Returns JSON fields, and arrays by name: indices int32[N, k] and similarities float[N, k]."""
        fields = {"method": self.method, "recall": self.recall, "parameters": self.parameters}
        return fields, {"indices": self.indices, "similarities": self.similarities}

    @classmethod
    def from_arrays(cls, fields: Mapping[str, Any], arrays: Mapping[str, AnyArray]) -> NeighbourGraph:
        """Rebuilds a graph from fields and arrays of `arrays`: indices int32[N, k], similarities float[N, k].

        Raises:
            InputError: a part is missing or does not fit.
        """
        missing = {"method", "recall", "parameters"} - set(fields) | {"indices", "similarities"} - set(arrays)
        if missing:
            raise InputError(f"a saved graph without {sorted(missing)}", "build the graph again")
        recall = fields["recall"]
        return cls(
            arrays["indices"],
            arrays["similarities"],
            str(fields["method"]),
            None if recall is None else float(recall),
            dict(fields["parameters"]),
        )
