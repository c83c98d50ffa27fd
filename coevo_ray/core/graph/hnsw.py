"""A faiss HNSW index: looks rows up where a pool has become too large to compare a new row with all of it.

HNSW: Malkov & Yashunin 2016, arXiv 1603.09320. This is the only module of `core` that imports faiss, and nothing
imports this one before it is needed: faiss takes part of a second to load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from coevo_ray.core.arrays import Float32Array, Int32Array
from coevo_ray.core.graph.search import score
from coevo_ray.core.graph.unit_rows import UnitRows

_LINKS = 32  # M: 2 M links of 4 bytes on the lowest level are the 256 bytes a row costs beside its vector
_EF_CONSTRUCTION = 80
_EF_SEARCH = 64  # candidates of a query; faiss widens it where more neighbours are asked for


class HnswIndex:
    """Unit rows in a navigable small-world graph, which `add` extends.

    Args:
        dim: d, values of a row.
        threads: CPU threads of `add` and `search`.
    """

    def __init__(self, dim: int, threads: int) -> None:
        self._threads = threads
        self._index: Any = faiss.IndexHNSWFlat(dim, _LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = _EF_CONSTRUCTION
        self._index.hnsw.efSearch = _EF_SEARCH

    def add(self, unit: Float32Array) -> None:
        """Adds rows float32[n, d] of length 1, copied; they are numbered on from the rows already there."""
        with _faiss_threads(self._threads):
            self._index.add(unit)

    def search(self, queries: Float32Array, rows: UnitRows, k: int) -> tuple[Int32Array, Float32Array]:
        """Finds the k nearest indexed rows of some unit vectors, approximately.

        Args:
            queries: float32[q, d], of length 1.
            rows: the indexed rows, from which similarities are computed as an exact search computes them.
            k: number of neighbours.

        Returns:
            Rows int32[q, k] and similarities float32[q, k], ordered and padded as in `NeighbourGraph`.
        """
        with _faiss_threads(self._threads):
            positions = self._index.search(queries, k)[1].astype(np.int64)
        return score(queries, rows, positions, positions.astype(np.int32), k)


@contextmanager
def _faiss_threads(threads: int) -> Iterator[None]:
    """Sets faiss's number of CPU threads, which is global, and restores it."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
