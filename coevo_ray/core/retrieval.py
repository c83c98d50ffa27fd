"""Retrieval: rows of an open pool near the rows with most remaining gain (Info-Coevolution, arXiv 2506.08070).

No result depends on the partition or the order of the open rows: matrix products, whose last bits do, only find
candidates, whose similarities are then computed pair by pair. See docs/design.md#retrieval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from coevo_ray.core.arrays import BoolArray, Float32Array, FloatArray, Int64Array
from coevo_ray.core.gate.rules import margin_gain
from coevo_ray.core.graph.cells import Cells
from coevo_ray.core.graph.running_top_k import top_k
from coevo_ray.core.graph.search import CellSearch, first_k, pair_similarities
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.graph.unit_rows import UnitRows

_BLOCK = 1024  # open rows compared at a time
_NEAR = 1e-4  # generous bound on the difference of a matrix product from the pair's similarity
_FINALISTS = 4  # nearest anchors by matrix product, among which the nearest pair decides


def choose_anchors(row_ids: Int64Array, gains: Float32Array, count: int) -> tuple[Int64Array, Float32Array]:
    """Chooses the rows with the largest positive gains; ties go to the lower row_id.

    Args:
        row_ids: int64[n].
        gains: float32[n].
        count: largest number of anchors.

    Returns:
        row_ids int64[a], increasing, and their gains float32[a].

    Examples:
        >>> rows, gains = choose_anchors(np.array([4, 7, 9]), np.array([0.0, 0.5, 0.2], dtype=np.float32), count=2)
        >>> rows.tolist()
        [7, 9]
    """
    order = np.lexsort((row_ids, -gains))[:count]
    order = order[gains[order] > 0]
    order = order[np.argsort(row_ids[order])]
    return row_ids[order], gains[order]


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """Scores of open rows.

    Attributes:
        score: float32[n] >= 0, higher is better.
        anchor: int64[n], index of each row's nearest anchor.
        similarity: float32[n], cosine similarity to that anchor.
    """

    score: Float32Array
    anchor: Int64Array
    similarity: Float32Array


@dataclass(frozen=True, eq=False)
class Linear:
    """A calibrated linear classifier in double precision, so that a row's gain does not depend on its batch.

    Attributes:
        weight: float[C, d], on standardised features.
        bias: float[C].
        mean, scale: float[d], of the features.
        temperature: divisor of the logits.
    """

    weight: FloatArray
    bias: FloatArray
    mean: FloatArray
    scale: FloatArray
    temperature: float

    def gain(self, features: FloatArray) -> Float32Array:
        """Computes the expected gain of a label, 1 - margin of the class distribution (docs/design.md#gate-gain).

        Args:
            features: float[n, d], finite.

        Returns:
            float32[n] in [0, 1].
        """
        x = (features.astype(np.float64) - self.mean) / self.scale
        logits = (x @ self.weight.T.astype(np.float64) + self.bias) / self.temperature
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return margin_gain(weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def score_rows(
    unit: Float32Array,
    anchors: Float32Array,
    gains: Float32Array,
    own: Float32Array | None = None,
    near: float = 1.0,
) -> ScoredRows:
    """Scores rows independently: gain * max(0, cos(x, a)) ** near, with a the anchor nearest to x.

    Args:
        unit: float32[n, d], of length 1.
        anchors: float32[a, d], of length 1.
        gains: float32[a], of the anchors.
        own: float32[n], gains of the rows themselves; None takes that of each row's nearest anchor.
        near: exponent of the similarity to the anchor; 0 ignores it.

    Returns:
        Scores float32[n], nearest anchors int64[n] and similarities float32[n].
    """
    nearest, similarities = [], []
    compared = torch.from_numpy(np.array(anchors, copy=not anchors.flags.writeable))
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        found = top_k(torch.from_numpy(block) @ compared.T, min(_FINALISTS, len(anchors)))[1].numpy()
        exact = pair_similarities(block, anchors[found])
        first, similarity = first_k(found.astype(np.int32), exact, 1)
        nearest.append(first[:, 0].astype(np.int64))
        similarities.append(similarity[:, 0])
    anchor = np.concatenate([np.zeros(0, np.int64), *nearest])
    similarity = np.concatenate([np.zeros(0, np.float32), *similarities])
    gain = gains[anchor] if own is None else own
    score = gain * np.maximum(similarity.astype(np.float64), 0) ** near
    return ScoredRows(score.astype(np.float32), anchor, similarity)


def rank(row_ids: Int64Array, score: Float32Array) -> Int64Array:
    """Orders rows by decreasing score float32[n], ties by row_id int64[n]: positions int64[n]."""
    order: Int64Array = np.lexsort((row_ids, -score))
    return order


def more_similar(queries: Float32Array, others: Float32Array, threshold: float) -> BoolArray:
    """Marks pairs of unit rows that are more similar than a threshold; a pair's result does not depend on the others.

    Args:
        queries: float32[q, d], of length 1.
        others: float32[n, d], of length 1.
        threshold: a cosine similarity.

    Returns:
        bool[q, n].
    """
    products = queries @ others.T
    result: BoolArray = products > threshold
    unsure = np.abs(products - np.float32(threshold)) <= _NEAR
    for row in np.flatnonzero(unsure.any(axis=1)):
        columns = np.flatnonzero(unsure[row])
        result[row, columns] = pair_similarities(queries[row : row + 1], others[None, columns])[0] > threshold
    return result


def copy_margin(graph: NeighbourGraph, stray: float) -> float:
    """Computes the excess of a copy's similarity to its nearest row over that to its last neighbour.

    It is the 1 - `stray` quantile of that excess over the pool's own rows. A fixed margin would not do: 0.2, together
    with a similarity of 0.7, took 4 % of unrelated CIFAR-10 images for copies, and 42 % of handwritten digits.

    Args:
        graph: neighbours of the pool's rows, similarities float[N, k].
        stray: share of the pool's rows above the margin; 0 gives an infinite margin.
    """
    last = graph.similarities[:, -1]
    full = graph.indices[:, -1] >= 0
    if stray == 0 or not full.any():
        return np.inf
    excess = graph.similarities[full, 0].astype(np.float64) - last[full]
    return float(np.quantile(excess, 1.0 - stray))


def find_copies(
    unit: Float32Array, rows: UnitRows, same: float, margin: float = np.inf, neighbours: int = 16
) -> BoolArray:
    """Marks rows that are near-duplicates of some others.

    Args:
        unit: float32[n, d], of length 1.
        rows: one or more rows to compare with.
        same: cosine similarity to the nearest row above which a row is a copy.
        margin: a row is also a copy if that similarity exceeds the one to its last neighbour by more than this.
        neighbours: number of nearest rows, the last of which the margin refers to; cut to the number of rows.

    Returns:
        bool[n].
    """
    search = CellSearch(rows, Cells.one(len(rows), rows.dim), 1, torch.device("cpu"))
    count = min(neighbours, len(rows)) if margin < np.inf else 1
    copies = np.zeros(len(unit), dtype=np.bool_)
    for start in range(0, len(unit), _BLOCK):
        near = search.nearest(unit[start : start + _BLOCK], count)[1]
        first, last = near[:, 0], near[:, -1].astype(np.float64)
        copies[start : start + _BLOCK] = (first > same) | (first - last > margin)
    return copies


def choose(
    read: Callable[[Int64Array], Float32Array],
    count: int,
    budget: int,
    *,
    same: float,
    apart: float = 1.0,
) -> Int64Array:
    """Picks rows from the top of a ranking, no two of them more similar than `same`.

    Equals a loop over the ranking that skips a row if a picked row is more similar than `apart`. If the ranking ends
    before the budget is met, skipped rows are picked in their order, as far as `same` allows.

    Args:
        read: positions in the ranking, int64[n], increasing -> unit rows float32[n, d].
        count: number of rows of the ranking, best first.
        budget: number of rows to pick.
        same: similarity above which rows are near-duplicates.
        apart: similarity that picks stay below while there are other rows.

    Returns:
        int64[m], positions in the ranking: first those picked at once, then those skipped before.
    """
    picks = _Picks(read)
    skipped: list[Int64Array] = []
    for start in range(0, count, _BLOCK):
        if len(picks) >= budget:
            break
        positions = np.arange(start, min(count, start + _BLOCK))
        skipped.append(picks.take(positions, min(same, apart), budget))
    waiting = np.concatenate([np.zeros(0, np.int64), *skipped])
    for start in range(0, len(waiting), _BLOCK):
        if len(picks) >= budget:
            break
        picks.take(waiting[start : start + _BLOCK], same, budget)
    return np.array(picks.positions, dtype=np.int64)


class _Picks:
    """The rows picked so far."""

    def __init__(self, read: Callable[[Int64Array], Float32Array]) -> None:
        self._read = read
        self.positions: list[int] = []
        self._parts: list[Float32Array] = []

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, positions: Int64Array, limit: float, budget: int) -> Int64Array:
        """Picks those of some positions int64[n] that are not near a pick, in order; returns the skipped, int64[s]."""
        unit = self._read(positions)
        near = np.zeros(len(positions), dtype=np.bool_)
        for part in self._parts:
            near |= more_similar(unit, part, limit).any(axis=1)
        among = more_similar(unit, unit, limit)
        new: list[int] = []
        others: list[int] = []
        for i, position in enumerate(positions.tolist()):
            if len(self.positions) >= budget:
                break
            if near[i]:
                others.append(position)
                continue
            near |= among[:, i]
            new.append(i)
            self.positions.append(position)
        if new:
            joined = bool(self._parts) and len(self._parts[-1]) + len(new) <= _BLOCK
            last = [self._parts.pop()] if joined else []
            self._parts.append(np.concatenate([*last, unit[new]]))
        return np.array(others, dtype=np.int64)
