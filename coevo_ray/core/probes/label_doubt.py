"""Doubt: the probability that a row's label is wrong, estimated from the prior's features.

Linear probes that were not fitted on a row predict its class. Which mistakes are made is counted at anchors, the rows
that they are surest of (Liu & Tao 2016, arXiv 1411.7718; confident learning, Northcutt et al. 2021, arXiv 1911.00068,
counts in the same way); how many, where disagreement with the surest predictions of all ends; and labels that were held
out have to be the likelier for it (forward correction: Patrini et al. 2017, arXiv 1609.03683). Doubt follows by Bayes'
rule. On labels without mistakes no row is doubted, however hard the row or rare its class. See
docs/design.md#label-doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.probes.noise_matrix import (
    bayes_doubt,
    count_anchors,
    expected_counts,
    fewest_rows,
    label_chances,
    noise_of,
    smooth_counts,
    surest_disagreement,
)
from coevo_ray.core.probes.probe import LinearProbe, Scaling
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError

FOLDS = 2  # each is judged by a probe of the others
DOUBTED = 0.5  # above it, a label is more likely wrong than right
_PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)  # strongest first; the search ends two below the best
_WEAKER = (10.0**0.5, 10.0)  # with mistakes accounted for, a penalty need not stand in for doubt
_TUNED_ROWS = 30_000  # penalty and level are chosen on so many rows at most
_ERRORS = 2.0  # standard errors above 0 from which the surest predictions show mistakes
# Mistakes in some classes alone do not show among the surest rows, which are of the others. Then likelihood has to find
# them, clearly and from a tenth on: hard rows of labels without mistakes look like mistakes of a few per cent.
_HIDDEN_LEVELS = (0.1, 0.2, 0.3)
_CLEARLY = 3.0
_CHANGE = 1e-7  # of the loss, that ends a fit


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Estimated mistakes of the labels, and the probes that judge rows by them.

    Attributes:
        noise: float64[C, C], P(given label | true class), rows of sum 1; the identity where no mistakes were found.
        prior: float64[C], shares of the true classes.
        level: estimated share of wrong labels, in [0, 1].
        l2: penalty of the probes.
        probes: one a fold, fitted on the other folds; they predict true classes.
        fewest: rows from which mistakes are looked for, see `fewest_rows`; of fewer, none are found.
        judged: whether there were as many.
    """

    noise: Float64Array
    prior: Float64Array
    level: float
    l2: float
    probes: list[LinearProbe]
    fewest: int
    judged: bool

    @property
    def rates(self) -> Float64Array:
        """Share of the other classes' rows that get each class as their label, float64[C] in [0, 1]."""
        own = self.prior * np.diagonal(self.noise)
        rates: Float64Array = (self.prior @ self.noise - own) / np.maximum(1.0 - self.prior, 1e-12)
        return rates

    def doubt(self, probabilities: FloatArray, labels: IntArray) -> Float32Array:
        """Computes the probability that each label is wrong, see `bayes_doubt`: float32[n] in [0, 1].

        Args:
            probabilities: float[n, C] of `probes`, see `predict_folds`.
            labels: int[n], 0 or above.

        Raises:
            InputError: shapes differ.
        """
        return bayes_doubt(probabilities, self.noise, labels)


def find_mistakes(
    features: FloatArray,
    labels: IntArray,
    fold: Int64Array,
    *,
    folds: int,
    classes: int,
    l2: float | None = None,
    fewest: int | None = None,
) -> Mistakes:
    """Estimates how labels were given by mistake.

    Args:
        features: float[n, d]; a random sample of the pool is enough.
        labels: int[n] in 0..classes-1.
        fold: int64[n] in 0..folds-1, see `fold_of`.
        folds, classes: their numbers.
        l2: penalty of the probes, see `LinearProbe.fit`; None takes that of the largest likelihood of held-out labels.
        fewest: rows from which mistakes are looked for; None takes `fewest_rows`.

    Returns:
        The mistakes; none are found among too few rows, see `fewest_rows`.

    Raises:
        InputError: a row has no label, or all rows are in one fold.
    """
    _check_folds(labels, fold, folds)
    every = _Rows(features, labels, fold, folds, max(2, classes))
    some = every.sample(_TUNED_ROWS)
    plain = _best_penalty(some, _PENALTIES if l2 is None else (l2,))
    fewest = fewest_rows(labels) if fewest is None else fewest
    judged = len(labels) >= fewest
    found = _with_mistakes(some, plain, fixed=l2 is not None) if judged else plain
    if len(some.labels) < len(labels):  # the penalty counts against the sum of the losses
        weaker = 1.0 if l2 is not None else len(some.labels) / len(labels)
        found = every.fit(found.l2 * weaker, found.noise, found.probes)
    if found.noise is not None:
        found = _with_expected_noise(every, found)
    prior = found.probabilities.mean(axis=0, dtype=np.float64)
    noise = np.eye(every.classes) if found.noise is None else found.noise
    level = float(prior @ (1.0 - np.diagonal(noise)))
    return Mistakes(noise, prior, level, found.l2, found.probes, fewest, judged)


