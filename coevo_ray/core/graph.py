"""Neighbour graph of a pool: each row's nearest rows by cosine (Info-Coevolution, arXiv 2506.08070; DESIGN 5.4).

Features do not change inside a gate round, so the graph is built once and every later step is array work on it.
No similarity threshold is applied here: whoever reads the graph applies its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.errors import InputError, UsageError

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
Method = Literal["auto", "exact", "hnsw"]

EXACT_ROWS = 100_000  # about a minute on two cores at 256 dimensions; the time grows with the square of the rows
RECALL_GOAL = 0.98
_BLOCK_VALUES = 1 << 24  # similarities held at a time: 64 MiB
_SAME = 1e-6  # similarities this near are ties: float32 dot products of unit vectors are no finer


@dataclass(frozen=True, eq=False)
class NeighbourGraph:
    """The nearest rows of each row.

    Attributes:
        indices: int32[N, k], by decreasing similarity, ties by increasing row; the row itself is left out; -1 where
            there are fewer than k.
        similarities: float32[N, k] (float16 is read too), cosine in [-1, 1]; -1 where there is no neighbour.
        method: `exact` or `hnsw`.
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
) -> NeighbourGraph:
    """Builds the neighbour graph by cosine similarity.

    `exact` compares all pairs and gives the same graph each time. `hnsw` (faiss) searches a navigable small-world
    index, measures its recall on a sample and raises its search effort until the sample's recall is 0.98 or the
    effort's end is reached; it gives the same graph each time with one thread only. `auto` takes `exact` up to
    100 000 rows.

    Args:
        features: float[N, d], of any length (rows are normalised here); not changed.
        k: neighbours of a row.
        method: see above.
        seed: seed of the recall sample.
        recall_sample: rows of the recall sample; 0 measures nothing.
        threads: CPU threads; None leaves the libraries' own setting.

    Raises:
        InputError: fewer than two rows, rows that are zero or not finite.
        UsageError: an unknown method, or k or threads below 1.
    """
    if method not in ("auto", "exact", "hnsw"):
        raise UsageError(f"graph method {method!r}", "use auto, exact or hnsw")
    if k < 1 or recall_sample < 0 or (threads is not None and threads < 1):
        raise UsageError(
            f"k = {k}, recall_sample = {recall_sample}, threads = {threads}", "k and threads are 1 or more"
        )
    unit = unit_rows(features)
    rows = len(unit)
    if rows < 2:
        raise InputError(f"a neighbour graph needs 2 rows or more, there are {rows}", "give more rows")
    if method == "hnsw" or (method == "auto" and rows > EXACT_ROWS):
        from coevo_ray.core.graph_hnsw import hnsw_graph  # here, so that exact graphs do not load faiss

        return hnsw_graph(unit, k, seed=seed, recall_sample=recall_sample, threads=threads)
    with torch_threads(threads):
        indices, similarities = exact_neighbours(unit, np.arange(rows), k)
    return NeighbourGraph(indices, similarities, "exact", 1.0, {"k": k, "dim": unit.shape[1]})


def unit_rows(features: npt.NDArray[np.floating[Any]]) -> Float32Array:
    """Rows of length 1, as float32[N, d].

    Raises:
        InputError: not two-dimensional, or rows that are zero or not finite; it names how many and the first.
    """
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise InputError(
            f"features of shape {features.shape} and type {features.dtype}", "give numbers of shape [N, d]"
        )
    largest = np.abs(features).max(axis=1, initial=0)  # dividing by it first keeps squares from over- or underflowing
    bad = ~np.isfinite(largest) | (largest == 0)
    if bad.any():
        first = np.flatnonzero(bad)[:5].tolist()
        raise InputError(
            f"{int(bad.sum())} of {len(features)} feature rows are zero or not finite, first rows {first}",
            "reject those rows before building the graph",
        )
    unit: Float32Array = (features / largest[:, None]).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit


def exact_neighbours(unit: Float32Array, queries: npt.NDArray[np.int64], k: int) -> tuple[Int32Array, Float32Array]:
    """The k nearest rows of some rows, by comparing with all rows in blocks.

    Args:
        unit: float32[N, d], rows of length 1.
        queries: int64[q], rows to look at.
        k: neighbours of a row.

    Returns:
        Indices int32[q, k] and similarities float32[q, k], ordered as in `NeighbourGraph`.
    """
    rows = len(unit)
    found = min(k, rows - 1)
    indices = np.full((len(queries), k), -1, dtype=np.int32)
    similarities = np.full((len(queries), k), -1.0, dtype=np.float32)
    everything = torch.from_numpy(unit).T
    block = max(1, _BLOCK_VALUES // rows)
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        products = torch.from_numpy(unit[part]) @ everything
        products[torch.arange(len(part)), torch.from_numpy(part)] = -torch.inf
        columns, values = _top(products, found)
        similarities[start : start + block, :found] = np.clip(values, -1.0, 1.0)
        indices[start : start + block, :found] = columns
    return indices, similarities


def _top(products: torch.Tensor, k: int) -> tuple[npt.NDArray[np.int64], Float32Array]:
    """The k largest of each row, ties by lowest column; torch.topk leaves open which of equal values it takes."""
    values, columns = products.topk(min(k + 1, products.shape[1]), dim=1)
    if values.shape[1] > k:
        edge = values[:, k - 1]
        open_ties = torch.nonzero(edge == values[:, k]).flatten()
        if len(open_ties):
            columns[open_ties, :k] = _lowest_of_ties(products[open_ties], edge[open_ties], k)
            values[open_ties, :k] = products[open_ties].gather(1, columns[open_ties, :k])
    return order_neighbours(columns[:, :k].numpy(), values[:, :k].numpy())


def _lowest_of_ties(products: torch.Tensor, edge: torch.Tensor, k: int) -> torch.Tensor:
    """Columns above the edge, and of those at the edge as many of the lowest as are still wanted."""
    above = products > edge[:, None]
    at = products == edge[:, None]
    wanted = (k - above.sum(dim=1))[:, None]
    taken = above | (at & (at.cumsum(dim=1) <= wanted))
    return torch.nonzero(taken)[:, 1].reshape(-1, k)


def order_neighbours(
    columns: npt.NDArray[np.integer[Any]], values: Float32Array
) -> tuple[npt.NDArray[np.int64], Float32Array]:
    """Orders each row by decreasing value, ties by increasing column."""
    order = np.lexsort((columns, -values), axis=1)
    return np.take_along_axis(columns, order, axis=1).astype(np.int64), np.take_along_axis(values, order, axis=1)


def measured_recall(true_similarities: Float32Array, found_similarities: Float32Array) -> float:
    """Share of found neighbours that are as near as the true ones; a tie with the farthest true one counts.

    Args:
        true_similarities: float32[q, k] of an exact search, decreasing.
        found_similarities: float32[q, k] of the search to judge.
    """
    exists = true_similarities > -1.0
    farthest = np.where(exists, true_similarities, np.inf).min(axis=1, keepdims=True)
    hits = (found_similarities >= farthest - _SAME).sum()
    return float(min(1.0, hits / max(1, exists.sum())))


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Sets torch's CPU threads, and back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
