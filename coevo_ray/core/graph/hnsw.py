"""Approximate neighbour graph with faiss HNSW (Malkov & Yashunin 2016), for pools too large to compare all pairs."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch

from coevo_ray.core.arrays import Float32Array, Int32Array, Int64Array
from coevo_ray.core.graph.plan import RECALL_GOAL, exact_neighbours, measured_recall
from coevo_ray.core.graph.search import score, without_self
from coevo_ray.core.graph.threads import faiss_threads
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.graph.unit_rows import UnitRows
from coevo_ray.errors import InputError

_LINKS = 32
_EF_CONSTRUCTION = 80
_EF_SEARCH = (64, 128, 256, 512)
_BLOCK_ROWS = 65_536


def hnsw_graph(rows: UnitRows, k: int, *, seed: int, recall_sample: int, threads: int) -> NeighbourGraph:
    """The graph, with its recall measured against an exact search of a sample.

    Args:
        rows: N rows.
        k: neighbours of a row.
        seed: seed of the sample.
        recall_sample: rows of the sample; 0 measures nothing and searches with the least effort.
        threads: CPU threads.

    Raises:
        InputError: fewer than two rows.
    """
    if len(rows) < 2:
        raise InputError(f"a neighbour graph needs 2 rows or more, there are {len(rows)}", "give more rows")
    sample = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))[:recall_sample].astype(np.int64)
    with faiss_threads(threads):
        index = new_index(rows.dim)
        for start in range(0, len(rows), _BLOCK_ROWS):
            index.add(rows.read(slice(start, start + _BLOCK_ROWS)))
        effort, recall = _choose_effort(index, rows, np.sort(sample), k, threads)
        index.hnsw.efSearch = effort
        indices, similarities = _search(index, rows, np.arange(len(rows)), k)
    parameters: dict[str, Any] = {
        "k": k,
        "dim": rows.dim,
        "links": _LINKS,
        "ef_construction": _EF_CONSTRUCTION,
        "ef_search": effort,
        "recall_sample": len(sample),
        "recall_goal": RECALL_GOAL,
        "goal_reached": recall is not None and recall >= RECALL_GOAL,
        "seed": seed,
    }
    return NeighbourGraph(indices, similarities, "hnsw", recall, parameters)


def new_index(dim: int) -> Any:
    """An empty faiss index for rows of length 1."""
    index = faiss.IndexHNSWFlat(dim, _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    index.hnsw.efSearch = _EF_SEARCH[0]
    return index


def _choose_effort(index: Any, rows: UnitRows, sample: Int64Array, k: int, threads: int) -> tuple[int, float | None]:
    """The least search effort whose recall on the sample reaches the goal, else the greatest, with that recall."""
    least = max(_EF_SEARCH[0], k + 1)
    if len(sample) == 0:
        return least, None
    truth = exact_neighbours(rows, sample, k, threads, torch.device("cpu"))[1]
    effort, recall = least, 0.0
    for effort in (max(e, k + 1) for e in _EF_SEARCH):
        index.hnsw.efSearch = effort
        recall = measured_recall(truth, _search(index, rows, sample, k)[1])
        if recall >= RECALL_GOAL:
            break
    return effort, recall


def _search(index: Any, rows: UnitRows, queries: Int64Array, k: int) -> tuple[Int32Array, Float32Array]:
    """Neighbours of some rows without themselves, ordered as in `NeighbourGraph`."""
    indices = np.empty((len(queries), k), dtype=np.int32)
    similarities = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        own = queries[part]
        found = search_index(index, rows, rows.read(own), k + 1)
        indices[part], similarities[part] = without_self(*found, own.astype(np.int32))
    return indices, similarities


def search_index(index: Any, rows: UnitRows, queries: Float32Array, k: int) -> tuple[Int32Array, Float32Array]:
    """The k rows that an index finds near some unit vectors, with the same similarities as an exact search gives."""
    places = index.search(queries, k)[1].astype(np.int64)
    return score(queries, rows, places, places.astype(np.int32), k)
