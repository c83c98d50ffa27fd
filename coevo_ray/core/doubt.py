"""How likely each row's label is wrong, as the prior's features see it.

A light classifier that never saw the row says how likely each label is there. Where a class is least likely, next to
none of its labels should be found; the share that is found all the same is how often labels of that class come by
mistake (the anchor points of Liu and Tao 2016, arXiv 1411.7718; Northcutt et al. 2021, arXiv 1911.00068, count like
this). By Bayes' rule that share over the probability of the row's label is the chance that the label came so. With
clean labels the share is next to nothing, and nobody is doubted, however hard a row or rare its class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.probe import LinearProbe
from coevo_ray.core.rows import hash_rows
from coevo_ray.core.turns import IntArray
from coevo_ray.errors import InputError, UsageError

Float32Array = npt.NDArray[np.float32]
_ANCHORS = 0.1  # share of the rows at which a class counts as absent: its least likely ones
_FEWEST = 100  # fewer of them cannot tell a class's share of mistakes: nobody is doubted then


def cross_fitted(
    features: npt.NDArray[np.floating[Any]], labels: IntArray, *, folds: int = 2, l2: float = 1e-3, seed: int = 0
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
        InputError: a row has no label, or there are fewer rows than folds.
        UsageError: fewer than two folds.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds", "need 2 or more")
    if len(labels) < folds or (labels < 0).any():
        raise InputError(f"{len(labels)} rows, {int((labels < 0).sum())} of them without a label", "give labelled rows")
    classes = max(2, int(labels.max()) + 1)
    part = hash_rows(np.arange(len(labels), dtype=np.int64), seed) % np.uint64(folds)
    probabilities = np.empty((len(labels), classes), dtype=np.float32)
    for fold in range(folds):
        inside = part == fold
        if inside.any():
            probe = LinearProbe.fit(features[~inside], labels[~inside], classes, l2)
            probabilities[inside] = probe.predict_proba(features[inside])
    return probabilities


def label_doubt(probabilities: npt.NDArray[np.floating[Any]], labels: IntArray) -> Float32Array:
    """The chance of each label to be wrong.

    Args:
        probabilities: float[n, C], see `cross_fitted`.
        labels: int[n], 0 or above.

    Returns:
        float32[n] in [0, 1].

    Raises:
        InputError: shapes differ.
    """
    rows, classes = probabilities.shape
    if len(labels) != rows or (rows and not 0 <= labels.min() <= labels.max() < classes):
        raise InputError(f"{len(labels)} labels for probabilities of {rows} rows, {classes} classes", "give one each")
    mistakes = np.array([_mistakes(probabilities[:, c], labels == c) for c in range(classes)])
    mine = probabilities[np.arange(rows), labels].astype(np.float64)
    doubt = mistakes[labels] / np.maximum(mine, 1e-12)
    chance: Float32Array = np.minimum(doubt, 1.0).astype(np.float32)
    return chance


def _mistakes(likely: npt.NDArray[np.floating[Any]], labelled: npt.NDArray[np.bool_]) -> float:
    """How often rows are given a class where it is least likely."""
    anchors = round(_ANCHORS * len(likely))
    if anchors < _FEWEST:
        return 0.0
    edge = np.partition(likely, anchors - 1)[anchors - 1]
    return float(labelled[likely <= edge].mean())
