"""Neighbour graph of a pool: each row's nearest rows by cosine (Info-Coevolution, arXiv 2506.08070; DESIGN 5.4).

Features do not change inside a gate round, so the graph is built once and every later step is array work on it.
No similarity threshold is applied here: whoever reads the graph applies its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.core.cells import torch_threads
from coevo_ray.core.graph_plan import Method, device_of, make_plan, measured_recall
from coevo_ray.core.graph_search import blocks
from coevo_ray.core.unit_rows import Float32Array, UnitRows, unit_rows
from coevo_ray.errors import InputError, UsageError

__all__ = [
    "Float32Array",
    "Int32Array",
    "Method",
    "NeighbourGraph",
    "build_graph",
    "measured_recall",
    "torch_threads",
    "unit_rows",
]

Int32Array = npt.NDArray[np.int32]


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
    def similarities(self) -> npt.NDArray[np.floating[Any]]:
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
    similarities: npt.NDArray[np.floating[Any]]
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

    def arrays(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """For saving without pickle: JSON-able fields, and the arrays by name."""
        fields = {"method": self.method, "recall": self.recall, "parameters": self.parameters}
        return fields, {"indices": self.indices, "similarities": self.similarities}

    @classmethod
    def from_arrays(cls, fields: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> NeighbourGraph:
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


def build_graph(
    features: npt.NDArray[np.floating[Any]],
    k: int = 16,
    method: Method = "auto",
    *,
    seed: int = 0,
    recall_sample: int = 1000,
    threads: int | None = None,
    centre: bool = False,
    device: str | None = None,
) -> NeighbourGraph:
    """Builds the neighbour graph by cosine similarity.

    `exact` compares all pairs. `ivf` groups the rows into cells and compares each row with those of its nearest cells,
    as many as a sample needs for a recall of 0.98; `parameters["goal_reached"]` says whether that was reached. Both
    give the same graph for any number of threads, bit for bit. `hnsw` (faiss) searches a navigable small-world index
    with as much effort; it gives the same graph each time with one thread only, and rows with many copies hide others
    from it. `auto` compares all pairs up to about
    34 000 rows of 256 dimensions (two million on a GPU; the limit falls with rows^2 x dimensions), and takes `ivf`
    beyond.

    Memory: features of float16 are used as they are, with one sorted copy for `ivf`; of others there is a copy as
    float32, and a second one while `ivf` sorts them. Beside those, the graph and some 100 MiB for each thread.

    Args:
        features: float[N, d], of any length (rows are normalised here); not changed.
        k: neighbours of a row.
        method: see above.
        seed: seed of the cells and the recall sample.
        recall_sample: rows of the recall sample, half of them to choose the effort and half to measure; 0 measures
            nothing.
        threads: CPU threads; None takes as many as torch does.
        centre: compare features less their mean.
        device: `cpu` or `cuda`; None takes a GPU where there is one. Not for `hnsw`.

    Raises:
        InputError: fewer than two rows, rows that are zero or not finite.
        UsageError: an unknown method, or k or threads below 1.
    """
    if method not in ("auto", "exact", "hnsw", "ivf"):
        raise UsageError(f"graph method {method!r}", "use auto, exact, hnsw or ivf")
    if k < 1 or recall_sample < 0 or (threads is not None and threads < 1):
        raise UsageError(
            f"k = {k}, recall_sample = {recall_sample}, threads = {threads}", "k and threads are 1 or more"
        )
    threads = threads or torch.get_num_threads()
    rows = UnitRows.of(features, centre=centre)
    if method == "hnsw":
        from coevo_ray.core.graph_hnsw import hnsw_graph  # here, so that other graphs do not load faiss

        return hnsw_graph(rows, k, seed=seed, recall_sample=recall_sample, threads=threads)
    where = device_of(device)
    plan = make_plan(rows, k, method, seed=seed, recall_sample=recall_sample, threads=threads, device=where)
    rows = plan.sort(rows)
    indices = np.empty((len(rows), k), dtype=np.int32)
    similarities = np.empty((len(rows), k), dtype=np.float32)
    for own, index, similarity in plan.search(rows, blocks(len(rows)), threads, where):
        indices[own], similarities[own] = index, similarity
    return NeighbourGraph(indices, similarities, plan.method, plan.recall, plan.parameters)
