"""Plan of a neighbour graph's construction: method, cells, probes and measured recall.

A plan is made once; its blocks can then be searched on any node, in any order. See docs/design.md#graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from coevo_ray.core.arrays import AnyArray, Arrays, Float32Array, Int32Array, Int64Array
from coevo_ray.core.graph.cells import Cells
from coevo_ray.core.graph.rows import Rows
from coevo_ray.core.graph.search import CellSearch, as_tensor
from coevo_ray.core.graph.threads import in_threads
from coevo_ray.core.graph.unit_rows import RowsInOrder, UnitRows
from coevo_ray.errors import InputError

Method = Literal["auto", "exact", "ivf"]
RECALL_GOAL = 0.98
# Multiplications (rows x rows x dimensions) up to which all pairs are compared: some ten seconds on two cores (34 000
# rows of 256 dimensions) and on a GPU with 50 TFLOP/s in float32 (two million rows).
EXACT_WORK = {"cpu": 3e11, "cuda": 1e15}
_AIM = 0.985  # recall on the sample that probes are chosen on: above the goal, which another sample then seldom misses
_MOST_SHARE = 0.25  # of the cells may be probed; features that need more have no cluster structure
_STEEP = 8  # times EXACT_WORK may be spent on an exact graph where cells do not reach the goal
_SAMPLE_BLOCK = 256
_SMALL_BYTES = 1 << 28
_SAME = 1e-6  # similarities this near are ties: float32 dot products of unit vectors are no finer


@dataclass(frozen=True, eq=False)
class GraphPlan:
    """Everything that a search of any block needs beside the rows.

    Attributes:
        k: neighbours per row.
        method: `exact` or `ivf`.
        cells: the cells; a single one for `exact`.
        probes: number of nearest cells that each row is compared with.
        recall: share of true neighbours found, on a sample; 1 for `exact`, None if not measured.
        parameters: settings and figures of the construction, JSON values.
    """

    k: int
    method: str
    cells: Cells
    probes: int
    recall: float | None
    parameters: dict[str, Any]

    def sort(self, rows: UnitRows, *, in_place: bool = False) -> UnitRows:
        """Sorts rows by cell for `search`, and converts them to float32[N, d] if that takes at most 256 MiB.

        Args:
            rows: the rows of the plan.
            in_place: sort them in their own memory; the former rows and their features are not to be used any more.
        """
        if self.cells.count > 1:
            rows = rows.reordered(self.cells.order) if in_place else rows.sorted_by(self.cells.order)
        return UnitRows(rows.read(slice(None))) if 4 * rows.raw.size <= _SMALL_BYTES else rows

    def search(
        self, rows: Rows, blocks: Sequence[slice], threads: int, device: torch.device
    ) -> Iterator[tuple[Int32Array, Int32Array, Float32Array]]:
        """Yields the neighbours of blocks of sorted rows, in order.

        Args:
            rows: result of `sort`.
            blocks: some of `search.blocks`.
            threads: CPU threads; the result does not depend on them.
            device: device of the comparisons.

        Returns:
            For each block its rows int32[b], their neighbours int32[b, k] and similarities float32[b, k].
        """
        searched = CellSearch(rows, self.cells, self.probes, device)

        def find(block: slice) -> tuple[Int32Array, Int32Array, Float32Array]:
            return self.cells.order[block], *searched.neighbours(block, self.k)

        return in_threads(find, blocks, threads if device.type == "cpu" else 1)

    def arrays(self) -> tuple[dict[str, Any], Arrays]:
        """Returns JSON fields, and arrays by name: order int32[N], starts int64[C + 1], centroids float32[C, d]."""
        fields: dict[str, Any] = {
            "k": self.k,
            "method": self.method,
            "probes": self.probes,
            "recall": self.recall,
            "parameters": self.parameters,
        }
        cells: Arrays = {
            "order": self.cells.order,
            "starts": self.cells.starts,
            "centroids": self.cells.centroids,
        }
        return fields, cells

    @classmethod
    def from_arrays(cls, fields: Mapping[str, Any], arrays: Mapping[str, AnyArray]) -> GraphPlan:
        """Rebuilds a plan from fields and arrays of `arrays`, the cells' order int32[N] among them."""
        return cls(cells=Cells(arrays["order"], arrays["starts"], arrays["centroids"]), **fields)


