"""The noise matrix P(given label | true class): its estimate, and what follows from it for a row.

Where similar classes are confused, a wrong label is not unlikely by the row's features, so that mistakes have to be
counted where the true class is as good as known: at anchor points (Liu & Tao 2016, arXiv 1411.7718; Patrini et al.
2017, arXiv 1609.03683). See docs/design.md#label-doubt.
"""

from __future__ import annotations

import numpy as np
import torch

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array, IntArray
from coevo_ray.errors import InputError

ANCHORS = 0.2  # share of the rows, the surest ones, whose true class counts as known
FEWEST_ROWS = 500  # fewer hardly show mistakes, and find wrong ones among right labels: `benchmarks.battery doubt_rows`
_ROWS_A_CLASS = 40  # on average; probes of fewer are unsure of right labels, too: see docs/design.md#label-doubt
_FEWEST_ANCHORS = 5  # of a class, if so many rows are predicted to be of it
_LARGEST_RATE = 0.6  # share of mistakes in one class; above, its name would be in doubt, not its rows
_CONCENTRATIONS = np.geomspace(0.1, 3000.0, 24)
_BLOCK_ROWS = 8192


def fewest_rows(labels: IntArray) -> int:
    """Number of rows from which mistakes can be told from hard rows: 500, or 40 for each class that is there.

    Args:
        labels: int[n], 0 or above.
    """
    return max(FEWEST_ROWS, _ROWS_A_CLASS * len(np.unique(labels)))


def surest_disagreement(probabilities: FloatArray, labels: IntArray) -> tuple[float, float]:
    """Estimates the share of mistakes: how often labels disagree with the surest predictions of all.

    Disagreement of the fifth of the rows with the largest probability is fitted as a line in the rank, with weights
    that fall to 0 at the fifth's end (local-linear regression, Fan & Gijbels 1996), and read at the
    surest end. Where labels are right, predictions are the surest where they agree, and the value is 0 but for chance.

    Args:
        probabilities: float[n, C], of probes that were not fitted on the row.
        labels: int[n].

    Returns:
        The value, which may be below 0, and its standard error (White's, for unequal variances).
    """
    top = probabilities.max(axis=1)
    order = np.argsort(-top, kind="stable")[: max(2, round(ANCHORS * len(top)))]
    wrong = (labels[order] != probabilities[order].argmax(axis=1)).astype(np.float64)
    rank = (np.arange(len(order)) + 0.5) / len(order)
    design, weight = np.stack([np.ones(len(order)), rank], axis=1), 1.0 - rank
    inverse = np.linalg.inv(design.T @ (design * weight[:, None]))
    line = inverse @ design.T @ (weight * wrong)
    scores = design * (weight * (wrong - design @ line))[:, None]
    covariance = inverse @ (scores.T @ scores) @ inverse
    return float(line[0]), float(np.sqrt(covariance[0, 0]))


def count_anchors(probabilities: FloatArray, labels: IntArray) -> Float64Array:
    """Counts the labels of each class's anchors: the surest fifth of the rows that are predicted to be of it.

    Args:
        probabilities: float[n, C], of probes that were not fitted on the row.
        labels: int[n].

    Returns:
        float64[C, C], anchors by predicted class and label.
    """
    predicted, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    classes = probabilities.shape[1]
    counts = np.zeros((classes, classes))
    order = np.lexsort((-top, predicted))
    ends = np.searchsorted(predicted[order], np.arange(classes + 1))
    for c in range(classes):
        members = order[ends[c] : ends[c + 1]]
        anchors = members[: max(_FEWEST_ANCHORS, round(ANCHORS * len(members)))]
        counts[c] = np.bincount(labels[anchors], minlength=classes)
    return counts


def smooth_counts(counts: FloatArray) -> tuple[Float64Array, Float64Array]:
    """Smooths counts of true classes and labels into which mistakes each class suffers, and how many.

    Mistakes of a class are drawn towards equal shares of the other classes, and its rate towards the mean rate, each by
    as many rows as the Dirichlet-multinomial likelihood of all classes together finds best (Minka 2000, "Estimating a
    Dirichlet distribution"): few where a class is always taken for the same other one, many where any is.

    Args:
        counts: float[C, C], by true class and label.

    Returns:
        pattern float64[C, C], shares of the other classes in a class's mistakes, rows of sum 1 and diagonal 0; and
        rates float64[C], shares of mistakes in each class.
    """
    classes = len(counts)
    wrong = counts.astype(np.float64)
    np.fill_diagonal(wrong, 0.0)
    others = 1.0 - np.eye(classes)
    equal = others / (classes - 1)
    pattern = _drawn(wrong, equal, others > 0)
    mistakes, rows = wrong.sum(axis=1), counts.sum(axis=1)
    mean = float(mistakes.sum() / max(rows.sum(), 1e-12))
    if mean == 0.0:
        return pattern, np.zeros(classes)
    split = np.stack([mistakes, rows - mistakes], axis=1)
    base = np.tile([mean, 1.0 - mean], (classes, 1))
    return pattern, _drawn(split, base, base > 0)[:, 0]


