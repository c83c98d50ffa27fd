"""Inverted-file cells (IVF): rows grouped around centroids by spherical k-means, so that a search compares few groups.

Spherical k-means: Dhillon & Modha 2001; docs/design.md#graph.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

from coevo_ray.core.arrays import Float32Array, Int32Array, Int64Array
from coevo_ray.core.graph.rows import Rows
from coevo_ray.core.graph.threads import in_threads

CHUNK_ROWS = 8192  # of a product; the last bits of its values may depend on it
_SAMPLE_OF_CELL = 48  # rows of the k-means sample per centroid
_STEPS = 8


@dataclass(frozen=True, eq=False)
class Cells:
    """Rows sorted by cell, and the centroids of the cells.

    Attributes:
        order: int32[N], rows sorted by cell, increasing within a cell.
        starts: int64[C + 1], start of each cell in `order`, then N.
        centroids: float32[C, d], of length 1.
    """

    order: Int32Array
    starts: Int64Array
    centroids: Float32Array

    @property
    def count(self) -> int:
        """Number of cells C, an int."""
        return len(self.centroids)

    @classmethod
    def one(cls, rows: int, dim: int) -> Cells:
        """Makes a single cell of all rows in their own order: order int32[N], centroid float32[1, d] of zeros."""
        order = np.arange(rows, dtype=np.int32)
        return cls(order, np.array([0, rows], dtype=np.int64), np.zeros((1, dim), dtype=np.float32))

    @classmethod
    def train(cls, rows: Rows, count: int, seed: int, threads: int, device: torch.device) -> Cells:
        """Fits centroids by spherical k-means on a sample, then assigns each row to its nearest centroid.

        Args:
            rows: N rows of d values.
            count: C, at most N; cells that stay empty are dropped.
            seed: seed of the sample and of the initial centroids.
            threads: CPU threads; the result does not depend on them.
            device: device of the comparisons.

        Returns:
            Cells of order int32[N] and centroids float32[<= count, d].
        """
        picked, random = draw_sample(len(rows), count, seed)
        centroids = fit_centroids(rows.read(picked), count, random, threads, device)
        return cls.of(assign(rows, centroids, threads, device), centroids)

    @classmethod
    def of(cls, cell: Int32Array, centroids: Float32Array) -> Cells:
        """Sorts rows that were assigned to centroids; cells that stay empty are dropped.

        Args:
            cell: int32[N], nearest centroid of each row.
            centroids: float32[C, d].
        """
        order = np.argsort(cell, kind="stable").astype(np.int32)
        sizes = np.bincount(cell, minlength=len(centroids))
        # Of equal centroids only one has rows; the others would use up a query's probes.
        centroids, sizes = centroids[sizes > 0], sizes[sizes > 0]
        return cls(order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), centroids)

    def positions(self) -> Int32Array:
        """Returns the position of each row among the sorted ones: int32[N]."""
        position = np.empty(len(self.order), dtype=np.int32)
        position[self.order] = np.arange(len(position), dtype=np.int32)
        return position


def draw_sample(rows: int, count: int, seed: int) -> tuple[Int64Array, np.random.Generator]:
    """Draws the rows that centroids are fitted to.

    Args:
        rows: N.
        count: number of centroids, at most N.
        seed: of the sample, and of the generator.

    Returns:
        int64[n], increasing rows, and the generator for `fit_centroids`.
    """
    random = np.random.Generator(np.random.PCG64([seed, 1]))
    picked = random.permutation(rows)[: max(count, min(rows, _SAMPLE_OF_CELL * count))]
    return np.sort(picked), random


def fit_centroids(
    sample: Float32Array, count: int, random: np.random.Generator, threads: int, device: torch.device
) -> Float32Array:
    """Fits centroids by spherical k-means.

    Args:
        sample: float32[n, d], the rows of `draw_sample`, of length 1.
        count: C, number of centroids.
        random: its generator.
        threads: CPU threads; the result does not depend on them.
        device: device of the comparisons.

    Returns:
        float32[C, d], of length 1, in an order in which successive ones are near.
    """
    centroids = sample[random.permutation(len(sample))[:count]].copy()
    chunks = [slice(s, s + CHUNK_ROWS) for s in range(0, len(sample), CHUNK_ROWS)]
    for _ in range(_STEPS):
        nearest = torch.from_numpy(centroids).to(device)
        steps = in_threads(functools.partial(_sums, sample, nearest), chunks, threads)
        sums = np.zeros_like(centroids)
        for part in steps:
            sums += part
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        empty = lengths[:, 0] < 1e-6  # without rows, or with rows that cancel out: restart at a random row
        centroids = np.where(empty[:, None], 0, sums / np.maximum(lengths, 1e-6)).astype(np.float32)
        centroids[empty] = sample[random.integers(len(sample), size=int(empty.sum()))]
    return centroids[_chain(centroids)]


def assign(rows: Rows, centroids: Float32Array, threads: int, device: torch.device) -> Int32Array:
    """Finds the nearest of centroids float32[C, d] for each row: int32[N], the lowest index among ties."""
    nearest = torch.from_numpy(centroids).to(device)
    chunks = [slice(s, s + CHUNK_ROWS) for s in range(0, len(rows), CHUNK_ROWS)]
    parts = in_threads(lambda part: _nearest(rows.read(part), nearest).astype(np.int32), chunks, threads)
    return np.concatenate(list(parts))


def _nearest(block: Float32Array, centroids: torch.Tensor) -> Int64Array:
    nearest = (torch.from_numpy(block).to(centroids.device) @ centroids.T).argmax(dim=1)
    result: Int64Array = nearest.cpu().numpy()
    return result


def _sums(sample: Float32Array, centroids: torch.Tensor, part: slice) -> Float32Array:
    """Sums the rows nearest to each centroid: float32[C, d]; on the CPU, where the order of additions is fixed."""
    block = sample[part]
    cell = torch.from_numpy(_nearest(block, centroids))
    sums = torch.zeros(centroids.shape).index_add_(0, cell, torch.from_numpy(block))
    result: Float32Array = sums.numpy()
    return result


def _chain(centroids: Float32Array) -> Int64Array:
    """Orders centroids greedily so that successive ones are near: rows of a block then probe the same cells."""
    chain, taken = [0], np.zeros(len(centroids), dtype=bool)
    for _ in range(len(centroids) - 1):
        taken[chain[-1]] = True
        likeness = np.einsum("d,bd->b", centroids[chain[-1]], centroids)  # those of all pairs take 16 bytes a row
        likeness[taken] = -np.inf
        chain.append(int(likeness.argmax()))
    return np.array(chain, dtype=np.int64)
