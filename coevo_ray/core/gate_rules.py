"""Array rules of the annotation gate (Info-Coevolution, arXiv 2506.08070; DESIGN section 5.4).

Everything works on whole arrays over the neighbour graph; nothing queries an index inside a round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coevo_ray.core.graph import NeighbourGraph
from coevo_ray.core.rows import hash_rows

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Beliefs:
    """What is believed of N rows.

    Attributes:
        distribution: float32[N, C]; one-hot for labelled rows.
        best: int64[N], most probable class.
        confidence: float64[N], chance-corrected; 1 for labelled rows.
    """

    distribution: Float32Array
    best: Int64Array
    confidence: Float64Array


def chance_corrected(p_max: Float64Array, classes: int) -> Float64Array:
    """(p_max - 1/C) / (1 - 1/C): 0 for a guess, 1 for certainty."""
    corrected: Float64Array = (p_max - 1.0 / classes) / (1.0 - 1.0 / classes)
    return np.clip(corrected, 0.0, 1.0)


def beliefs(probabilities: Float32Array, labels: Int64Array) -> Beliefs:
    """Joins the model's predictions with the labels that are there.

    Args:
        probabilities: float32[N, C].
        labels: int64[N], -1 without one.
    """
    classes = probabilities.shape[1]
    known = labels >= 0
    distribution = np.where(known[:, None], 0.0, probabilities).astype(np.float32)
    distribution[np.flatnonzero(known), labels[known]] = 1.0
    best = distribution.argmax(axis=1)
    confidence = chance_corrected(distribution.max(axis=1).astype(np.float64), classes)
    return Beliefs(distribution, best.astype(np.int64), confidence)


def neighbour_vote(graph: NeighbourGraph, own: Beliefs, neighbours: int, min_similarity: float) -> Float64Array:
    """Per class, the sum over neighbours of confidence x similarity; not normalised.

    Args:
        graph: neighbours of all rows.
        own: beliefs of all rows.
        neighbours: how many of the nearest count.
        min_similarity: those below do not count.

    Returns:
        float64[N, C]; a row of zeros where no neighbour counts.
    """
    rows = np.arange(graph.rows)
    votes = np.zeros((graph.rows, own.distribution.shape[1]))
    for column in range(min(neighbours, graph.indices.shape[1])):
        index, similarity = graph.indices[:, column], graph.similarities[:, column].astype(np.float64)
        counts = (index >= 0) & (similarity >= min_similarity)
        votes[rows, own.best[index]] += np.where(counts, own.confidence[index] * similarity, 0.0)
    return votes


def normalised_vote(votes: Float64Array) -> tuple[Int64Array, Float64Array]:
    """The neighbours' prediction: best class int64[N] and its share float64[N] (0 without votes)."""
    total = votes.sum(axis=1)
    share = np.divide(votes.max(axis=1), total, out=np.zeros(len(votes)), where=total > 0)
    return votes.argmax(axis=1).astype(np.int64), share


def fuse(
    confidence_a: Float64Array, class_a: Int64Array, confidence_b: Float64Array, class_b: Int64Array
) -> tuple[Float64Array, Int64Array]:
    """Fuses two predictions as published.

    With confidences hi >= lo: hi alone if lo <= 0.5; same class: hi lo / (hi lo + (1 - hi)(1 - lo)); different class:
    hi (1 - lo) / (hi (1 - lo) + (1 - hi) lo), and the class of the surer one.

    Returns:
        Confidence float64[N] and class int64[N].
    """
    a_first = confidence_a >= confidence_b
    hi, lo = np.maximum(confidence_a, confidence_b), np.minimum(confidence_a, confidence_b)
    best = np.where(a_first, class_a, class_b)
    other = np.where(class_a == class_b, lo, 1.0 - lo)
    top, bottom = hi * other, (1.0 - hi) * (1.0 - other)
    # Two certain opposites (0 / 0) leave no certainty.
    fused = np.divide(top, top + bottom, out=np.full(len(hi), 0.5), where=top + bottom > 0)
    return np.where(lo <= 0.5, hi, fused), best.astype(np.int64)


def published_gain(graph: NeighbourGraph, own: Beliefs, neighbours: int, min_similarity: float) -> Float64Array:
    """1 - fused confidence of the model's and the neighbours' prediction, float64[N]."""
    vote_class, vote_share = normalised_vote(neighbour_vote(graph, own, neighbours, min_similarity))
    fused, _ = fuse(own.confidence, own.best, vote_share, vote_class)
    return 1.0 - fused


def margin_gain(graph: NeighbourGraph, own: Beliefs, neighbours: int, min_similarity: float) -> Float64Array:
    """1 - (first - second probability) of the fused class distribution, float64[N].

    The model's distribution p and the neighbours' normalised vote v are averaged, v with a weight s in [0, 1]: the
    vote's mass over the number of neighbours, so that few, distant or unsure neighbours say little. A row without
    neighbours keeps p.
    """
    votes = neighbour_vote(graph, own, neighbours, min_similarity)
    weight = votes.sum(axis=1, keepdims=True) / neighbours
    share = np.divide(votes, votes.sum(axis=1, keepdims=True), out=np.zeros_like(votes), where=weight > 0)
    fused = (own.distribution + weight * share) / (1.0 + weight)
    top = np.partition(fused, -2, axis=1)
    gain: Float64Array = 1.0 - (top[:, -1] - top[:, -2])
    return gain


def draw_in_proportion(gain: Float64Array, rows: Int64Array, count: int, seed: int, round_: int) -> Int64Array:
    """Draws rows without replacement with probability proportional to gain (Gumbel top-k: exact, linear).

    Args:
        gain: float64[N].
        rows: int64[n] that may be drawn; those without gain come last.
        count: at most n.
        seed, round_: the draw is a function of them.
    """
    bits = hash_rows(rows, seed * 1_000_003 + round_)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    with np.errstate(divide="ignore"):
        keys = np.log(np.maximum(gain[rows], 0.0)) - np.log(-np.log(uniform))
    order = np.lexsort((rows, -keys)) if count >= len(rows) else np.argpartition(-keys, count - 1)
    return np.sort(rows[order[:count]])


def draw_diverse(
    gain: Float64Array, rows: Int64Array, count: int, graph: NeighbourGraph, neighbours: int, min_similarity: float
) -> Int64Array:
    """Takes rows from the top of the gain, but none that has a better pick among its near neighbours.

    Where too few rows remain so, the ones passed over fill up by gain.

    Args:
        gain: float64[N].
        rows: int64[n] that may be taken.
        count: at most n.
        graph: neighbours.
        neighbours, min_similarity: which neighbours are near.
    """
    order = rows[np.lexsort((rows, -gain[rows]))]
    near = (graph.similarities[:, :neighbours] > min_similarity) & (graph.indices[:, :neighbours] >= 0)
    passed_over = np.zeros(graph.rows, dtype=bool)
    picked: list[int] = []
    for row in order.tolist():
        if len(picked) == count:
            break
        if not passed_over[row]:
            picked.append(row)
            passed_over[graph.indices[row, :neighbours][near[row]]] = True
    if len(picked) < count:
        rest = order[~np.isin(order, picked)]
        picked += rest[: count - len(picked)].tolist()
    return np.sort(np.array(picked, dtype=np.int64))
