"""Neighbour graphs: the protocol of their readers, and the finished graph of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from coevo_ray.core.arrays import AnyArray, Arrays, FloatArray, Int32Array
from coevo_ray.errors import InputError


class Neighbours(Protocol):
    """Read access to a graph: a `NeighbourGraph`, or a `GrowingIndex`, whose arrays change with `append`."""

    @property
    def rows(self) -> int:
        """Number of rows N."""

    @property
    def k(self) -> int:
        """Number of neighbours per row k."""

    @property
    def indices(self) -> Int32Array:
        """Neighbours of each row, int32[N, k], padded with -1."""

    @property
    def similarities(self) -> FloatArray:
        """Cosine similarities of the neighbours, float[N, k], padded with -1."""


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
