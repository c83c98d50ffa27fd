"""Plan of a neighbour graph's construction: method, cells, probes and measured recall.

A plan is made once; its blocks can then be searched on any node, in any order. See docs/design.md#graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from coevo_ray.core.arrays import AnyArray, Arrays, Float32Array, Int32Array
from coevo_ray.core.graph.cells import Cells, assign, fit_centroids
from coevo_ray.core.graph.recall import RecallSample, Samples, find_all, look_up, measured_recall, merge
from coevo_ray.core.graph.rows import Rows
from coevo_ray.core.graph.search import CellSearch
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
_SMALL_BYTES = 1 << 28


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

    def sort(self, rows: UnitRows) -> UnitRows:
        """Sorts rows by cell for `search`, and converts them to float32[N, d] if that takes at most 256 MiB.

        Args:
            rows: the rows of the plan.
        """
        if self.cells.count > 1:
            rows = rows.sorted_by(self.cells.order)
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
    settled = settle_method(len(rows), rows.dim, method, device)
    if settled.method == "exact":
        return exact_plan(len(rows), rows.dim, k)
    samples = Samples.draw(len(rows), count_cells(len(rows)), seed, recall_sample)
    sample, tuned, measured = (rows.read(each) for each in (samples.fitted, samples.tuned, samples.measured))
    centroids = fit_centroids(sample, count_cells(len(rows)), samples.random, threads, device)
    cells = Cells.of(assign(rows, centroids, threads, device), centroids)
    near = [merge([look_up(rows, 0, each, k, threads, device)]) for each in (tuned, measured)]
    recall = RecallSample(samples.tuned, samples.measured, tuned, *near)
    plan = ivf_plan(RowsInOrder(rows, cells.order), cells, recall, k, seed=seed, threads=threads, device=device)
    return exact_plan(len(rows), rows.dim, k) if settled.falls_back(plan) else plan


def count_cells(rows: int) -> int:
    """Number of cells for N rows, about 2 sqrt(N)."""
    return max(1, min(round(2 * math.sqrt(rows)), rows // 8))


@dataclass(frozen=True)
class Settled:
    """The method that a graph begins with.

    Attributes:
        method: `exact` or `ivf`.
        may_fall_back: a search by cells that misses the recall goal is given up for `exact`.
    """

    method: Literal["exact", "ivf"]
    may_fall_back: bool

    def falls_back(self, plan: GraphPlan) -> bool:
        """Tests whether an `ivf` plan misses the recall goal and has to make way for `exact`."""
        return self.may_fall_back and (plan.recall or 0) < RECALL_GOAL


def settle_method(rows: int, dim: int, method: Method, device: torch.device) -> Settled:
    """Chooses the method by the work of comparing all pairs.

    Args:
        rows: N.
        dim: d.
        method: `auto`, `exact` or `ivf`.
        device: device of the comparisons.

    Raises:
        InputError: there are fewer than two rows.
    """
    if rows < 2:
        raise InputError(f"a neighbour graph needs 2 rows or more, there are {rows}", "give more rows")
    work, limit = float(rows) ** 2 * dim, EXACT_WORK[device.type]
    if method == "exact" or (method == "auto" and work <= limit):
        return Settled("exact", False)
    return Settled("ivf", method == "auto" and work <= _STEEP * limit)


def exact_plan(rows: int, dim: int, k: int) -> GraphPlan:
    """Plan that compares all pairs of N rows of d values."""
    return GraphPlan(k, "exact", Cells.one(rows, dim), 1, 1.0, {"k": k, "dim": dim})


def ivf_plan(
    by_cell: Rows, cells: Cells, sample: RecallSample, k: int, *, seed: int, threads: int, device: torch.device
) -> GraphPlan:
    """Chooses the number of cells to probe.

    Args:
        by_cell: N rows, sorted by cell.
        cells: the cells.
        sample: the recall sample.
        k: neighbours per row.
        seed: seed of cells and sample, for the parameters.
        threads: CPU threads; the plan does not depend on them.
        device: device of the comparisons.
    """
    most = max(1, math.ceil(_MOST_SHARE * cells.count))
    probes, recall = _choose_probes(by_cell, cells, sample, k, most, threads, device)
    parameters = {
        "k": k,
        "dim": by_cell.dim,
        "cells": cells.count,
        "probes": probes,
        "recall_sample": len(sample.measured),
        "recall_goal": RECALL_GOAL,
        "goal_reached": recall is not None and recall >= RECALL_GOAL,
        "seed": seed,
    }
    return GraphPlan(k, "ivf", cells, probes, recall, parameters)


def _choose_probes(
    by_cell: Rows, cells: Cells, sample: RecallSample, k: int, most: int, threads: int, device: torch.device
) -> tuple[int, float | None]:
    """Returns the number of probes and the recall measured with them; None without a sample."""
    if len(sample.measured) == 0:
        return most, None
    positions = cells.positions()
    probes = min(most, sample.probes_wanted(cells, positions, k, _AIM, device)) if len(sample.tuned) else 1
    truth = sample.near_measured.scored(sample.measured, k)[1]
    while True:
        searched = CellSearch(by_cell, cells, probes, device)
        recall = measured_recall(truth, find_all(searched, positions[sample.measured], k, threads))
        if recall >= RECALL_GOAL or probes >= most:
            return probes, recall
        probes = min(most, math.ceil(1.25 * probes))


def device_of(name: str | None) -> torch.device:
    """Returns the device to compare rows on; None takes a GPU if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