def _drawn(counts: Float64Array, base: Float64Array, there: BoolArray) -> Float64Array:
    """Posterior means of rows of counts under Dirichlet(a base), with the a of the largest likelihood of all rows."""
    total = counts.sum(axis=1, keepdims=True)

    def likelihood(a: float) -> float:
        cells = _log_gamma(counts[there] + a * base[there]) - _log_gamma(a * base[there])
        return float(cells.sum() + (_log_gamma(np.array([a])) - _log_gamma(total + a)).sum())

    a = max(_CONCENTRATIONS, key=likelihood)
    drawn: Float64Array = (counts + a * base) / (total + a)
    return drawn


def _log_gamma(x: Float64Array) -> Float64Array:
    values: Float64Array = torch.lgamma(torch.from_numpy(np.ascontiguousarray(x))).numpy()
    return values


def noise_of(pattern: FloatArray, rates: FloatArray, prior: FloatArray, level: float) -> Float64Array:
    """Builds the noise matrix with a given share of mistakes in all.

    Args:
        pattern, rates: see `smooth_counts`.
        prior: float[C], shares of the true classes, of sum 1.
        level: the share of mistakes; a class's own rate is in proportion to `rates`, at most 0.6.

    Returns:
        float64[C, C], P(given label | true class), rows of sum 1.
    """
    mean = float(prior @ rates)
    scaled = np.minimum(rates * (level / mean if mean > 0 else 0.0), _LARGEST_RATE)
    noise: Float64Array = pattern * scaled[:, None]
    np.fill_diagonal(noise, 1.0 - scaled)
    return noise


def label_chances(probabilities: FloatArray, noise: FloatArray, labels: IntArray) -> Float64Array:
    """Computes P(label | x) = sum_t p_t(x) noise[t, label] of each row (Patrini et al. 2017, theorem 2).

    Args:
        probabilities: float[n, C], of the true classes.
        noise: float[C, C].
        labels: int[n].

    Returns:
        float64[n].
    """
    chances = np.empty(len(labels))
    for start in range(0, len(labels), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        chances[part] = np.einsum("nt,nt->n", probabilities[part].astype(np.float64), noise.T[labels[part]])
    return chances


def bayes_doubt(probabilities: FloatArray, noise: FloatArray, labels: IntArray) -> Float32Array:
    """Computes 1 - P(true = label | x, label) = 1 - p_label noise[label, label] / sum_t p_t noise[t, label].

    Args:
        probabilities: float[n, C], of the true classes.
        noise: float[C, C], P(given label | true class).
        labels: int[n].

    Returns:
        float32[n] in [0, 1].

    Raises:
        InputError: shapes differ, or a label is outside the classes.
    """
    rows, classes = probabilities.shape
    if len(labels) != rows or (rows and not 0 <= labels.min() <= labels.max() < classes):
        raise InputError(f"{len(labels)} labels for probabilities of {rows} rows, {classes} classes", "give one each")
    right = probabilities[np.arange(rows), labels].astype(np.float64) * np.diagonal(noise)[labels]
    chances = label_chances(probabilities, noise, labels)
    # Where no class could have given the label, it is that of the row and nothing speaks against it.
    sure = np.where(chances > 0, right / np.where(chances > 0, chances, 1.0), 1.0)
    doubt: Float32Array = np.clip(1.0 - sure, 0.0, 1.0).astype(np.float32)
    return doubt


def expected_counts(probabilities: FloatArray, noise: FloatArray, labels: IntArray) -> Float64Array:
    """Sums P(true = t | x, label) over the rows of each label: the expectation step of EM for the noise matrix.

    Args:
        probabilities: float[n, C], of the true classes.
        noise: float[C, C], P(given label | true class).
        labels: int[n].

    Returns:
        float64[C, C], expected rows by true class and label; its sum is n.
    """
    shares = np.zeros_like(noise, dtype=np.float64)  # by label and true class, still without the noise
    chances = np.maximum(label_chances(probabilities, noise, labels), 1e-300)
    for label in np.unique(labels):
        rows: Int64Array = np.flatnonzero(labels == label)
        shares[label] = (probabilities[rows].astype(np.float64) / chances[rows, None]).sum(axis=0)
    return noise * shares.T