def make_plan(
    rows: Rows, k: int, method: Method, *, seed: int, recall_sample: int, threads: int, device: torch.device
) -> GraphPlan:
    """Chooses the method and, for `ivf`, the number of cells to probe.

    On half of a sample, finds how many nearest cells hold 98.5 % of the true neighbours; on the other half, measures
    the recall of a search and adds cells until it reaches `RECALL_GOAL`, up to a quarter of the cells. If the goal is
    missed, `auto` falls back to `exact` where that costs at most eight times `EXACT_WORK`.

    Args:
        rows: N rows, read as float32[n, d].
        k: neighbours per row.
        method: `auto`, `exact` or `ivf`.
        seed: seed of cells and sample.
        recall_sample: rows of the sample; 0 probes a quarter of the cells without measuring.
        threads: CPU threads; the plan does not depend on them.
        device: device of the comparisons; `auto` depends on it.

    Raises:
        InputError: there are fewer than two rows.
    """
    if len(rows) < 2:
        raise InputError(f"a neighbour graph needs 2 rows or more, there are {len(rows)}", "give more rows")
    work, limit = float(len(rows)) ** 2 * rows.dim, EXACT_WORK[device.type]
    if method == "exact" or (method == "auto" and work <= limit):
        return _exact_plan(rows, k)
    count = max(1, min(round(2 * math.sqrt(len(rows))), len(rows) // 8))
    cells = Cells.train(rows, count, seed, threads, device)
    count = cells.count
    random = np.random.Generator(np.random.PCG64(seed))
    sample = random.permutation(len(rows))[:recall_sample].astype(np.int64)
    most = max(1, math.ceil(_MOST_SHARE * count))
    probes, recall = _Tuning(rows, cells, k, threads, device).choose(sample, most)
    if method == "auto" and (recall or 0) < RECALL_GOAL and work <= _STEEP * limit:
        return _exact_plan(rows, k)
    parameters = {
        "k": k,
        "dim": rows.dim,
        "cells": count,
        "probes": probes,
        "recall_sample": len(sample) - len(sample) // 2,
        "recall_goal": RECALL_GOAL,
        "goal_reached": recall is not None and recall >= RECALL_GOAL,
        "seed": seed,
    }
    return GraphPlan(k, "ivf", cells, probes, recall, parameters)


def _exact_plan(rows: Rows, k: int) -> GraphPlan:
    return GraphPlan(k, "exact", Cells.one(len(rows), rows.dim), 1, 1.0, {"k": k, "dim": rows.dim})


@dataclass(frozen=True, eq=False)
class _Tuning:
    """Search for the number of cells to probe."""

    rows: Rows
    cells: Cells
    k: int
    threads: int
    device: torch.device

    def choose(self, sample: Int64Array, most: int) -> tuple[int, float | None]:
        """Returns the number of probes and the recall measured with them; None without a sample."""
        if len(sample) == 0:
            return most, None
        tuned, measured = np.sort(sample[: len(sample) // 2]), np.sort(sample[len(sample) // 2 :])
        probes = min(most, self._expected(tuned)) if len(tuned) else 1
        truth = exact_neighbours(self.rows, measured, self.k, self.threads, self.device)[1]
        by_cell, position = RowsInOrder(self.rows, self.cells.order), self._positions()
        while True:
            searched = CellSearch(by_cell, self.cells, probes, self.device)
            recall = measured_recall(truth, self._found(searched, position[measured]))
            if recall >= RECALL_GOAL or probes >= most:
                return probes, recall
            probes = min(most, math.ceil(1.25 * probes))

    def _expected(self, sample: Int64Array) -> int:
        """Returns the least number of nearest cells that hold a share `_AIM` of the sample's true neighbours."""
        true = exact_neighbours(self.rows, sample, self.k, self.threads, self.device)[0]
        cell = np.searchsorted(self.cells.starts, self._positions()[true], side="right") - 1
        likeness = as_tensor(self.rows.read(sample), self.device) @ as_tensor(self.cells.centroids, self.device).T
        order = likeness.argsort(dim=1, descending=True).cpu().numpy()
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(self.cells.count)[None, :], axis=1)
        ranks = np.sort(np.take_along_axis(rank, cell, axis=1)[true >= 0])
        return int(ranks[math.ceil(_AIM * len(ranks)) - 1]) + 1

    def _positions(self) -> Int64Array:
        """Returns the position of each row among the sorted ones: int64[N]."""
        position = np.empty(len(self.rows), dtype=np.int64)
        position[self.cells.order] = np.arange(len(position))
        return position

    def _found(self, searched: CellSearch, positions: Int64Array) -> Float32Array:
        parts = [positions[s : s + _SAMPLE_BLOCK] for s in range(0, len(positions), _SAMPLE_BLOCK)]
        found = in_threads(lambda part: searched.neighbours(part, self.k)[1], parts, self.threads)
        return np.concatenate(list(found))


def exact_neighbours(
    rows: Rows, sample: Int64Array, k: int, threads: int, device: torch.device
) -> tuple[Int32Array, Float32Array]:
    """Finds the k nearest rows of some rows by comparison with all rows.

    Args:
        rows: N rows.
        sample: int64[q], rows to look up.
        k: neighbours per row.
        threads: CPU threads.
        device: device of the comparisons.

    Returns:
        Indices int32[q, k] and similarities float32[q, k], ordered as in `NeighbourGraph`.
    """
    searched = CellSearch(rows, Cells.one(len(rows), rows.dim), 1, device)
    parts = [sample[s : s + _SAMPLE_BLOCK] for s in range(0, len(sample), _SAMPLE_BLOCK)]
    found = list(in_threads(lambda part: searched.neighbours(part, k), parts, threads))
    return np.concatenate([i for i, _ in found]), np.concatenate([s for _, s in found])


def measured_recall(true_similarities: Float32Array, found_similarities: Float32Array) -> float:
    """Computes recall: the share of neighbours found that are as near as the true ones, ties with the last included.

    Args:
        true_similarities: float32[q, k] of an exact search, decreasing.
        found_similarities: float32[q, k] of the search to measure.

    Returns:
        A share in [0, 1].
    """
    exists = true_similarities > -1.0
    farthest = np.where(exists, true_similarities, np.inf).min(axis=1, keepdims=True)
    hits = (found_similarities >= farthest - _SAME).sum()
    return float(min(1.0, hits / max(1, exists.sum())))


def device_of(name: str | None) -> torch.device:
    """Returns the device to compare rows on; None takes a GPU if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
