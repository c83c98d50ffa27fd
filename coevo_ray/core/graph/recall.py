"""Recall of a search on a sample: its true neighbours, from a comparison with all rows, a range of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from coevo_ray.core.arrays import Float32Array, Int32Array, Int64Array, IntArray
from coevo_ray.core.graph.cells import Cells, draw_sample
from coevo_ray.core.graph.rows import Rows
from coevo_ray.core.graph.running_top_k import top_k
from coevo_ray.core.graph.search import (
    SPARE,
    CellSearch,
    as_tensor,
    candidate_similarities,
    first_k,
    without_self,
)
from coevo_ray.core.graph.threads import in_threads

_QUERIES = 256  # of a block; the last bits of products may depend on it
_SAME = 1e-6  # similarities this near are ties: float32 dot products of unit vectors are no finer


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows that a plan by cells is made from.

    Attributes:
        fitted: int64[n], rows that centroids are fitted to.
        tuned: int64[q], rows that the number of cells to probe is chosen on.
        measured: int64[q], rows that recall is measured on.
        random: generator for `fit_centroids`.
    """

    fitted: Int64Array
    tuned: Int64Array
    measured: Int64Array
    random: np.random.Generator

    @classmethod
    def draw(cls, rows: int, cells: int, seed: int, recall_sample: int) -> Samples:
        """Draws them from N rows, each in increasing order.

        Args:
            rows: N.
            cells: number of centroids to fit.
            seed: seed of the samples.
            recall_sample: rows of both halves of the recall sample.
        """
        fitted, random = draw_sample(rows, cells, seed)
        sample = np.random.Generator(np.random.PCG64(seed)).permutation(rows)[:recall_sample].astype(np.int64)
        half = len(sample) // 2
        return cls(fitted, np.sort(sample[:half]), np.sort(sample[half:]), random)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The rows that are nearest to some queries, among all rows or a range of them.

    Attributes:
        rows: int64[q, n], by decreasing product, ties by increasing row; -1 for none.
        products: float32[q, n], by which they were found; -inf for none.
        similarities: float32[q, n], see `search.pair_similarities`; -inf for none.
    """

    rows: Int64Array
    products: Float32Array
    similarities: Float32Array

    def scored(self, own: Int64Array, k: int) -> tuple[Int32Array, Float32Array]:
        """Finds the k nearest other rows by similarity.

        Args:
            own: int64[q], the rows that the queries are.
            k: number of neighbours.

        Returns:
            Rows int32[q, k] and similarities float32[q, k], ordered and padded as in `NeighbourGraph`.
        """
        found = first_k(self.rows.astype(np.int32), self.similarities, k + 1)
        return without_self(*found, own.astype(np.int32))


def look_up(rows: Rows, first: int, queries: Float32Array, k: int, threads: int, device: torch.device) -> Nearest:
    """Compares queries with all rows of a range.

    Args:
        rows: n rows, those from `first` on.
        first: number of the first.
        queries: float32[q, d], rows of length 1.
        k: neighbours that `Nearest.scored` is to find.
        threads: CPU threads.
        device: device of the comparisons.
    """
    searched = CellSearch(rows, Cells.one(len(rows), rows.dim), 1, device)

    def find(block: Float32Array) -> Nearest:
        found = searched.candidates(block, k + 1 + SPARE)
        positions, products = found.positions.cpu().numpy(), found.values.cpu().numpy()
        similarities = candidate_similarities(block, rows, positions)
        return Nearest(np.where(positions >= 0, positions + first, -1), products, similarities)

    blocks = [queries[start : start + _QUERIES] for start in range(0, len(queries), _QUERIES)]
    parts = list(in_threads(find, blocks, threads))
    if not parts:
        none = np.zeros((0, k + 1 + SPARE), dtype=np.float32)
        return Nearest(none.astype(np.int64), none, none)
    return Nearest(*(np.concatenate(each) for each in zip(*map(_arrays, parts), strict=True)))


def merge(ranges: Sequence[Nearest]) -> Nearest:
    """Keeps the nearest of those of successive ranges: the same as those of all their rows at once."""
    rows, products, similarities = (np.concatenate(each, axis=1) for each in zip(*map(_arrays, ranges), strict=True))
    columns = top_k(torch.from_numpy(products), ranges[0].products.shape[1])[1].numpy()
    return Nearest(*(np.take_along_axis(each, columns, axis=1) for each in (rows, products, similarities)))


def _arrays(found: Nearest) -> tuple[Int64Array, Float32Array, Float32Array]:
    return found.rows, found.products, found.similarities


@dataclass(frozen=True, eq=False)
class RecallSample:
    """Sampled rows and their true neighbours.

    Attributes:
        tuned, measured: int64[q] each, see `Samples`.
        queries: float32[q, d], the rows `tuned`.
        near_tuned, near_measured: the rows that are nearest to each.
    """

    tuned: Int64Array
    measured: Int64Array
    queries: Float32Array
    near_tuned: Nearest
    near_measured: Nearest

    def probes_wanted(self, cells: Cells, positions: IntArray, k: int, share: float, device: torch.device) -> int:
        """Returns the least number of nearest cells that hold a share of the true neighbours of `tuned`.

        Args:
            cells: the cells.
            positions: int[N], see `Cells.positions`.
            k: neighbours per row.
            share: in (0, 1].
            device: device of the comparisons.
        """
        true = self.near_tuned.scored(self.tuned, k)[0]
        cell = np.searchsorted(cells.starts, positions[true], side="right") - 1
        likeness = as_tensor(self.queries, device) @ as_tensor(cells.centroids, device).T
        order = likeness.argsort(dim=1, descending=True).cpu().numpy()
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(cells.count)[None, :], axis=1)
        ranks = np.sort(np.take_along_axis(rank, cell, axis=1)[true >= 0])
        return int(ranks[math.ceil(share * len(ranks)) - 1]) + 1


def find_all(searched: CellSearch, positions: IntArray, k: int, threads: int) -> Float32Array:
    """Similarities of the neighbours that a search finds.

    Args:
        searched: the search.
        positions: int[q], positions of the sample among the sorted rows.
        k: neighbours per row.
        threads: CPU threads.

    Returns:
        float32[q, k].
    """
    parts = [positions[start : start + _QUERIES] for start in range(0, len(positions), _QUERIES)]
    found = in_threads(lambda part: searched.neighbours(part, k)[1], parts, threads)
    return np.concatenate(list(found))


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
