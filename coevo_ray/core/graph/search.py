"""Nearest rows by blocked matrix products: all rows of a block against all rows of the cells that they look at.

A block's work is the same whoever does it, in one thread: the result depends neither on the number of threads nor on
how blocks are shared out to nodes. Candidates come from products in float32 on any device; the similarities that are
kept, and the order by them, from one fixed sum for each pair (`pair_similarities`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from coevo_ray.core.arrays import Float32Array, Int32Array, Int64Array
from coevo_ray.core.graph.cells import Cells
from coevo_ray.core.graph.running_top_k import RunningTopK
from coevo_ray.core.graph.unit_rows import UnitRows

# Candidates beyond k: products of two devices or block shapes differ in the last bits, and so may their order.
SPARE = 4
# Rows of a block: the more, the more of them look at the same cells; but all threads want some.
_MOST_BLOCK, _LEAST_BLOCK, _BLOCKS = 16_384, 64, 32
# Queries and rows compared at a time: products of 16 MiB, and 4 GiB on a GPU.
_TILE = {"cpu": (1024, 4096), "cuda": (_MOST_BLOCK, 1 << 16)}
_SCORED = 1 << 24  # values of pairs gathered at a time: 64 MiB


@dataclass(frozen=True, eq=False)
class CellSearch:
    """What a search looks at.

    Attributes:
        rows: N rows, sorted as `cells.order` says.
        cells: the cells.
        probes: nearest cells that each query looks at.
        device: where rows are compared.
    """

    rows: UnitRows
    cells: Cells
    probes: int
    device: torch.device

    def nearest(self, queries: Float32Array, k: int) -> tuple[Int32Array, Float32Array]:
        """The k nearest rows of some unit vectors, which may be rows themselves.

        Args:
            queries: float32[q, d].
            k: how many.

        Returns:
            Rows int32[q, k] by decreasing similarity, ties by increasing row, -1 where there are fewer; similarities
            float32[q, k], -1 there.
        """
        return self._scored(queries, self._candidates(queries, k + SPARE), k)

    def neighbours(self, block: slice | Int64Array, k: int) -> tuple[Int32Array, Float32Array]:
        """As `nearest`, for rows at some places of the sorted rows, without the rows themselves."""
        indices, similarities = self.nearest(self.rows.read(block), k + 1)
        return without_self(indices, similarities, self.cells.order[block])

    def _candidates(self, queries: Float32Array, wanted: int) -> Int64Array:
        """Places in `rows` of the nearest, int64[q, wanted], -1 where there are fewer; in no promised order."""
        block = as_tensor(queries, self.device)
        best = RunningTopK(len(queries), wanted, self.device)
        everybody = torch.arange(len(queries), device=self.device)
        if self.cells.count == 1:
            self._compare(best, block, everybody, 0)
        else:
            likeness = block @ as_tensor(self.cells.centroids, self.device).T
            probed = likeness.topk(min(self.probes, self.cells.count), dim=1).indices
            # The nearest cells first: then little of the others is better than what is there.
            for slots in (slice(0, 1), slice(1, 4), slice(4, None)):
                for cell, rows in _by_cell(probed[:, slots]):
                    self._compare(best, block[rows], rows, cell)
                best.settle()
        best.settle()
        return best.places.cpu().numpy()

    def _compare(self, best: RunningTopK, queries: torch.Tensor, rows: torch.Tensor, cell: int) -> None:
        """Offers all rows of a cell to some of the queries."""
        low, high = int(self.cells.starts[cell]), int(self.cells.starts[cell + 1])
        height, width = _TILE[self.device.type]
        for start in range(low, high, width):
            columns = as_tensor(self.rows.read(slice(start, min(high, start + width))), self.device).T
            for part in range(0, len(rows), height):
                best.offer(rows[part : part + height], queries[part : part + height] @ columns, start)

    def _scored(self, queries: Float32Array, places: Int64Array, k: int) -> tuple[Int32Array, Float32Array]:
        found = np.where(places >= 0, self.cells.order[places], -1).astype(np.int32)
        return score(queries, self.rows, places, found, k)


def blocks(rows: int) -> list[slice]:
    """How N sorted rows are cut for searching; depends on nothing else."""
    size = block_rows(rows)
    return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]


def block_rows(rows: int) -> int:
    """Rows of a block when there are N."""
    return min(_MOST_BLOCK, max(_LEAST_BLOCK, -(-rows // _BLOCKS)))


def pair_similarities(queries: Float32Array, others: Float32Array) -> Float32Array:
    """Products of unit rows, each by the same additions in the same order: float32[q, n].

    Args:
        queries: float32[q, d].
        others: float32[q, n, d].
    """
    # Unlike a matrix product's, its sums do not depend on how many pairs there are.
    result: Float32Array = np.clip(np.einsum("qd,qnd->qn", queries, others), -1.0, 1.0)
    return result


def score(
    queries: Float32Array, rows: UnitRows, places: Int64Array, found: Int32Array, k: int
) -> tuple[Int32Array, Float32Array]:
    """Similarities of candidates, and the k best in order.

    Args:
        queries: float32[q, d].
        rows: what the places are of.
        places: int64[q, n], -1 for none.
        found: int32[q, n], the row that each place is to be called; ties are ordered by it.
        k: how many.

    Returns:
        As `CellSearch.nearest`.
    """
    similarities = np.empty(places.shape, dtype=np.float32)
    step = max(1, _SCORED // max(1, places.shape[1] * rows.dim))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        similarities[part] = pair_similarities(queries[part], rows.read(places[part]))
    similarities[places < 0] = -np.inf
    return first_k(found, similarities, k)


def first_k(found: Int32Array, similarities: Float32Array, k: int) -> tuple[Int32Array, Float32Array]:
    """The first k by decreasing similarity, ties by increasing row; -1 in both where there are fewer.

    Args:
        found: int32[q, n].
        similarities: float32[q, n], -inf for none.
        k: how many.
    """
    order = np.lexsort((found, -similarities), axis=1)[:, :k]
    indices = np.full((len(found), k), -1, dtype=np.int32)
    values = np.full((len(found), k), -1.0, dtype=np.float32)
    width = order.shape[1]
    best = np.take_along_axis(similarities, order, axis=1)
    there = ~np.isneginf(best)
    indices[:, :width] = np.where(there, np.take_along_axis(found, order, axis=1), -1)
    values[:, :width] = np.where(there, best, -1.0)
    return indices, values


def without_self(indices: Int32Array, similarities: Float32Array, own: Int32Array) -> tuple[Int32Array, Float32Array]:
    """k + 1 neighbours without the row itself: k, in the same order.

    Args:
        indices: int32[q, k + 1].
        similarities: float32[q, k + 1].
        own: int32[q], the rows themselves; the last neighbour goes where they were not found.
    """
    is_self = indices == own[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = (len(indices), indices.shape[1] - 1)
    return indices[~is_self].reshape(shape), similarities[~is_self].reshape(shape)


def as_tensor(array: Float32Array, device: torch.device) -> torch.Tensor:
    """An array for reading on a device; torch wants memory that may be written to, Ray's store has none."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _lowest_of_ties(products: torch.Tensor, edge: torch.Tensor, k: int) -> torch.Tensor:
    """Columns above the edge, and of those at the edge as many of the lowest as are still wanted."""
    above = products > edge[:, None]
    at = products == edge[:, None]
    wanted = (k - above.sum(dim=1))[:, None]
    taken = above | (at & (at.cumsum(dim=1) <= wanted))
    return torch.nonzero(taken)[:, 1].reshape(-1, k)


def _by_cell(probed: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Each cell that any of the queries looks at, and which do."""
    flat, order = probed.flatten().sort(stable=True)
    cells, sizes = torch.unique_consecutive(flat, return_counts=True)
    at, rows = 0, order // max(1, probed.shape[1])
    for cell, size in zip(cells.tolist(), sizes.tolist(), strict=True):
        yield cell, rows[at : at + size]
        at += size
