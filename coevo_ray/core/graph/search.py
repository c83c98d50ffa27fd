"""Nearest rows by blocked matrix products: the rows of a block against the rows of the cells that they probe.

A block is searched in one thread, so the result depends neither on the number of threads nor on the distribution of
blocks over nodes. Candidates come from float32 products on any device; the similarities that are kept, and their order,
from one sum per pair in a fixed order of additions (`pair_similarities`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from coevo_ray.core.arrays import Float32Array, Int32Array, Int64Array, IntArray
from coevo_ray.core.graph.cells import Cells
from coevo_ray.core.graph.rows import Rows
from coevo_ray.core.graph.running_top_k import RunningTopK

# Candidates beyond k: products differ in the last bits between devices and block shapes, and so may their order.
SPARE = 4
# Rows of a block: larger blocks share more cells, but there must be enough blocks for all threads.
_MOST_BLOCK, _LEAST_BLOCK, _BLOCKS = 16_384, 64, 32
# Queries and rows compared at a time: products of 16 MiB, and 4 GiB on a GPU.
_TILE = {"cpu": (1024, 4096), "cuda": (_MOST_BLOCK, 1 << 16)}
_SCORED = 1 << 21  # values of pairs gathered at a time: 8 MiB, which a cache holds


@dataclass(frozen=True, eq=False)
class CellSearch:
    """Search over rows sorted by cell.

    Attributes:
        rows: N rows, sorted by `cells.order`.
        cells: the cells.
        probes: number of nearest cells that each query is compared with.
        device: device of the comparisons.
    """

    rows: Rows
    cells: Cells
    probes: int
    device: torch.device

    def nearest(self, queries: Float32Array, k: int) -> tuple[Int32Array, Float32Array]:
        """Finds the k nearest rows of some unit vectors; a query that is a row finds itself.

        Args:
            queries: float32[q, d], of length 1.
            k: number of neighbours.

        Returns:
            Rows int32[q, k] by decreasing similarity, ties by increasing row, and similarities float32[q, k]; both
            padded with -1.
        """
        positions = self.candidates(queries, k + SPARE).positions.cpu().numpy()
        found = np.where(positions >= 0, self.cells.order[positions], -1).astype(np.int32)
        return score(queries, self.rows, positions, found, k)

    def neighbours(self, block: slice | IntArray, k: int) -> tuple[Int32Array, Float32Array]:
        """Finds the k nearest other rows of some of the rows.

        Args:
            block: slice or int[q], positions among the sorted rows.
            k: number of neighbours.

        Returns:
            Rows int32[q, k] and similarities float32[q, k], as `nearest`.
        """
        indices, similarities = self.nearest(self.rows.read(block), k + 1)
        return without_self(indices, similarities, self.cells.order[block])

    def candidates(self, queries: Float32Array, wanted: int) -> RunningTopK:
        """Finds positions in `rows` of the nearest by products of matrices, whose last bits may be others elsewhere.

        Args:
            queries: float32[q, d], of length 1.
            wanted: number of candidates for each.
        """
        block = as_tensor(queries, self.device)
        running = RunningTopK(len(queries), wanted, self.device)
        if self.cells.count == 1:
            self._compare(running, block, torch.arange(len(queries), device=self.device), 0)
        else:
            likeness = block @ as_tensor(self.cells.centroids, self.device).T
            probed = likeness.topk(min(self.probes, self.cells.count), dim=1).indices
            # The nearest cells first: few rows of the others then exceed the k-th value found.
            for slots in (slice(0, 1), slice(1, 4), slice(4, None)):
                for cell, rows in _by_cell(probed[:, slots]):
                    self._compare(running, block[rows], rows, cell)
                running.settle()
        running.settle()
        return running

    def _compare(self, running: RunningTopK, queries: torch.Tensor, rows: torch.Tensor, cell: int) -> None:
        """Offers the products of all rows of a cell to some of the queries."""
        low, high = int(self.cells.starts[cell]), int(self.cells.starts[cell + 1])
        height, width = _TILE[self.device.type]
        for start in range(low, high, width):
            columns = as_tensor(self.rows.read(slice(start, min(high, start + width))), self.device).T
            for part in range(0, len(rows), height):
                running.offer(rows[part : part + height], queries[part : part + height] @ columns, start)


def blocks(rows: int) -> list[slice]:
    """Cuts N sorted rows into blocks to search, as slices of an array[N, ...]; a function of N alone."""
    size = block_rows(rows)
    return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]


def block_rows(rows: int) -> int:
    """Returns the number of rows of a block for N rows: about N / 32, from 64 to 16 384."""
    return min(_MOST_BLOCK, max(_LEAST_BLOCK, -(-rows // _BLOCKS)))


def pair_similarities(queries: Float32Array, others: Float32Array) -> Float32Array:
    """Computes dot products of unit rows, each with the same additions in the same order.

    Args:
        queries: float32[q, d].
        others: float32[q, n, d], the rows to compare each query with.

    Returns:
        float32[q, n] in [-1, 1].
    """
    # Unlike a matrix product's sums, einsum's do not depend on the number of pairs.
    result: Float32Array = np.clip(np.einsum("qd,qnd->qn", queries, others), -1.0, 1.0)
    return result


def score(
    queries: Float32Array, rows: Rows, positions: Int64Array, found: Int32Array, k: int
) -> tuple[Int32Array, Float32Array]:
    """Computes the similarities of candidates and keeps the k largest.

    Args:
        queries: float32[q, d].
        rows: rows that the positions refer to.
        positions: int64[q, n], candidates; -1 for none.
        found: int32[q, n], row number of each candidate, by which ties are ordered.
        k: number of neighbours.

    Returns:
        Rows int32[q, k] and similarities float32[q, k], as `CellSearch.nearest`.
    """
    return first_k(found, candidate_similarities(queries, rows, positions), k)


def candidate_similarities(queries: Float32Array, rows: Rows, positions: Int64Array) -> Float32Array:
    """Computes the similarities of candidates, which are read by increasing position, each part of the rows once.

    Args:
        queries, rows, positions: as `score`.

    Returns:
        float32[q, n], -inf for no candidate.
    """
    similarities = np.full(positions.size, -np.inf, dtype=np.float32)
    flat, width = positions.reshape(-1), positions.shape[1]
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat, 0, sorter=order) :]
    step = max(1, _SCORED // max(1, rows.dim))
    for start in range(0, len(order), step):
        part = order[start : start + step]
        similarities[part] = pair_similarities(queries[part // width], rows.read(flat[part])[:, None])[:, 0]
    return similarities.reshape(positions.shape)


def first_k(found: Int32Array, similarities: Float32Array, k: int) -> tuple[Int32Array, Float32Array]:
    """Keeps the first k candidates by decreasing similarity, ties by increasing row.

    Args:
        found: int32[q, n], rows.
        similarities: float32[q, n], -inf for no candidate.
        k: number of neighbours.

    Returns:
        Rows int32[q, k] and similarities float32[q, k], both padded with -1.
    """
    order = np.lexsort((found, -similarities), axis=1)[:, :k]
    indices = np.full((len(found), k), -1, dtype=np.int32)
    values = np.full((len(found), k), -1.0, dtype=np.float32)
    width = order.shape[1]
    largest = np.take_along_axis(similarities, order, axis=1)
    exists = ~np.isneginf(largest)
    indices[:, :width] = np.where(exists, np.take_along_axis(found, order, axis=1), -1)
    values[:, :width] = np.where(exists, largest, -1.0)
    return indices, values


def without_self(indices: Int32Array, similarities: Float32Array, own: Int32Array) -> tuple[Int32Array, Float32Array]:
    """Removes each row itself from its k + 1 neighbours.

    Args:
        indices: int32[q, k + 1].
        similarities: float32[q, k + 1].
        own: int32[q], the rows themselves; where one was not found, the last neighbour is removed.

    Returns:
        Rows int32[q, k] and similarities float32[q, k], in the same order.
    """
    is_self = indices == own[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(indices), indices.shape[1] - 1)
    return indices[~is_self].reshape(shape), similarities[~is_self].reshape(shape)


def as_tensor(array: Float32Array, device: torch.device) -> torch.Tensor:
    """Moves an array float32[...] to a device, for reading; copies read-only memory, such as that of Ray's store."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _by_cell(probed: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields each probed cell and the queries that probe it, int64[n]; `probed` is int64[q, probes]."""
    flat, order = probed.flatten().sort(stable=True)
    cells, sizes = torch.unique_consecutive(flat, return_counts=True)
    at, rows = 0, order // max(1, probed.shape[1])
    for cell, size in zip(cells.tolist(), sizes.tolist(), strict=True):
        yield cell, rows[at : at + size]
        at += size
