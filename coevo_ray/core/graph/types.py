"""What a neighbour graph is: the protocol of its readers, and the finished graph of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from coevo_ray.core.arrays import AnyArray, Arrays, FloatArray, Int32Array
from coevo_ray.errors import InputError


class Neighbours(Protocol):
    """What readers of a graph look at: a `NeighbourGraph`, or a `GrowingIndex`, whose arrays change with `append`."""

    @property
    def rows(self) -> int:
        """Number of rows N."""

    @property
    def k(self) -> int:
        """Neighbours kept for a row."""

    @property
    def indices(self) -> Int32Array:
        """int32[N, k]."""

    @property
    def similarities(self) -> FloatArray:
        """float[N, k]."""


@dataclass(frozen=True, eq=False)
class NeighbourGraph:
    """The nearest rows of each row.

    Attributes:
        indices: int32[N, k], by decreasing similarity, ties by increasing row; the row itself is left out; -1 where
            there are fewer than k.
        similarities: float32[N, k] (float16 is read too), cosine in [-1, 1]; -1 where there is no neighbour.
        method: `exact`, `ivf` or `hnsw`.
        recall: share of the true neighbours that were found, on a sample; 1 for exact, None if it was not measured.
        parameters: how it was built, JSON-able.

    Raises:
        InputError: the arrays do not fit together.
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
        """Neighbours kept for a row."""
        return int(self.indices.shape[1])

    def arrays(self) -> tuple[dict[str, Any], Arrays]:
        """For saving without pickle: JSON-able fields, and the arrays by name."""
        fields = {"method": self.method, "recall": self.recall, "parameters": self.parameters}
        return fields, {"indices": self.indices, "similarities": self.similarities}

    @classmethod
    def from_arrays(cls, fields: Mapping[str, Any], arrays: Mapping[str, AnyArray]) -> NeighbourGraph:
        """The reverse of `arrays`.

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
