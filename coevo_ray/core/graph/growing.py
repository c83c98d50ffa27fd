"""A neighbour graph that grows: new rows are looked up and appended without a rebuild (docs/design.md#gate-online)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coevo_ray.core.arrays import AnyArray, Float32Array, Int32Array, Int64Array, IntArray
from coevo_ray.core.graph.running_top_k import nonzero, top_k
from coevo_ray.core.graph.search import SPARE, as_tensor, first_k, pair_similarities, score
from coevo_ray.core.graph.threads import torch_threads
from coevo_ray.core.graph.types import Near, NeighbourGraph, PartWork, whole_part
from coevo_ray.core.graph.unit_rows import UnitRows, check_shape
from coevo_ray.errors import InputError

if TYPE_CHECKING:
    from coevo_ray.core.graph.hnsw import HnswIndex

EXACT_ROWS = 500_000  # beyond, comparing one row with all rows takes more than a few tens of ms on two cores
_LEAST_ROOM = 1024
_COLUMNS = 1 << 16  # rows compared at a time
_NEAR = 2e-6  # upper bound on the difference of float32 products of unit rows between block shapes
_LENGTH_OFF = 1e-3
# HNSW looks up this many times k rows: being a nearest neighbour is not mutual, and all of these rows may have the new
# row among their own k nearest.
_REVERSE = 3


@dataclass(frozen=True)
class _Looked:
    """The latest batch looked up, and the pairs (old row, new row) in which the new row may be a nearest neighbour."""

    batch: Float32Array
    rows: int
    old: Int64Array
    new: Int64Array


class GrowingIndex:
    """Rows and their neighbours, extended in place.

    Up to `exact_rows` rows, a new row is compared with all of them, and the graph equals one built by `exact` from all
    rows at once, bit for bit, if the initial graph was. Beyond, faiss HNSW looks rows up, and only rows found by that
    lookup gain the new row as a neighbour.

    Memory: 4 x dimensions bytes per row, twice that while it grows, plus the graph; HNSW adds its own copy of the rows
    and 270 bytes per row.

    Args:
        unit: float32[N, d], rows of length 1; copied.
        graph: their neighbours; copied. Its k is kept.
        capacity: rows to allocate room for; the room doubles when it is used up.
        exact_rows: largest number of rows that are all compared.
        threads: CPU threads; None takes torch's number.

    Attributes:
        rows: number of rows N.
        k: neighbours per row.
        dim: d.

    Raises:
        InputError: rows are not of length 1, or the graph has another number of rows.
    """

    def __init__(
        self,
        unit: Float32Array,
        graph: NeighbourGraph,
        capacity: int | None = None,
        *,
        exact_rows: int = EXACT_ROWS,
        threads: int | None = None,
    ) -> None:
        _check_unit(unit)
        if graph.rows != len(unit):
            raise InputError(
                f"a graph of {graph.rows} rows for {len(unit)} features", "give the graph that was built on them"
            )
        self.k, self.dim, self.rows = graph.k, unit.shape[1], len(unit)
        self._exact_rows, self._threads = exact_rows, threads or torch.get_num_threads()
        room = max(_LEAST_ROOM, self.rows, capacity or 0)
        self._unit = np.empty((room, self.dim), dtype=np.float32)
        self._indices = np.empty((room, self.k), dtype=np.int32)
        self._similarities = np.empty((room, self.k), dtype=np.float32)
        self._unit[: self.rows] = unit
        self._indices[: self.rows], self._similarities[: self.rows] = graph.indices, graph.similarities
        self._looked: _Looked | None = None
        self._pool = ThreadPoolExecutor(self._threads, "coevo-growing", torch.set_num_threads, (1,))
        self._index: HnswIndex | None = None
        self._change_method()

    @property
    def unit(self) -> Float32Array:
        """The rows, float32[N, d]; a view that is valid until the next `append`."""
        return self._unit[: self.rows]

    @property
    def indices(self) -> Int32Array:
        """int32[N, k] as in `NeighbourGraph`; a view that is valid until the next `append`."""
        return self._indices[: self.rows]

    @property
    def similarities(self) -> Float32Array:
        """float32[N, k] as in `NeighbourGraph`; a view that is valid until the next `append`."""
        return self._similarities[: self.rows]

    @property
    def parts(self) -> int:
        """1: it is in one piece."""
        return 1

    def near(self, rows: IntArray, width: int | None = None) -> Near:
        """Neighbours of n rows, see `Neighbours`."""
        return whole_part(self.indices, self.similarities).near(rows, width)

    def map_parts(self, work: PartWork, *shared: Any) -> Iterator[tuple[Int32Array | slice, Any]]:
        """Runs a function on all present rows, see `Neighbours`."""
        part = whole_part(self.indices, self.similarities)
        yield part.rows, work(part, *shared)

    @property
    def method(self) -> str:
        """`exact` or `hnsw`."""
        return "exact" if self._index is None else "hnsw"

    def graph(self) -> NeighbourGraph:
        """Copies the current graph, int32[N, k] and float32[N, k]; its recall is not measured."""
        return NeighbourGraph(
            self.indices.copy(), self.similarities.copy(), self.method, None, {"k": self.k, "dim": self.dim}
        )

    def search(self, batch: Float32Array, k: int | None = None) -> tuple[Int32Array, Float32Array]:
        """Finds the nearest of the present rows.

        Args:
            batch: float32[b, d], of length 1; a row that is present already finds itself.
            k: number of neighbours; None takes the graph's.

        Returns:
            Rows int32[b, k], ordered as in `NeighbourGraph`, and similarities float32[b, k].

        Raises:
            InputError: the batch does not fit.
        """
        self._check(batch)
        k = k or self.k
        if self._index is not None:
            wide = self._index.search(batch, UnitRows(self.unit), max(k, _REVERSE * self.k))
            found = wide[0] >= 0
            old, new = wide[0][found].astype(np.int64), np.nonzero(found)[0].astype(np.int64)
            indices, similarities = wide[0][:, :k], wide[1][:, :k]
        else:
            positions, old, new = self._compare(batch, k + SPARE)
            indices, similarities = score(batch, UnitRows(self.unit), positions, positions.astype(np.int32), k)
        self._looked = _Looked(batch.copy(), self.rows, old, new)
        return indices, similarities

    def append(self, batch: Float32Array, indices: Int32Array, similarities: Float32Array) -> None:
        """Adds rows with the neighbours found by `search`, and updates the lists of rows that they are nearer to.

        Args:
            batch: float32[b, d], as it was searched; its rows are numbered from `rows` on.
            indices: int32[b, >= k], neighbours among the rows before.
            similarities: float32[b, >= k].

        Raises:
            InputError: the arrays do not fit, or name rows that are not there.
        """
        self._check(batch)
        shapes = {indices.shape, similarities.shape}
        if len(shapes) > 1 or indices.ndim != 2 or len(indices) != len(batch) or indices.shape[1] < self.k:
            raise InputError(
                f"{len(batch)} rows with neighbours {list(indices.shape)} and similarities {list(similarities.shape)}",
                f"give those that search found, [{len(batch)}, {self.k}]",
            )
        if indices.size and not -1 <= indices.min() <= indices.max() < self.rows:
            raise InputError(f"neighbours outside the {self.rows} rows", "search again: rows have been added")
        if len(batch) == 0:
            return
        old, new = self._pairs(batch)
        first, last = self.rows, self.rows + len(batch)
        self._make_room(last)
        self._unit[first:last] = batch
        self._indices[first:last], self._similarities[first:last] = self._merge_batch(batch, indices, similarities)
        self._update_old(old, new)
        self.rows, self._looked = last, None
        if self._index is not None:
            self._index.add(batch)
        else:
            self._change_method()

    # -- comparing -----------------------------------------------------------------------------------------------

    def _compare(self, batch: Float32Array, wanted: int) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Returns positions of the nearest rows, and pairs (old row, new row) that may change the old row's list."""
        queries = as_tensor(batch, torch.device("cpu"))
        parts = list(self._column_parts(len(batch)))
        with torch_threads(1):  # torch's own threads synchronise after each operation, which is slow on busy cores
            work = functools.partial(self._compare_part, queries, wanted)
            found = list(self._pool.map(work, parts) if len(parts) > 1 else map(work, parts))
        values, positions, old, new = zip(*found, strict=True)
        largest, column = top_k(torch.cat(values, dim=1), wanted)
        nearest = torch.where(largest > -torch.inf, torch.cat(positions, dim=1).gather(1, column), -1)
        if nearest.shape[1] < wanted:
            nearest = torch.nn.functional.pad(nearest, (0, wanted - nearest.shape[1]), value=-1)
        return nearest.numpy(), np.concatenate(old), np.concatenate(new)

    def _compare_part(
        self, queries: torch.Tensor, wanted: int, part: slice
    ) -> tuple[torch.Tensor, torch.Tensor, Int64Array, Int64Array]:
        products = queries @ torch.from_numpy(self._unit[part]).T
        values, columns = top_k(products, wanted)
        last = torch.from_numpy(self._similarities[part, -1])
        found = nonzero(products > last - _NEAR).numpy()
        width = part.stop - part.start
        return values, columns + part.start, found % width + part.start, found // width

    def _column_parts(self, batch: int) -> Iterator[slice]:
        step = max(_LEAST_ROOM, _COLUMNS * 64 // max(64, batch))
        return (slice(start, min(self.rows, start + step)) for start in range(0, self.rows, step))

    def _pairs(self, batch: Float32Array) -> tuple[Int64Array, Int64Array]:
        """Returns the pairs that `search` found for this batch; searches again if the latest search had another."""
        looked = self._looked
        if looked is None or looked.rows != self.rows or not np.array_equal(looked.batch, batch):
            self.search(batch)
            looked = self._looked
        assert looked is not None
        return looked.old, looked.new

    def _merge_batch(
        self, batch: Float32Array, indices: Int32Array, similarities: Float32Array
    ) -> tuple[Int32Array, Float32Array]:
        """Merges the new rows' neighbours among the old rows with those within the batch."""
        count = len(batch)
        within = np.empty((count, count), dtype=np.float32)
        for i in range(count):  # one row at a time: all pairs at once would be count^2 x d values
            within[i] = pair_similarities(batch[i : i + 1], batch[None])[0]
        np.fill_diagonal(within, -np.inf)
        names = np.broadcast_to(np.arange(self.rows, self.rows + count, dtype=np.int32), (count, count))
        known = np.where(indices >= 0, similarities, -np.inf).astype(np.float32)
        found, values = np.concatenate([indices, names], axis=1), np.concatenate([known, within], axis=1)
        return first_k(found, values, self.k)

    def _update_old(self, old: Int64Array, new: Int64Array) -> None:
        """Inserts new rows into the lists of old rows that they are nearer to; called before `rows` is increased."""
        if len(old) == 0:
            return
        similarity = pair_similarities(self._unit[old], self._unit[new + self.rows][:, None])[:, 0]
        # An equal similarity changes nothing: the new row's number is the higher one.
        nearer = (similarity > self._similarities[old, -1]) | (self._indices[old, -1] < 0)
        old, new, similarity = old[nearer], new[nearer], similarity[nearer]
        order = np.lexsort((new, -similarity, old))
        old, new, similarity = old[order], new[order], similarity[order]
        rows, start, size = np.unique(old, return_index=True, return_counts=True)
        rank = np.arange(len(old)) - np.repeat(start, size)
        kept = rank < self.k
        line = np.repeat(np.arange(len(rows)), size)[kept]
        width = int(rank[kept].max(initial=-1)) + 1
        names = np.full((len(rows), width), -1, dtype=np.int32)
        values = np.full((len(rows), width), -np.inf, dtype=np.float32)
        names[line, rank[kept]] = (new[kept] + self.rows).astype(np.int32)
        values[line, rank[kept]] = similarity[kept]
        known = np.where(self._indices[rows] >= 0, self._similarities[rows], -np.inf).astype(np.float32)
        found = first_k(
            np.concatenate([self._indices[rows], names], axis=1), np.concatenate([known, values], axis=1), self.k
        )
        self._indices[rows], self._similarities[rows] = found

    # -- room ----------------------------------------------------------------------------------------------------

    def _make_room(self, rows: int) -> None:
        room = len(self._unit)
        if rows <= room:
            return
        room = max(rows, 2 * room)
        for name in ("_unit", "_indices", "_similarities"):
            former: AnyArray = getattr(self, name)
            grown = np.empty((room, former.shape[1]), dtype=former.dtype)
            grown[: self.rows] = former[: self.rows]
            setattr(self, name, grown)

    def _change_method(self) -> None:
        """Builds the HNSW index once there are more than `exact_rows` rows."""
        if self._index is None and self.rows > self._exact_rows:
            from coevo_ray.core.graph.hnsw import HnswIndex  # here, so that smaller pools do not load faiss

            self._index = HnswIndex(self.dim, self._threads)
            self._index.add(self.unit)

    def _check(self, batch: Float32Array) -> None:
        check_shape(batch)
        if batch.shape[1] != self.dim:
            raise InputError(f"features of {batch.shape[1]} dimensions", f"the index has {self.dim}")
        _check_unit(batch)


def _check_unit(unit: Float32Array) -> None:
    check_shape(unit)
    length = np.sqrt(np.einsum("nd,nd->n", unit, unit))
    wrong = ~(np.abs(length - 1.0) <= _LENGTH_OFF)  # true for NaN too
    if unit.dtype != np.float32 or wrong.any():
        first = np.flatnonzero(wrong)[:5].tolist()
        raise InputError(
            f"{int(wrong.sum())} of {len(unit)} rows ({unit.dtype}) are not of length 1, first rows {first}",
            "normalise them with unit_rows",
        )
