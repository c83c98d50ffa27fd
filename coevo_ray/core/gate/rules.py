"""Rules of the annotation gate on arrays: votes, fusion and gain (arXiv 2506.08070; docs/design.md#gate-gain).

Sums and products are taken in float64, so that gains agree with a row-by-row evaluation to float32's last digits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float64Array, FloatArray, Int64Array, IntArray


class Vote(NamedTuple):
    """The neighbours' prediction for n rows.

    Attributes:
        distribution: float64[n, C], the share of each class; zeros where no neighbour votes.
        best: int64[n], class of the largest share, the lowest of several; 0 where no neighbour votes.
        share: float64[n], its share; 0 where no neighbour votes.
        mass: float64[n], the sum of confidence x similarity over the neighbours.
    """

    distribution: Float64Array
    best: Int64Array
    share: Float64Array
    mass: Float64Array


def chance_corrected(p_max: FloatArray, classes: int) -> Float64Array:
    """(p_max - 1/C) / (1 - 1/C): 0 for a guess, 1 for certainty.

    Args:
        p_max: float[n], probability of the predicted class.
        classes: C, 2 or more.
    """
    chance = 1.0 / classes
    corrected: Float64Array = (p_max.astype(np.float64) - chance) / (1.0 - chance)
    return np.clip(corrected, 0.0, 1.0)


def effective_classes(counts: IntArray) -> float:
    """Number of classes of equal size in which two rows would agree as often: 1 / (chance that two rows are alike).

    Unbiased in the chance (Simpson 1949): it does not take few rows for few classes.

    Args:
        counts: int[C], rows of each class.

    Returns:
        Infinity where no two rows are alike.
    """
    rows = int(counts.sum())
    alike = int((counts.astype(np.int64) * (counts.astype(np.int64) - 1)).sum())
    return rows * (rows - 1) / alike if alike else float("inf")


def votes_of(
    index: IntArray,
    similarity: FloatArray,
    confidence: FloatArray,
    predicted: IntArray,
    classes: int,
    *,
    min_similarity: float,
) -> Vote:
    """Neighbour vote: per class the sum of confidence x similarity, normalised to shares.

    Args:
        index: int[n, k], those that may vote, -1 where there is none.
        similarity: float[n, k].
        confidence: float[n, k], chance-corrected, 1 for labelled rows; of missing neighbours any.
        predicted: int[n, k], their classes; the label for labelled rows.
        classes: C.
        min_similarity: those less similar do not vote.
    """
    votes = (index >= 0) & (similarity >= min_similarity)
    weight = np.where(votes, confidence * similarity.astype(np.float64), 0.0)
    n = len(index)
    # One count over (row, class) cells; what stands for missing neighbours is harmless, its weight is 0.
    cells = np.arange(n, dtype=np.int64)[:, None] * classes + predicted
    counts = np.bincount(cells.ravel(), weights=weight.ravel(), minlength=n * classes).astype(np.float64, copy=False)
    counts = counts.reshape(n, classes)
    mass = counts.sum(axis=1)
    distribution = np.divide(counts, mass[:, None], out=np.zeros_like(counts), where=mass[:, None] > 0)
    best = distribution.argmax(axis=1)
    return Vote(distribution, best, distribution[np.arange(n), best], mass)


def fuse(
    confidence_a: FloatArray, class_a: IntArray, confidence_b: FloatArray, class_b: IntArray
) -> tuple[Float64Array, Int64Array]:
    """Fusion of two predictions as published.

    With confidences hi >= lo: hi alone where lo <= 0.5; same class: hi lo / (hi lo + (1 - hi)(1 - lo)); different
    class: hi (1 - lo) / (hi (1 - lo) + (1 - hi) lo), class of the surer one, of `a` where both are as sure. Two
    certain predictions of different classes (0 / 0) fuse to 0.5, as any two equally sure ones do.

    Args:
        confidence_a: float[n] in [0, 1].
        class_a: int[n].
        confidence_b: float[n] in [0, 1].
        class_b: int[n].

    Returns:
        Confidence float64[n] and class int64[n].
    """
    a, b = confidence_a.astype(np.float64), confidence_b.astype(np.float64)
    hi, lo = np.maximum(a, b), np.minimum(a, b)
    support = np.where(class_a == class_b, lo, 1.0 - lo)
    for_it, against = hi * support, (1.0 - hi) * (1.0 - support)
    fused = np.divide(for_it, for_it + against, out=np.full(len(hi), 0.5), where=for_it + against > 0)
    return np.where(lo <= 0.5, hi, fused), np.where(a >= b, class_a, class_b).astype(np.int64)


def published_gain(confidence: FloatArray, predicted: IntArray, vote: Vote) -> Float64Array:
    """1 - fused confidence of the neighbours' and the model's prediction.

    Args:
        confidence: float[n], chance-corrected confidence of the model.
        predicted: int[n], its class.
        vote: of the same rows.

    Returns:
        float64[n] in [0, 1].
    """
    return 1.0 - fuse(vote.share, vote.best, confidence, predicted)[0]


def fused_distribution(probabilities: FloatArray, vote: Vote, neighbours: int) -> Float64Array:
    """The model's and the neighbours' class distributions, averaged: (p + w v) / (1 + w).

    w = mass / neighbours lies in [0, 1]: few, distant or unsure neighbours say little, and a row without any keeps
    the model's distribution. An average and not a product: most neighbours vote with the same model's prediction, so
    the two are far from independent.

    Args:
        probabilities: float[n, C] of the model.
        vote: of the same rows.
        neighbours: the most neighbours that can vote.

    Returns:
        float64[n, C], rows of sum 1.
    """
    weight = (vote.mass / neighbours)[:, None]
    fused: Float64Array = (probabilities + weight * vote.distribution) / (1.0 + weight)
    return fused


def margin_gain(distribution: FloatArray) -> Float64Array:
    """1 - (first - second) of a class distribution: 1 where the first two are level, 0 where the first is certain.

    Args:
        distribution: float[n, C], C >= 2.

    Returns:
        float64[n] in [0, 1].
    """
    top = np.partition(distribution, -2, axis=1)
    return margin_between(top[:, -1], top[:, -2])


def margin_between(first: FloatArray, second: FloatArray) -> Float64Array:
    """`margin_gain` of the largest and the second largest probability, float[n] each: float64[n]."""
    return np.clip(1.0 - (first.astype(np.float64) - second.astype(np.float64)), 0.0, 1.0)


def neighbours_distribution(
    index: IntArray,
    similarity: FloatArray,
    probabilities: FloatArray,
    known: BoolArray,
    labels: IntArray,
    *,
    first_class: int = 0,
) -> tuple[Float64Array, Float64Array]:
    """Mean class distribution of rows' neighbours, weighted by similarity ** 4; a labelled neighbour's is its label.

    The fourth power lets near neighbours speak louder without a threshold, which would have to be another one for each
    kind of feature. On frozen features of CIFAR-10 the fused class is right 2 points more often than the model's alone
    at 2 500 labels, and the surest tenth of rows in 96.6 % instead of 95.0 % (published fusion: 81 %).

    Args:
        index: int[n, k], neighbours among N rows, -1 where there is none.
        similarity: float[n, k].
        probabilities: float[N, w] of the model; all classes, or some that follow one another.
        known: bool[N], labelled rows.
        labels: int[N], their labels.
        first_class: the class of the first column.

    Returns:
        float64[n, w], over all classes rows of sum 1, or 0 without a similar neighbour; and the sum of weights,
        float64[n].
    """
    weight = np.maximum(np.where(index >= 0, similarity.astype(np.float64), 0.0), 0.0) ** 4
    said = probabilities[index]  # (n, k, C); wrapping round -1 is harmless, its weight is 0
    labelled = known[index]
    said[labelled] = 0.0
    row, place = np.nonzero(labelled)
    column = labels[index[row, place]].astype(np.int64) - first_class
    here = (column >= 0) & (column < said.shape[2])
    said[row[here], place[here], column[here]] = 1.0
    mass = weight.sum(axis=1)
    share = np.divide(weight, mass[:, None], out=np.zeros_like(weight), where=mass[:, None] > 0)
    distribution: Float64Array = np.einsum("nk,nkc->nc", share, said, dtype=np.float64)
    return distribution, mass


def nearest_known(index: IntArray, similarity: FloatArray, known: BoolArray) -> Float64Array:
    """Cosine distance of rows to the nearest known row among their neighbours, float64[n] in [0, 2].

    Where none of the neighbours is known it is at least that of the farthest, which is given; 1 without neighbours.

    Args:
        index: int[n, k], neighbours among N rows, -1 where there is none.
        similarity: float[n, k].
        known: bool[N], rows with a label or a sure prediction.
    """
    there, similarity = index >= 0, similarity.astype(np.float64)
    farthest = np.where(there, similarity, np.inf).min(axis=1, initial=np.inf)
    nearest = np.where(there & known[index], similarity, -np.inf).max(axis=1, initial=-np.inf)
    found = np.where(np.isneginf(nearest), farthest, nearest)
    distance: Float64Array = 1.0 - np.where(np.isinf(found), 0.0, found)
    return distance
