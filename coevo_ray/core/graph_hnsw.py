"""Approximate neighbour graph with faiss HNSW (Malkov & Yashunin 2016), for pools too large to compare all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from coevo_ray.core.graph import (
    RECALL_GOAL,
    Float32Array,
    Int32Array,
    NeighbourGraph,
    exact_neighbours,
    measured_recall,
    order_neighbours,
    torch_threads,
)

_LINKS = 32
_EF_CONSTRUCTION = 80
_EF_SEARCH = (64, 128, 256, 512)
_BLOCK_ROWS = 65_536


def hnsw_graph(unit: Float32Array, k: int, *, seed: int, recall_sample: int, threads: int | None) -> NeighbourGraph:
    """The graph, with its recall measured against an exact search of a sample.

    Args:
        unit: float32[N, d], rows of length 1.
        k: neighbours of a row.
        seed: seed of the sample.
        recall_sample: rows of the sample; 0 measures nothing and searches with the least effort.
        threads: CPU threads; None leaves faiss's own setting.
    """
    rows, dim = unit.shape
    sample = np.random.Generator(np.random.PCG64(seed)).permutation(rows)[:recall_sample]
    with _faiss_threads(threads), torch_threads(threads):
        index = faiss.IndexHNSWFlat(dim, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _EF_CONSTRUCTION
        index.add(unit)
        effort, recall = _choose_effort(index, unit, np.sort(sample), k)
        index.hnsw.efSearch = effort
        indices, similarities = _search(index, unit, np.arange(rows), k)
    parameters: dict[str, Any] = {
        "k": k,
        "dim": dim,
        "links": _LINKS,
        "ef_construction": _EF_CONSTRUCTION,
        "ef_search": effort,
        "recall_sample": len(sample),
        "seed": seed,
    }
    return NeighbourGraph(indices, similarities, "hnsw", recall, parameters)


def _choose_effort(index: Any, unit: Float32Array, sample: npt.NDArray[np.int64], k: int) -> tuple[int, float | None]:
    """The least search effort whose recall on the sample reaches the goal, else the greatest, with that recall."""
    least = max(_EF_SEARCH[0], k + 1)
    if len(sample) == 0:
        return least, None
    truth = exact_neighbours(unit, sample, k)[1]
    effort, recall = least, 0.0
    for effort in (max(e, k + 1) for e in _EF_SEARCH):
        index.hnsw.efSearch = effort
        recall = measured_recall(truth, _search(index, unit, sample, k)[1])
        if recall >= RECALL_GOAL:
            break
    return effort, recall


def _search(index: Any, unit: Float32Array, queries: npt.NDArray[np.int64], k: int) -> tuple[Int32Array, Float32Array]:
    """Neighbours of some rows without themselves, ordered as in `NeighbourGraph`."""
    indices = np.full((len(queries), k), -1, dtype=np.int32)
    similarities = np.full((len(queries), k), -1.0, dtype=np.float32)
    for start in range(0, len(queries), _BLOCK_ROWS):
        part = queries[start : start + _BLOCK_ROWS]
        values, columns = index.search(unit[part], k + 1)
        absent = (columns < 0) | (columns == part[:, None])  # the row itself is nearly always found, and in any place
        columns, values = order_neighbours(columns, np.where(absent, -np.inf, values).astype(np.float32))
        columns, values = columns[:, :k], values[:, :k]
        none = np.isneginf(values)
        indices[start : start + _BLOCK_ROWS] = np.where(none, -1, columns)
        similarities[start : start + _BLOCK_ROWS] = np.where(none, -1.0, np.clip(values, -1.0, 1.0))
    return indices, similarities


@contextmanager
def _faiss_threads(threads: int | None) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