def label_doubt(
    features: FloatArray,
    labels: IntArray,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    l2: float | None = None,
    fewest: int | None = None,
) -> Float32Array:
    """Computes the probability that each label is wrong, from mistakes that are estimated on the same rows.

    Args:
        features: float[n, d].
        labels: int[n], 0 or above.
        folds: number of folds; each is judged by a probe of the others.
        seed: seed of the folds, which depend on a row's position alone.
        l2, fewest: see `find_mistakes`.

    Returns:
        float32[n] in [0, 1]; 0 of too few rows, see `fewest_rows`.

    Raises:
        InputError: a row has no label, or there are too few rows.
        UsageError: there are fewer than two folds.
    """
    fold = fold_of(np.arange(len(labels), dtype=np.int64), folds, seed)
    found = find_mistakes(
        features, labels, fold, folds=folds, classes=int(labels.max(initial=0)) + 1, l2=l2, fewest=fewest
    )
    return found.doubt(predict_folds(found.probes, features, fold), labels)


def cross_fitted(
    features: FloatArray, labels: IntArray, *, folds: int = FOLDS, seed: int = 0, l2: float | None = None
) -> Float32Array:
    """Predicts each row by a linear probe that was fitted without it (cross-fitting), on labels as they are.

    Args:
        features, labels, folds, seed, l2: see `label_doubt`.

    Returns:
        float32[n, C], rows of sum 1.

    Raises:
        InputError: a row has no label, or there are too few rows.
        UsageError: there are fewer than two folds.
    """
    fold = fold_of(np.arange(len(labels), dtype=np.int64), folds, seed)
    _check_folds(labels, fold, folds)
    rows = _Rows(features, labels, fold, folds, max(2, int(labels.max(initial=0)) + 1))
    return _best_penalty(rows, _PENALTIES if l2 is None else (l2,)).probabilities


def most_doubted(row_ids: Int64Array, doubt: FloatArray, labels: IntArray, count: int) -> Int64Array:
    """Orders rows by doubt, and those of almost the same doubt so that classes take turns.

    Rows are ordered by doubt rounded to hundredths; within a hundredth, the first row of each label comes before the
    second of any; then by doubt, then by row_id.

    Args:
        row_ids: int64[n].
        doubt: float[n].
        labels: int[n], as given.
        count: of rows wanted.

    Returns:
        int64[min(n, count)], positions.
    """
    order = np.lexsort((row_ids, -doubt.astype(np.float64)))
    hundredth = np.round(100.0 * doubt.astype(np.float64)).astype(np.int64)
    turn = np.zeros(len(order), dtype=np.int64)
    seen: dict[tuple[int, int], int] = {}
    for place in order.tolist():
        key = (int(hundredth[place]), int(labels[place]))
        turn[place] = seen.get(key, 0)
        seen[key] = int(turn[place]) + 1
    spread: Int64Array = np.lexsort((row_ids, -doubt.astype(np.float64), turn, -hundredth))[:count]
    return spread


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
    scaling: Scaling = "one",
) -> list[LinearProbe]:
    """Fits one linear probe per fold, on the rows of all other folds.

    Args:
        features: float[n, d].
        labels: int[n] in 0..classes-1.
        fold: int64[n] in 0..folds-1, see `fold_of`.
        folds, classes: their numbers.
        l2, scaling: see `LinearProbe.fit`.

    Raises:
        InputError: a row has no label, or all rows are in one fold.
    """
    _check_folds(labels, fold, folds)
    return [
        LinearProbe.fit(features[fold != f], labels[fold != f], max(2, classes), l2, scaling=scaling)
        for f in range(folds)
    ]


def predict_folds(probes: Sequence[LinearProbe], features: FloatArray, fold: Int64Array) -> Float32Array:
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


