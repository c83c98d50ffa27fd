"""Nearest rows by blocked matrix products: all rows of a block against all rows of the cells that they look at.

A block's work is the same whoever does it, in one thread: the result depends neither on the number of threads nor on
how blocks are shared out to nodes. Candidates come from products in float32 on any device; the similarities that are
kept, and the order by them, from one fixed sum for each pair (`pair_similarities`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from coevo_ray.core.cells import Cells, Int32Array, Int64Array
from coevo_ray.core.unit_rows import Float32Array, UnitRows

# Candidates beyond k: products of two devices or block shapes differ in the last bits, and so may their order.
SPARE = 4
_MOST_BLOCK, _LEAST_BLOCK, _BLOCKS = 2048, 64, 64
_TILE = {"cpu": 4096, "cuda": 1 << 17}  # columns compared at a time
_SCORED = 1 << 24  # values of pairs gathered at a time: 64 MiB


@dataclass(frozen=True, eq=False)
class Searched:
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
        if self.cells.count == 1:
            values, places = self._best(block, 0, len(self.rows), wanted)
            return _places(values, places)
        likeness = block @ as_tensor(self.cells.centroids, self.device).T
        probed = likeness.topk(min(self.probes, self.cells.count), dim=1).indices
        values = torch.full((len(queries), probed.shape[1], wanted), -torch.inf, device=self.device)
        places = torch.full(values.shape, -1, dtype=torch.int64, device=self.device)
        for cell, rows, slot in _by_cell(probed):
            low, high = int(self.cells.starts[cell]), int(self.cells.starts[cell + 1])
            if low == high:
                continue
            best, place = self._best(block[rows], low, high, wanted)
            values[rows, slot, : best.shape[1]], places[rows, slot, : best.shape[1]] = best, place
        values, places = values.flatten(1), places.flatten(1)
        return _places(*_pick(values, places, self.cells.order, wanted))

    def _best(self, queries: torch.Tensor, low: int, high: int, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest of the places low..high-1, the lowest of those that are as near."""
        tile = _TILE[self.device.type]
        values = queries.new_empty((len(queries), 0))
        places = torch.empty((len(queries), 0), dtype=torch.int64, device=self.device)
        for start in range(low, high, tile):
            columns = as_tensor(self.rows.read(slice(start, min(high, start + tile))), self.device)
            new, place = top(queries @ columns.T, wanted)
            if high - low <= tile:
                return new, place + start
            # What ties stands in the order of places, as `top` wants it: former tiles first.
            new, place = _in_order(new, place + start)
            values, picked = top(torch.cat([values, new], dim=1), wanted)
            places = torch.cat([places, place], dim=1).gather(1, picked)
            values, places = _in_order(values, places)
        return values, places

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
        As `Searched.nearest`.
    """
    similarities = np.empty(places.shape, dtype=np.float32)
    step = max(1, _SCORED // max(1, places.shape[1] * rows.dim))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        similarities[part] = pair_similarities(queries[part], rows.read(places[part]))
    similarities[places < 0] = -np.inf
    return first_of(found, similarities, k)


def first_of(found: Int32Array, similarities: Float32Array, k: int) -> tuple[Int32Array, Float32Array]:
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


def top(products: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row and their columns, in no promised order.

    torch.topk leaves open which of equal values it takes; here the lowest columns are taken.
    """
    values, columns = products.topk(min(k + 1, products.shape[1]), dim=1)
    if values.shape[1] <= k:
        return values, columns
    edge = values[:, k - 1]
    tied = torch.nonzero((edge == values[:, k]) & (edge > -torch.inf)).flatten()
    values, columns = values[:, :k], columns[:, :k]
    if len(tied):
        columns[tied] = _lowest_of_ties(products[tied], edge[tied], k)
        values[tied] = products[tied].gather(1, columns[tied])
    return values, columns


def _in_order(values: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By decreasing value, ties by increasing place."""
    places, order = places.sort(dim=1)
    values, again = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, again)


def as_tensor(array: npt.NDArray[np.float32], device: torch.device) -> torch.Tensor:
    """An array for reading on a device; torch wants memory that may be written to, Ray's store has none."""
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def _lowest_of_ties(products: torch.Tensor, edge: torch.Tensor, k: int) -> torch.Tensor:
    """Columns above the edge, and of those at the edge as many of the lowest as are still wanted."""
    above = products > edge[:, None]
    at = products == edge[:, None]
    wanted = (k - above.sum(dim=1))[:, None]
    taken = above | (at & (at.cumsum(dim=1) <= wanted))
    return torch.nonzero(taken)[:, 1].reshape(-1, k)


def _by_cell(probed: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Each cell that anybody looks at: the queries that do, and in which of their slots."""
    flat, order = probed.flatten().sort(stable=True)
    cells, sizes = torch.unique_consecutive(flat, return_counts=True)
    rows, slots = order // probed.shape[1], order % probed.shape[1]
    at = 0
    for cell, size in zip(cells.tolist(), sizes.tolist(), strict=True):
        yield cell, rows[at : at + size], slots[at : at + size]
        at += size


def _pick(
    values: torch.Tensor, places: torch.Tensor, order: Int32Array, wanted: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each row over all cells; of those that tie at the edge, the lowest rows."""
    best, columns = values.topk(min(wanted + 1, values.shape[1]), dim=1)
    if best.shape[1] <= wanted:
        return best, places.gather(1, columns)
    edge = best[:, wanted - 1]
    tied = torch.nonzero((edge == best[:, wanted]) & (edge > -torch.inf)).flatten()
    best, picked = best[:, :wanted], places.gather(1, columns[:, :wanted])
    if len(tied):
        candidates = places[tied].cpu().numpy()
        named = np.where(candidates >= 0, order[candidates], np.iinfo(np.int32).max)
        first = np.lexsort((named, -values[tied].cpu().numpy()), axis=1)[:, :wanted]
        picked[tied] = torch.from_numpy(np.take_along_axis(candidates, first, axis=1)).to(picked.device)
        best[tied] = values[tied].gather(1, torch.from_numpy(first).to(values.device))
    return best, picked


def _places(values: torch.Tensor, places: torch.Tensor) -> Int64Array:
    result: Int64Array = torch.where(values > -torch.inf, places, -1).cpu().numpy()
    return result
