"""How a neighbour graph is built: by which method, over which cells, and with what recall.

A plan is made once; its blocks can then be searched by anyone, anywhere, in any order.
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
from coevo_ray.core.graph.search import CellSearch, as_tensor
from coevo_ray.core.graph.threads import in_threads
from coevo_ray.core.graph.unit_rows import UnitRows
from coevo_ray.errors import InputError

Method = Literal["auto", "exact", "ivf"]
RECALL_GOAL = 0.98
# Products (rows x rows x dimensions) up to which all pairs are compared: some ten seconds on two cores (34 000 rows of
# 256 dimensions), and on a GPU with 50 TFLOP/s in float32 (two million).
EXACT_WORK = {"cpu": 3e11, "cuda": 1e15}
_AIM = 0.985  # of the sample that the probes are chosen on, so that another one does not fall below the goal by chance
_MOST_SHARE = 0.25  # of the cells; who needs more has no cells in the features
_STEEP = 8  # times EXACT_WORK, for features without cells
_SAMPLE_BLOCK = 256
_SMALL_BYTES = 1 << 28
_SAME = 1e-6  # similarities this near are ties: float32 dot products of unit vectors are no finer


@dataclass(frozen=True, eq=False)
class GraphPlan:
    """All that a search of any block needs beside the rows.

    Attributes:
        k: neighbours of a row.
        method: `exact` or `ivf`.
        cells: one cell for `exact`.
        probes: cells that each row looks at.
        recall: share of the true neighbours that are found, on a sample; 1 for exact, None if it was not measured.
        parameters: how it came about, JSON-able.
    """

    k: int
    method: str
    cells: Cells
    probes: int
    recall: float | None
    parameters: dict[str, Any]

    def sort(self, rows: UnitRows) -> UnitRows:
        """The rows as `search` wants them: those of a cell together, and as float32 where that is not much."""
        rows = rows if self.cells.count == 1 else rows.sorted_by(self.cells.order)
        return UnitRows(rows.read(slice(None))) if 4 * rows.raw.size <= _SMALL_BYTES else rows

    def search(
        self, rows: UnitRows, blocks: Sequence[slice], threads: int, device: torch.device
    ) -> Iterator[tuple[Int32Array, Int32Array, Float32Array]]:
        """Neighbours of blocks of sorted rows, in order.

        Args:
            rows: what `sort` gave.
            blocks: some of `graph_search.blocks`.
            threads: CPU threads; the result is the same for any number of them.
            device: where rows are compared.

        Returns:
            For each block its rows int32[b], their neighbours int32[b, k] and similarities float32[b, k].
        """
        searched = CellSearch(rows, self.cells, self.probes, device)

        def find(block: slice) -> tuple[Int32Array, Int32Array, Float32Array]:
            return self.cells.order[block], *searched.neighbours(block, self.k)

        return in_threads(find, blocks, threads if device.type == "cpu" else 1)

    def arrays(self) -> tuple[dict[str, Any], Arrays]:
        """For saving without pickle: JSON-able fields, and the arrays by name."""
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
        """The reverse of `arrays`."""
        return cls(cells=Cells(arrays["order"], arrays["starts"], arrays["centroids"]), **fields)


def make_plan(
    rows: UnitRows, k: int, method: Method, *, seed: int, recall_sample: int, threads: int, device: torch.device
) -> GraphPlan:
    """Chooses the method, and for cells how many of them are looked at.

    Half of a sample tells how many cells hold the share of true neighbours that is aimed at; on the other half the
    recall is measured by searching, and more cells are taken until it is `RECALL_GOAL`. A quarter of the cells is the
    most; `auto` then compares all pairs where that is not too much work.

    Args:
        rows: N rows.
        k: neighbours of a row.
        method: `auto`, `exact` or `ivf`.
        seed: of cells and sample.
        recall_sample: rows of the sample; 0 takes a quarter of the cells unmeasured.
        threads: CPU threads; the plan is the same for any number of them.
        device: where rows are compared; `auto` depends on it.

    Raises:
        InputError: fewer than two rows.
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


