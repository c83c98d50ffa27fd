"""Doubt: the probability that a row's label is wrong, estimated from the prior's features.

A linear classifier that was fitted without a row predicts the probability of each class for it. Among the rows where a
class is least probable, hardly any should carry its label; the share that does estimates how often labels of that class
are given by mistake (anchor points: Liu & Tao 2016, arXiv 1411.7718; confident learning, Northcutt et al. 2021, arXiv
1911.00068, counts in the same way). By Bayes' rule, that share over the probability of the row's label is the
probability that the label is a mistake. With clean labels the share is near zero and no row is doubted, however hard
the row or rare its class. See docs/design.md#label-doubt.
"""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError

_ANCHORS = 0.1  # share of the rows, those where a class is least probable, at which it counts as absent
_FEWEST = 100  # fewer anchors cannot resolve a share of mistakes of a few per cent: then no row is doubted


def fold_of(row_ids: Int64Array, folds: int, seed: int = 0) -> Int64Array:
    """Assigns row_ids int64[n] to folds 0..folds-1 by hash: int64[n], a function of (row_id, seed) alone.

    Raises:
        UsageError: there are fewer than two folds.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds", "need 2 or more")
    return (hash_rows(row_ids, seed) % np.uint64(folds)).astype(np.int64)


def fold_probes(
    features: FloatArray,
    labels: IntArray,
    fold: Int64Array,
    *,
    folds: int,
    classes: int,
    l2: float = 1e-3,
) -> list[LinearProbe]:
    """Fits one linear probe per fold, on the rows of all other folds.

    Args:
        features: float[n, d].
        labels: int[n] in 0..classes-1.
        fold: int64[n] in 0..folds-1, see `fold_of`.
        folds, classes: their numbers.
        l2: see `LinearProbe.fit`.

    Raises:
        InputError: a row has no label, or all rows are in one fold.
    """
    if (labels < 0).any() or any((fold == f).all() for f in range(folds)):
        raise InputError(
            f"{len(labels)} rows in {len(np.unique(fold))} folds, {int((labels < 0).sum())} of them without a label",
            "give more labelled rows",
        )
    return [LinearProbe.fit(features[fold != f], labels[fold != f], max(2, classes), l2) for f in range(folds)]


def predict_folds(probes: list[LinearProbe], features: FloatArray, fold: Int64Array) -> Float32Array:
    """Predicts each row by the probe that was fitted without its fold.

    Args:
        probes: one per fold, of `fold_probes`.
        features: float[n, d].
        fold: int64[n].

    Returns:
        float32[n, C], class probabilities.
    """
    probabilities = np.empty((len(fold), probes[0].classes), dtype=np.float32)
    for f, probe in enumerate(probes):
        inside = fold == f
        if inside.any():
            probabilities[inside] = probe.predict_proba(features[inside])
    return probabilities


def cross_fitted(
    features: FloatArray, labels: IntArray, *, folds: int = 2, l2: float = 1e-3, seed: int = 0
) -> Float32Array:
    """Predicts each row by a linear probe that was fitted without it (cross-fitting).

    Args:
        features: float[n, d].
        labels: int[n], 0 or above.
        folds: number of folds; each is predicted by a probe of the others.
        l2: see `LinearProbe.fit`.
        seed: seed of the folds, which depend on a row's position alone.

    Returns:
        float32[n, C], rows of sum 1.

    Raises:
        InputError: a row has no label, or there are too few rows.
        UsageError: there are fewer than two folds.
    """
    fold = fold_of(np.arange(len(labels), dtype=np.int64), folds, seed)
    classes = int(labels.max(initial=0)) + 1
    return predict_folds(fold_probes(features, labels, fold, folds=folds, classes=classes, l2=l2), features, fold)


def mistake_rates(probabilities: FloatArray, labels: IntArray) -> Float64Array:
    """Estimates how often rows get each class as a label by mistake.

    The share of a class's labels among the tenth of the rows where the class is least probable: anchor points, Liu &
    Tao 2016, arXiv 1411.7718 (docs/design.md#label-doubt).

    Args:
        probabilities: float[n, C], see `cross_fitted`; a random sample of the pool is enough.
        labels: int[n], 0 or above.

    Returns:
        float64[C] in [0, 1]; 0 below 1 000 rows.

    Raises:
        InputError: shapes differ.
    """
    _check(probabilities, labels)
    classes = probabilities.shape[1]
    return np.array([_mistakes(probabilities[:, c], labels == c) for c in range(classes)])


def label_doubt(probabilities: FloatArray, labels: IntArray, rates: Float64Array | None = None) -> Float32Array:
    """Computes the probability that each label is wrong: min(1, mistake rate of the label / its probability).

    See docs/design.md#label-doubt.

    Args:
        probabilities: float[n, C], see `cross_fitted`.
        labels: int[n], 0 or above.
        rates: float64[C], see `mistake_rates`; None estimates them on these rows.

    Returns:
        float32[n] in [0, 1].

    Raises:
        InputError: shapes differ.
    """
    _check(probabilities, labels)
    rates = mistake_rates(probabilities, labels) if rates is None else rates
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    doubt = rates[labels] / np.maximum(own, 1e-12)
    chance: Float32Array = np.minimum(doubt, 1.0).astype(np.float32)
    return chance


def _check(probabilities: FloatArray, labels: IntArray) -> None:
    rows, classes = probabilities.shape
    if len(labels) != rows or (rows and not 0 <= labels.min() <= labels.max() < classes):
        raise InputError(f"{len(labels)} labels for probabilities of {rows} rows, {classes} classes", "give one each")


def _mistakes(likely: FloatArray, labelled: BoolArray) -> float:
    """Returns the share of rows with a class's label where the class is least probable."""
    anchors = round(_ANCHORS * len(likely))
    if anchors < _FEWEST:
        return 0.0
    edge = np.partition(likely, anchors - 1)[anchors - 1]
    return float(labelled[likely <= edge].mean())
