"""Tasks that sort the rows of a neighbour graph by cell, a range or a block of rows in each; see `graph_rows`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from safetensors.numpy import save as save_safetensors

from coevo_ray.core.arrays import Float16Array, Float32Array, Int32Array, Int64Array
from coevo_ray.core.graph.cells import Cells, assign, fit_centroids
from coevo_ray.core.graph.plan import (
    GraphPlan,
    Method,
    Settled,
    count_cells,
    device_of,
    exact_plan,
    ivf_plan,
    settle_method,
)
from coevo_ray.core.graph.recall import Nearest, RecallSample, Samples, look_up, merge
from coevo_ray.core.graph.rows import BlockRows
from coevo_ray.core.graph.sorting import Cut, Piece, gather, split
from coevo_ray.core.graph.unit_rows import BadRows, UnitRows, chunk_sums, not_finite, scales
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import StoppedError
from coevo_ray.pool.pool import TRAIN, Pool
from coevo_ray.runtime.shards import Row
from coevo_ray.store.data_files import describe, write_blob
from coevo_ray.store.graph_files import ROWS, read_half, target_dim
from coevo_ray.store.location import Location
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable

_RECALL_SAMPLE = 1000
_PLAN, _CELLS = "plan.json", "cells.safetensors"
_KEPT_BLOCKS = 2  # held by a search beside one for each thread
Ref = Any  # reference of an object in Ray's store


@dataclass(frozen=True)
class Cuts:
    """Sizes of ranges and blocks; None for those of `Cut.of`."""

    range_rows: int | None = None
    block_rows: int | None = None


def open_blocks(cut: Cut, blocks: Sequence[Ref], cells: Cells, threads: int) -> BlockRows:
    """Rows in the object store, as a search in so many threads reads them; it holds so many blocks and two.

    Raises:
        StoppedError: when a block is read that was made again and is sorted otherwise.
    """

    def fetch(number: int) -> UnitRows:
        block: Any = ray.get(blocks[number])  # a Block
        if not np.array_equal(block.rows, cells.order[cut.blocks[number]]):
            raise StoppedError(
                f"block {number} of a graph's rows was made again, on other processors, and is sorted otherwise",
                "run the same command again: it keeps what was searched",
            )
        unit: UnitRows = block.unit
        return unit

    return BlockRows(cut.rows, cut.dim, cut.block_rows, fetch, threads + _KEPT_BLOCKS)


@dataclass(frozen=True, eq=False)
class Range:
    """A range of rows.

    Attributes:
        row_ids: int64[n].
        fitted, tuned, measured: int64 each, places in it of rows of `Samples`.
    """

    row_ids: Int64Array
    fitted: Int64Array
    tuned: Int64Array
    measured: Int64Array


@dataclass(frozen=True)
class GraphSource:
    """The inputs of a graph, see `build_graph_artifact`, and what its tasks do with them.

    Ray runs a task again where its results are lost: each gives the same from the same arguments, up to the last bits
    of products.
    """

    pool: Location
    targets: RowTable
    parts: Parts
    neighbours: int
    seed: int
    centre: bool
    method: Method
    threads: int
    held_out: bool
    cuts: Cuts

    def begin(self, most: int, draw: bool) -> list[Any]:
        """Task: settles which rows there are, and draws samples of them.

        Args:
            most: number of ranges to return.
            draw: whether samples are needed.

        Returns:
            Small facts; the samples without the rows that centroids are fitted to; the ranges.
        """
        ids = self._row_ids()
        dim = target_dim(self.targets)
        settled = settle_method(len(ids), dim, self.method, device_of(None))
        entry = write_blob(self.parts.folder, ROWS, save_safetensors({"row_ids": ids}))
        cut = Cut.of(len(ids), dim, self.cuts.range_rows, self.cuts.block_rows)
        none = np.zeros(0, dtype=np.int64)
        samples = Samples(none, none, none, np.random.default_rng(0))
        if draw and settled.method == "ivf":
            samples = Samples.draw(len(ids), count_cells(len(ids)), self.seed, _RECALL_SAMPLE)
        ranges = [_range(ids, samples, part) for part in cut.ranges]
        head = {"cut": cut, "settled": settled, "entry": entry}
        return [head, replace(samples, fitted=none), *ranges, *[None] * (most - len(ranges))]

    def _row_ids(self) -> Int64Array:
        """Rows of the graph, int64[N]."""
        ids = self.targets.row_ids()
        if self.held_out:
            return ids
        splits = Pool(self.pool).splits()
        ids = ids[: np.searchsorted(ids, len(splits))]
        training: Int64Array = ids[splits[ids] == TRAIN]
        return training

    @property
    def was_planned(self) -> bool:
        """Whether an earlier attempt wrote a plan."""
        return self.parts.folder.child(_PLAN).is_file()

    def kept_plan(self) -> list[Any]:
        """Task: reads the plan of an earlier attempt: facts and plan, or None for both where its cells are damaged."""
        fields = self.parts.folder.child(_PLAN).read_json()
        parts = self._searched_by(fields)
        cells = parts.arrays(_CELLS)
        if cells is None:
            return [None, None]
        plan = GraphPlan.from_arrays(fields, {name: array.copy() for name, array in cells[0].items()})
        return [_told(plan, parts), plan]

    def _searched_by(self, fields: object) -> Parts:
        return Parts.of(self.parts.folder, self.parts.made_of, fields)

    def write_plan(self, plan: GraphPlan) -> JsonObject:
        """Writes a plan, and tells what `SortedRows` says of it."""
        fields, arrays = plan.arrays()
        parts = self._searched_by(json.loads(json.dumps(fields)))
        write_blob(self.parts.folder, _PLAN, json.dumps(fields).encode())
        parts.write_arrays(_CELLS, arrays)
        return _told(plan, parts)

    def read(self, item: Row, rows: Range) -> list[Any]:
        """Task: reads a range.

        Returns:
            Sums of its chunks where the mean is asked for, with rows that make them useless; float16[n, d].
        """
        raw = read_half(self.targets, rows.row_ids)
        bad, sums = BadRows(len(raw)), None
        if self.centre:
            sums = chunk_sums(raw)
            if not np.isfinite(sums).all():
                bad = BadRows.of(not_finite(raw), rows.row_ids)
        return [{"bad": bad, "sums": sums}, raw]

    def measure(self, item: Row, rows: Range, raw: Float16Array, mean: Float32Array | None) -> list[Any]:
        """Task: finds the scale of each row of a range, and reads those of the samples.

        Returns:
            Its rows without a direction; float32[n]; float32[.., d] of `Range.fitted`, and a pair of `tuned` and
            `measured`.
        """
        scale, bad = scales(raw, mean)
        counted, unit = BadRows.of(bad, rows.row_ids), UnitRows(raw, scale, mean)
        if counted.bad:
            return [{"bad": counted}, None, None, None]
        return [{"bad": counted}, scale, unit.read(rows.fitted), (unit.read(rows.tuned), unit.read(rows.measured))]

    def fit(self, rows: int, samples: Samples, *parts: Any) -> list[Any]:
        """Task: fits centroids to the sample.

        Args:
            rows: N.
            samples: see `begin`.
            parts: of each range its rows of the sample; then of each range those of both halves of the recall sample.

        Returns:
            No facts; float32[C, d]; a pair of the halves, float32[q, d] each.
        """
        half = len(parts) // 2
        sample = np.concatenate(parts[:half])
        tuned, measured = (np.concatenate([pair[i] for pair in parts[half:]]) for i in (0, 1))
        centroids = fit_centroids(sample, count_cells(rows), samples.random, self.threads, device_of(None))
        return [{}, centroids, (tuned, measured)]

    def assign(
        self,
        item: Row,
        raw: Float16Array,
        scale: Float32Array,
        mean: Float32Array | None,
        centroids: Float32Array,
        queries: tuple[Float32Array, Float32Array],
    ) -> list[Any]:
        """Task: finds the nearest centroid of each row of a range, and the range's rows nearest to the recall sample.

        Returns:
            An empty row; int32[n]; `Nearest` of each half of the sample.
        """
        rows, device = UnitRows(raw, scale, mean), device_of(None)
        cell = assign(rows, centroids, self.threads, device)
        near = [look_up(rows, item["start"], each, self.neighbours, self.threads, device) for each in queries]
        return [{}, cell, near]

    def place(self, cut: Cut, plan: Cells | GraphPlan) -> list[Any]:
        """Task: tells where each row goes.

        Returns:
            No facts; for each range int32[n], positions of its rows among the sorted ones.
        """
        positions = (plan.cells if isinstance(plan, GraphPlan) else plan).positions()
        return [{}, *(positions[part] for part in cut.ranges)]

    def sort(self, centroids: Float32Array, *cells: Int32Array) -> list[Any]:
        """Task: sorts the rows' numbers by cell, from those that each range's rows were assigned to; no facts, and
        `Cells`."""
        return [{}, Cells.of(np.concatenate(cells), centroids)]

    def exact(self, cut: Cut) -> list[Any]:
        """Task: writes the plan that compares all pairs, and returns facts and plan."""
        plan = exact_plan(cut.rows, cut.dim, self.neighbours)
        return [self.write_plan(plan), plan]

    def tune(
        self,
        cut: Cut,
        blocks: Sequence[Ref],
        settled: Settled,
        samples: Samples,
        cells: Cells,
        queries: tuple[Float32Array, Float32Array],
        *near: Sequence[Nearest],
    ) -> list[Any]:
        """Task: chooses the number of cells to probe, and writes the plan.

        Returns:
            Facts, None for a plan that is given up; the plan.
        """
        tuned, measured = (merge([each[i] for each in near]) for i in (0, 1))
        sample = RecallSample(samples.tuned, samples.measured, queries[0], tuned, measured)
        rows, threads = open_blocks(cut, blocks, cells, self.threads), self.threads
        plan = ivf_plan(rows, cells, sample, self.neighbours, seed=self.seed, threads=threads, device=device_of(None))
        return [None if settled.falls_back(plan) else self.write_plan(plan), plan]

    def split(
        self, item: Row, raw: Float16Array, scale: Float32Array, mean: Float32Array | None, positions: Int32Array
    ) -> list[Any]:
        """Task: splits a range by block."""
        return [{}, *split(UnitRows(raw, scale, mean), item["start"], positions, item["cut"])]

    def gather(self, item: Row, mean: Float32Array | None, *pieces: Piece) -> list[Any]:
        """Task: makes a block of its pieces."""
        return [{}, gather(pieces, slice(item["start"], item["stop"]), item["cut"], mean)]


def _told(plan: GraphPlan, parts: Parts) -> JsonObject:
    fields = {"method": plan.method, "recall": plan.recall, "parameters": plan.parameters}
    return {"fields": fields, "parts": parts, "entries": [describe(parts.folder, name) for name in (_CELLS, _PLAN)]}


def _range(ids: Int64Array, samples: Samples, part: slice) -> Range:
    inside = []
    for rows in (samples.fitted, samples.tuned, samples.measured):
        low, high = np.searchsorted(rows, [part.start, part.stop])
        inside.append(rows[low:high] - part.start)
    return Range(ids[part].copy(), *inside)