def _exact_plan(rows: UnitRows, k: int) -> GraphPlan:
    return GraphPlan(k, "exact", Cells.one(len(rows), rows.dim), 1, 1.0, {"k": k, "dim": rows.dim})


@dataclass(frozen=True, eq=False)
class _Tuning:
    """Finds how many cells must be looked at."""

    rows: UnitRows
    cells: Cells
    k: int
    threads: int
    device: torch.device

    def choose(self, sample: Int64Array, most: int) -> tuple[int, float | None]:
        """Probes, and the recall that was measured with them; None without a sample."""
        if len(sample) == 0:
            return most, None
        tuned, measured = np.sort(sample[: len(sample) // 2]), np.sort(sample[len(sample) // 2 :])
        probes = min(most, self._expected(tuned)) if len(tuned) else 1
        truth = exact_neighbours(self.rows, measured, self.k, self.threads, self.device)[1]
        by_cell, place = self.rows.sorted_by(self.cells.order), self._places()
        while True:
            searched = CellSearch(by_cell, self.cells, probes, self.device)
            recall = measured_recall(truth, self._found(searched, place[measured]))
            if recall >= RECALL_GOAL or probes >= most:
                return probes, recall
            probes = min(most, math.ceil(1.25 * probes))

    def _expected(self, sample: Int64Array) -> int:
        """The fewest nearest cells that hold the share of the sample's true neighbours that is aimed at."""
        true = exact_neighbours(self.rows, sample, self.k, self.threads, self.device)[0]
        cell = np.searchsorted(self.cells.starts, self._places()[true], side="right") - 1
        likeness = as_tensor(self.rows.read(sample), self.device) @ as_tensor(self.cells.centroids, self.device).T
        order = likeness.argsort(dim=1, descending=True).cpu().numpy()
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(self.cells.count)[None, :], axis=1)
        ranks = np.sort(np.take_along_axis(rank, cell, axis=1)[true >= 0])
        return int(ranks[math.ceil(_AIM * len(ranks)) - 1]) + 1

    def _places(self) -> Int64Array:
        """Where each row is among the sorted ones."""
        place = np.empty(len(self.rows), dtype=np.int64)
        place[self.cells.order] = np.arange(len(place))
        return place

    def _found(self, searched: CellSearch, places: Int64Array) -> Float32Array:
        parts = [places[s : s + _SAMPLE_BLOCK] for s in range(0, len(places), _SAMPLE_BLOCK)]
        found = in_threads(lambda part: searched.neighbours(part, self.k)[1], parts, self.threads)
        return np.concatenate(list(found))


def exact_neighbours(
    rows: UnitRows, sample: Int64Array, k: int, threads: int, device: torch.device
) -> tuple[Int32Array, Float32Array]:
    """The k nearest rows of some rows, by comparing with all rows.

    Args:
        rows: N rows.
        sample: int64[q], which of them.
        k: neighbours of a row.
        threads: CPU threads.
        device: where rows are compared.

    Returns:
        Indices int32[q, k] and similarities float32[q, k], ordered as in `NeighbourGraph`.
    """
    searched = CellSearch(rows, Cells.one(len(rows), rows.dim), 1, device)
    parts = [sample[s : s + _SAMPLE_BLOCK] for s in range(0, len(sample), _SAMPLE_BLOCK)]
    found = list(in_threads(lambda part: searched.neighbours(part, k), parts, threads))
    return np.concatenate([i for i, _ in found]), np.concatenate([s for _, s in found])


def measured_recall(true_similarities: Float32Array, found_similarities: Float32Array) -> float:
    """Share of found neighbours that are as near as the true ones; a tie with the farthest true one counts.

    Args:
        true_similarities: float32[q, k] of an exact search, decreasing.
        found_similarities: float32[q, k] of the search to judge.
    """
    exists = true_similarities > -1.0
    farthest = np.where(exists, true_similarities, np.inf).min(axis=1, keepdims=True)
    hits = (found_similarities >= farthest - _SAME).sum()
    return float(min(1.0, hits / max(1, exists.sum())))


def device_of(name: str | None) -> torch.device:
    """The device to compare rows on; None takes a GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
