"""Retrieval: rows of an open pool that lie where an annotation gate's gain remains (arXiv 2506.08070, DESIGN 5.4).

Nothing here depends on how the open rows are cut into parts or in which order they come: products of matrices, whose
last bits do, only find what is then computed pair by pair.
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
from coevo_ray.core.graph.types import Neighbours
from coevo_ray.core.graph.unit_rows import UnitRows

_BLOCK = 1024  # open rows compared at a time
_NEAR = 1e-4  # by how much a product may differ from the same pair's similarity, with much to spare
_FINALISTS = 4  # nearest anchors by a product, of which the nearest pair is taken


def choose_anchors(row_ids: Int64Array, gains: Float32Array, count: int) -> tuple[Int64Array, Float32Array]:
    """Rows of the most gain, ties by row; those of no gain are none.

    Args:
        row_ids: int64[n].
        gains: float32[n].
        count: at most so many.

    Returns:
        int64[a], increasing, and their gains float32[a].
    """
    order = np.lexsort((row_ids, -gains))[:count]
    order = order[gains[order] > 0]
    order = order[np.argsort(row_ids[order])]
    return row_ids[order], gains[order]


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """What open rows are worth.

    Attributes:
        score: float32[n], higher is better, never below 0.
        anchor: int64[n], place of the anchor that a row is nearest to.
        similarity: float32[n], to that anchor.
    """

    score: Float32Array
    anchor: Int64Array
    similarity: Float32Array


@dataclass(frozen=True, eq=False)
class Linear:
    """A calibrated linear classifier, computed in double precision, so that a row's gain does not depend on its batch.

    Attributes:
        weight: float[C, d] of standardised features.
        bias: float[C].
        mean, scale: float[d].
        temperature: logits are divided by it.
    """

    weight: FloatArray
    bias: FloatArray
    mean: FloatArray
    scale: FloatArray
    temperature: float

    def gain(self, features: FloatArray) -> Float32Array:
        """1 - margin of the classes of finite features float[n, d], float32[n]: what a label is expected to bring."""
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
    """What rows are worth, each by itself: gain * max(0, cos(x, a)) ** near, with the anchor a = argmax cos(x, a).

    Args:
        unit: float32[n, d].
        anchors: float32[a, d], of length 1.
        gains: float32[a].
        own: float32[n], gains of the rows themselves; None takes that of each row's nearest anchor.
        near: how much likeness to the anchor counts; 0 for not at all.
    """
    places, similarities = [], []
    compared = torch.from_numpy(np.array(anchors, copy=not anchors.flags.writeable))
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        found = top_k(torch.from_numpy(block) @ compared.T, min(_FINALISTS, len(anchors)))[1].numpy()
        exact = pair_similarities(block, anchors[found])
        place, similarity = first_k(found.astype(np.int32), exact, 1)
        places.append(place[:, 0].astype(np.int64))
        similarities.append(similarity[:, 0])
    anchor = np.concatenate([np.zeros(0, np.int64), *places])
    similarity = np.concatenate([np.zeros(0, np.float32), *similarities])
    gain = gains[anchor] if own is None else own
    score = gain * np.maximum(similarity.astype(np.float64), 0) ** near
    return ScoredRows(score.astype(np.float32), anchor, similarity)


def rank(row_ids: Int64Array, score: Float32Array) -> Int64Array:
    """Places by decreasing score, ties by row: int64[n]."""
    order: Int64Array = np.lexsort((row_ids, -score))
    return order


def more_similar(queries: Float32Array, others: Float32Array, threshold: float) -> BoolArray:
    """Which pairs of unit rows are more similar than a threshold: bool[q, n], whatever they are compared with.

    Args:
        queries: float32[q, d].
        others: float32[n, d].
        threshold: a cosine similarity.
    """
    products = queries @ others.T
    result: BoolArray = products > threshold
    unsure = np.abs(products - np.float32(threshold)) <= _NEAR
    for row in np.flatnonzero(unsure.any(axis=1)):
        columns = np.flatnonzero(unsure[row])
        result[row, columns] = pair_similarities(queries[row : row + 1], others[None, columns])[0] > threshold
    return result


def copy_margin(graph: Neighbours, stray: float) -> float:
    """By how much a copy's similarity to its nearest row must exceed that to the last of its neighbours.

    It is what all but a share of a pool's own rows stay below. A fixed margin would not do: 0.2, with a similarity
    of 0.7 or more, takes 4 % of other images of CIFAR-10 for copies, and 42 % of handwritten digits.

    Args:
        graph: of the pool.
        stray: share of its rows above; 0 for an infinite margin.
    """
    last = graph.similarities[:, -1]
    known = graph.indices[:, -1] >= 0
    if stray == 0 or not known.any():
        return np.inf
    away = graph.similarities[known, 0].astype(np.float64) - last[known]
    return float(np.quantile(away, 1.0 - stray))


def find_copies(
    unit: Float32Array, rows: UnitRows, same: float, margin: float = np.inf, neighbours: int = 16
) -> BoolArray:
    """Which rows are near-duplicates of any of others: bool[n].

    Args:
        unit: float32[n, d].
        rows: those that they are compared with, one or more.
        same: a cosine similarity; more similar rows are copies in any crowd.
        margin: so are those whose similarity to the nearest row exceeds that to the last neighbour by more than this,
        neighbours: of so many (of all, where there are fewer).
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
    """Rows from the top of a ranking, none more similar than `same` to another.

    The result is that of going through the ranking one row at a time: a row is passed over when a row that was picked
    is more similar than `apart`. If the ranking ends before the budget, those passed over fill
    up, in their order.

    Args:
        read: unit rows float32[n, d] at some places of the ranking, increasing.
        count: rows of the ranking, best first.
        budget: rows wanted.
        same: near-duplicates are more similar than this.
        apart: rows of one batch should not be more similar than this, where there are others.

    Returns:
        int64[m], places in the ranking; first those of their own right, then those that fill up.
    """
    picks = _Picks(read)
    passed: list[Int64Array] = []
    for start in range(0, count, _BLOCK):
        if len(picks) >= budget:
            break
        places = np.arange(start, min(count, start + _BLOCK))
        passed.append(picks.take(places, min(same, apart), budget))
    waiting = np.concatenate([np.zeros(0, np.int64), *passed])
    for start in range(0, len(waiting), _BLOCK):
        if len(picks) >= budget:
            break
        picks.take(waiting[start : start + _BLOCK], same, budget)
    return np.array(picks.places, dtype=np.int64)


class _Picks:
    """Rows that were picked so far."""

    def __init__(self, read: Callable[[Int64Array], Float32Array]) -> None:
        self._read = read
        self.places: list[int] = []
        self._parts: list[Float32Array] = []

    def __len__(self) -> int:
        return len(self.places)

    def take(self, places: Int64Array, limit: float, budget: int) -> Int64Array:
        """Picks of some places, one after another, those not near a pick; returns the others that were looked at."""
        unit = self._read(places)
        near = np.zeros(len(places), dtype=np.bool_)
        for part in self._parts:
            near |= more_similar(unit, part, limit).any(axis=1)
        among = more_similar(unit, unit, limit)
        new: list[int] = []
        others: list[int] = []
        for i, place in enumerate(places.tolist()):
            if len(self.places) >= budget:
                break
            if near[i]:
                others.append(place)
                continue
            near |= among[:, i]
            new.append(i)
            self.places.append(place)
        if new:
            joined = bool(self._parts) and len(self._parts[-1]) + len(new) <= _BLOCK
            last = [self._parts.pop()] if joined else []
            self._parts.append(np.concatenate([*last, unit[new]]))
        return np.array(others, dtype=np.int64)
