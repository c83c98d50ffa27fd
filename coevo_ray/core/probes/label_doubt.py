"""How likely each row's label is wrong, as the prior's features see it.

A light classifier that never saw the row says how likely each label is there. Where a class is least likely, next to
none of its labels should be found; the share that is found all the same is how often labels of that class come by
mistake (the anchor points of Liu and Tao 2016, arXiv 1411.7718; Northcutt et al. 2021, arXiv 1911.00068, count like
this). By Bayes' rule that share over the probability of the row's label is the chance that the label came so. With
clean labels the share is next to nothing, and nobody is doubted, however hard a row or rare its class.
"""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError

_ANCHORS = 0.1  # share of the rows at which a class counts as absent: its least likely ones
_FEWEST = 100  # fewer of them cannot tell a class's share of mistakes: nobody is doubted then


def fold_of(row_ids: Int64Array, folds: int, seed: int = 0) -> Int64Array:
    """Which fold each row belongs to, int64[n]; it depends on the row_id alone.

    Raises:
        UsageError: fewer than two folds.
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
    """One linear probe for each fold, fitted on the rows of all others.

    Args:
        features: float[n, d].
        labels: int[n], 0 to classes - 1.
        fold: int64[n], see `fold_of`.
        folds, classes: how many there are.
        l2: see `LinearProbe.fit`.

    Raises:
        InputError: a row has no label, or all rows are of one fold.
    """
    if (labels < 0).any() or any((fold == f).all() for f in range(folds)):
        raise InputError(
            f"{len(labels)} rows in {len(np.unique(fold))} folds, {int((labels < 0).sum())} of them without a label",
            "give more labelled rows",
        )
    return [LinearProbe.fit(features[fold != f], labels[fold != f], max(2, classes), l2) for f in range(folds)]


def predict_folds(probes: list[LinearProbe], features: FloatArray, fold: Int64Array) -> Float32Array:
    """Class probabilities of every row by the probe that was fitted without its fold, float32[n, C]."""
    probabilities = np.empty((len(fold), probes[0].classes), dtype=np.float32)
    for f, probe in enumerate(probes):
        inside = fold == f
        if inside.any():
            probabilities[inside] = probe.predict_proba(features[inside])
    return probabilities


def cross_fitted(
    features: FloatArray, labels: IntArray, *, folds: int = 2, l2: float = 1e-3, seed: int = 0
) -> Float32Array:
    """Class probabilities of every row, by a linear probe that was fitted without it.

    Args:
        features: float[n, d].
        labels: int[n], 0 or above.
        folds: parts of the rows; each is predicted by a probe of the others.
        l2: see `LinearProbe.fit`.
        seed: of the parts, which depend on a row's position alone.

    Returns:
        float32[n, C], rows of sum 1.

    Raises:
        InputError: a row has no label, or there are too few rows.
        UsageError: fewer than two folds.
    """
    fold = fold_of(np.arange(len(labels), dtype=np.int64), folds, seed)
    classes = int(labels.max(initial=0)) + 1
    return predict_folds(fold_probes(features, labels, fold, folds=folds, classes=classes, l2=l2), features, fold)


def mistake_rates(probabilities: FloatArray, labels: IntArray) -> Float64Array:
    """How often rows are given each class by mistake: float64[C], the share of its labels where it is least likely.

    Args:
        probabilities: float[n, C], see `cross_fitted`; a random sample of the pool is enough.
        labels: int[n], 0 or above.

    Raises:
        InputError: shapes differ.
    """
    _check(probabilities, labels)
    classes = probabilities.shape[1]
    return np.array([_mistakes(probabilities[:, c], labels == c) for c in range(classes)])


def label_doubt(probabilities: FloatArray, labels: IntArray, rates: Float64Array | None = None) -> Float32Array:
    """The chance of each label to be wrong.

    Args:
        probabilities: float[n, C], see `cross_fitted`.
        labels: int[n], 0 or above.
        rates: float64[C], see `mistake_rates`; None takes those of these rows.

    Returns:
        float32[n] in [0, 1].

    Raises:
        InputError: shapes differ.
    """
    _check(probabilities, labels)
    rates = mistake_rates(probabilities, labels) if rates is None else rates
    mine = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    doubt = rates[labels] / np.maximum(mine, 1e-12)
    chance: Float32Array = np.minimum(doubt, 1.0).astype(np.float32)
    return chance


def _check(probabilities: FloatArray, labels: IntArray) -> None:
    rows, classes = probabilities.shape
    if len(labels) != rows or (rows and not 0 <= labels.min() <= labels.max() < classes):
        raise InputError(f"{len(labels)} labels for probabilities of {rows} rows, {classes} classes", "give one each")


def _mistakes(likely: FloatArray, labelled: BoolArray) -> float:
    """How often rows are given a class where it is least likely."""
    anchors = round(_ANCHORS * len(likely))
    if anchors < _FEWEST:
        return 0.0
    edge = np.partition(likely, anchors - 1)[anchors - 1]
    return float(labelled[likely <= edge].mean())