@dataclass(frozen=True, eq=False)
class _Fit:
    """Cross-fitted probes: their penalty and noise matrix, probabilities of true classes, and losses of the labels."""

    l2: float
    noise: Float64Array | None
    probes: list[LinearProbe]
    probabilities: Float32Array
    losses: Float64Array

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


@dataclass(frozen=True, eq=False)
class _Rows:
    features: FloatArray
    labels: IntArray
    fold: Int64Array
    folds: int
    classes: int

    def sample(self, count: int) -> _Rows:
        """A random choice of that many rows, always the same; all if there are no more."""
        if len(self.labels) <= count:
            return self
        rows = np.sort(np.random.Generator(np.random.PCG64(0)).permutation(len(self.labels))[:count])
        return _Rows(self.features[rows], self.labels[rows], self.fold[rows], self.folds, self.classes)

    def fit(self, l2: float, noise: Float64Array | None, start: list[LinearProbe] | None) -> _Fit:
        probes = [
            LinearProbe.fit(
                self.features[outside],
                self.labels[outside],
                self.classes,
                l2,
                noise=noise,
                start=None if start is None else start[f],
                change=_CHANGE,
            )
            for f, outside in self._outside()
        ]
        probabilities = predict_folds(probes, self.features, self.fold)
        own = probabilities[np.arange(len(self.labels)), self.labels].astype(np.float64)
        chances = own if noise is None else label_chances(probabilities, noise, self.labels)
        return _Fit(l2, noise, probes, probabilities, -np.log(np.maximum(chances, 1e-12)))

    def _outside(self) -> list[tuple[int, BoolArray]]:
        return [(f, self.fold != f) for f in range(self.folds)]


def _check_folds(labels: IntArray, fold: Int64Array, folds: int) -> None:
    if (labels < 0).any() or any((fold == f).all() for f in range(folds)):
        raise InputError(
            f"{len(labels)} rows in {len(np.unique(fold))} folds, {int((labels < 0).sum())} of them without a label",
            "give more labelled rows",
        )


def _best_penalty(rows: _Rows, penalties: Sequence[float]) -> _Fit:
    """The fit of the largest likelihood of held-out labels; penalties fall, and the search ends two below the best."""
    best = last = rows.fit(penalties[0], None, None)
    worse = 0
    for l2 in penalties[1:]:
        last = rows.fit(l2, None, last.probes)
        best, worse = (last, 0) if last.loss < best.loss else (best, worse + 1)
        if worse == 2:
            break
    return best


def _with_mistakes(rows: _Rows, plain: _Fit, fixed: bool) -> _Fit:
    """The fit under the noise matrix of the largest likelihood of held-out labels, or the plain one."""
    pattern, rates = smooth_counts(count_anchors(plain.probabilities, rows.labels))
    value, error = surest_disagreement(plain.probabilities, rows.labels)
    shown = value > _ERRORS * error and value > 0
    if not rates.any():
        return plain
    prior, best = plain.probabilities.mean(axis=0, dtype=np.float64), plain
    for level in (value - error, value, value + error) if shown else _HIDDEN_LEVELS:
        noise = noise_of(pattern, rates, prior, level)
        found = _weakest_useful(rows, plain, noise, fixed)
        if found.loss >= best.loss:
            break
        best = found
    gain = plain.losses - best.losses
    clear = gain.mean() > _CLEARLY * gain.std() / np.sqrt(len(gain))
    return best if shown or clear else plain


def _weakest_useful(rows: _Rows, plain: _Fit, noise: Float64Array, fixed: bool) -> _Fit:
    """The fit under a noise matrix, its penalty falling from the plain one's as long as that helps."""
    best = rows.fit(plain.l2, noise, plain.probes)
    for weaker in () if fixed else _WEAKER:
        found = rows.fit(plain.l2 / weaker, noise, best.probes)
        if found.loss >= best.loss:
            break
        best = found
    return best


def _with_expected_noise(rows: _Rows, found: _Fit) -> _Fit:
    """The fit under the matrix of one EM step on all rows, if held-out labels are the likelier for it.

    The share of mistakes in all stays: probabilities of fits with a penalty are less sure than they should be, and a
    step would take most of what it lowers for mistakes of the probe.
    """
    assert found.noise is not None
    pattern, rates = smooth_counts(expected_counts(found.probabilities, found.noise, rows.labels))
    prior = found.probabilities.mean(axis=0, dtype=np.float64)
    level = float(prior @ (1.0 - np.diagonal(found.noise)))
    stepped = rows.fit(found.l2, noise_of(pattern, rates, prior, level), found.probes)
    return stepped if stepped.loss < found.loss else found
