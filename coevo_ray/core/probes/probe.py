"""Probes on fixed features: a linear classifier and k nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch

from coevo_ray.core.arrays import AnyArray, Arrays, BoolArray, Float32Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.graph.unit_rows import unit_rows
from coevo_ray.errors import InputError, UsageError

# One scale for all features keeps the relative size of directions; `each` is the rule of version 0.1.0.
Scaling: TypeAlias = Literal["one", "each"]
_ITERATIONS = 500  # of L-BFGS; its tolerances stop it earlier
_CHANGE = 1e-10  # of the loss, which ends the fit
_LEAST_CHANCE = 1e-8  # of a label in a noise matrix, so that its logarithm is finite
_BLOCK_ROWS = 65_536
_TEMPERATURE = 0.07  # as in Wu et al. 2018
_BLOCK_VALUES = 1 << 24  # similarities held at a time


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Multinomial logistic regression on centred and scaled features.

    Probabilities are softmax(weight (x - mean) / scale + bias).

    Attributes:
        weight: float32[C, d].
        bias: float32[C].
        mean: float32[d], of the training features.
        scale: float32[d], what centred features are divided by, see `fit`.
    """

    weight: Float32Array
    bias: Float32Array
    mean: Float32Array
    scale: Float32Array

    @classmethod
    def fit(
        cls,
        features: FloatArray,
        labels: IntArray,
        classes: int,
        l2: float = 1e-3,
        sample_weight: FloatArray | None = None,
        *,
        scaling: Scaling = "one",
        noise: FloatArray | None = None,
        start: LinearProbe | None = None,
        change: float = _CHANGE,
    ) -> LinearProbe:
        """Minimises weighted mean cross-entropy + l2/2 (||weight||^2 + ||bias||^2) with L-BFGS.

        scikit-learn's C is 1 / (l2 * n). The bias is regularised like the weights (as in liblinear), so that the
        minimum is unique even if a class has no training row: such a class gets a small positive probability.
        With `noise` the loss is that of forward correction, see `forward_losses`.

        Args:
            features: float[n, d].
            labels: int[n] in 0..classes-1.
            classes: C.
            l2: strength of the regularisation, > 0.
            sample_weight: float[n], >= 0 and not all 0; None weighs rows equally.
            scaling: `one` divides centred features by their root mean square over rows and features, `each` every
                feature by its standard deviation; 1 in place of 0.
            noise: float[C, C], P(given label | true class) in rows of sum 1; None takes labels as they are.
            start: where to begin; None for zero. Fewer steps are needed from a fit of almost the same.
            change: of the loss, which ends the fit.

        Raises:
            InputError: there are no rows, features are not finite, labels are out of range, or weights or noise do not
                fit.
            UsageError: there are fewer than two classes, or l2 is not above 0.
        """
        if classes < 2 or not l2 > 0:
            raise UsageError(f"a probe with {classes} classes and l2 = {l2}", "give 2 or more classes and l2 > 0")
        x = _checked(features)
        y = _checked_labels(labels, len(x), classes)
        w = _checked_weights(sample_weight, len(x))
        mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = _scale(x, mean, scaling)
        begin = torch.zeros(classes, x.shape[1] + 1)
        if start is not None:
            begin = torch.from_numpy(np.column_stack([start.weight, start.bias]))
        chances = None if noise is None else _log_chances(noise, classes)
        parameters = _minimise(torch.from_numpy((x - mean) / scale), torch.from_numpy(y), w, l2, begin, chances, change)
        return cls(parameters[:, :-1].numpy().copy(), parameters[:, -1].numpy().copy(), mean, scale)

    @property
    def classes(self) -> int:
        """Number of classes C, that of bias float32[C]."""
        return len(self.bias)

    def predict_proba(self, features: FloatArray) -> Float32Array:
        """Predicts class probabilities.

        Args:
            features: float[n, d].

        Returns:
            float32[n, C], rows of sum 1.

        Raises:
            InputError: features are not finite or have another dimension.
        """
        x = _checked(features, rows=0)
        if x.shape[1] != len(self.mean):
            raise InputError(f"features of {x.shape[1]} dimensions for a probe of {len(self.mean)}", "refit the probe")
        weight, bias = torch.from_numpy(self.weight), torch.from_numpy(self.bias)
        out = np.empty((len(x), self.classes), dtype=np.float32)
        for start in range(0, len(x), _BLOCK_ROWS):
            part = torch.from_numpy((x[start : start + _BLOCK_ROWS] - self.mean) / self.scale)
            out[start : start + _BLOCK_ROWS] = torch.softmax(part @ weight.T + bias, dim=1).numpy()
        return out

    def arrays(self) -> Arrays:
        """Returns weight float32[C, d], bias float32[C], mean and scale float32[d] by name."""
        return {"weight": self.weight, "bias": self.bias, "mean": self.mean, "scale": self.scale}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, AnyArray]) -> LinearProbe:
        """Rebuilds a probe from arrays of `arrays`, weight float32[C, d] among them.

        Raises:
            InputError: an array is missing or has another shape.
        """
        missing = {"weight", "bias", "mean", "scale"} - set(arrays)
        if missing:
            raise InputError(f"a saved probe without {sorted(missing)}", "refit the probe")
        probe = cls(*(np.asarray(arrays[name], dtype=np.float32) for name in ("weight", "bias", "mean", "scale")))
        if probe.weight.shape != (len(probe.bias), len(probe.mean)) or probe.mean.shape != probe.scale.shape:
            raise InputError(f"a saved probe whose weight has shape {probe.weight.shape}", "refit the probe")
        return probe


def cross_fitted_predictions(
    features: FloatArray,
    labels: IntArray,
    classes: int,
    folds: int,
    evaluate: BoolArray,
    l2: float = 1e-3,
    seed: int = 0,
    groups: IntArray | None = None,
    scaling: Scaling = "one",
) -> Float32Array:
    """Predicts some labelled rows, each by a probe that was fitted without the row's fold.

    The evaluated rows are cut into folds; all other rows are part of every fit. With the gate's random first labels as
    evaluated rows, their accuracy estimates the accuracy on the pool, without bias by the gate's choices. The same
    evaluated rows in the same order fall into the same folds, so that rounds are comparable.

    Args:
        features: float[n, d] of all labelled rows.
        labels: int[n].
        classes: C.
        folds: number of folds; cut to the number of evaluated rows.
        evaluate: bool[n], rows to predict.
        l2, scaling: as in `LinearProbe.fit`.
        seed: seed of the folds.
        groups: int[n], equal for rows of which one reveals another's label: a row is predicted without any of its
            group, evaluated or not. None for none; they do not count where all evaluated rows are of one.

    Returns:
        float32[e, C], class probabilities of the evaluated rows in their order.

    Raises:
        InputError: there is nothing to evaluate or nothing left to fit on; and as `LinearProbe.fit`.
        UsageError: there are fewer than two folds.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds", "give 2 or more")
    if evaluate.shape != (len(features),) or evaluate.dtype != np.bool_:
        raise InputError(f"a mask {evaluate.dtype}{list(evaluate.shape)} of {len(features)} rows", "give bool[n]")
    measured = np.flatnonzero(evaluate)
    if len(measured) == 0 or len(features) < 2:
        raise InputError(
            f"{len(measured)} rows to evaluate of {len(features)}; 1 and 2 are the least", "label more random rows"
        )
    group = np.arange(len(features)) if groups is None or len(np.unique(groups[measured])) == 1 else groups
    # Groups in the order of their first rows, row after row where each is a group of its own.
    _, leads, member = np.unique(group[measured], return_index=True, return_inverse=True)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(measured))
    place = np.argsort(order)
    fold_of = np.argsort(np.argsort(place[leads]))[member] % folds
    predicted = np.empty((len(measured), classes), dtype=np.float32)
    for fold in range(min(folds, len(leads))):
        part = order[fold_of[order] == fold]
        fitted = ~np.isin(group, group[measured[part]])
        probe = LinearProbe.fit(features[fitted], labels[fitted], classes, l2, scaling=scaling)
        predicted[part] = probe.predict_proba(features[measured[part]])
    return predicted


def knn_accuracy(
    train_features: FloatArray,
    train_labels: IntArray,
    test_features: FloatArray,
    test_labels: IntArray,
    k: int = 20,
) -> float:
    """Computes the accuracy of the k nearest training rows' vote, weighted by exp(cosine similarity / 0.07).

    Weighted k-nearest neighbours as in Wu et al. 2018, arXiv 1805.01978. Ties go to the lower class.

    Args:
        train_features: float[n, d].
        train_labels: int[n], >= 0.
        test_features: float[m, d].
        test_labels: int[m], >= 0.
        k: number of neighbours; cut to n.

    Raises:
        InputError: there are no rows, rows are zero or not finite, shapes do not fit, or a label is below 0.
        UsageError: k is below 1.
    """
    if k < 1:
        raise UsageError(f"k = {k} neighbours", "give 1 or more")
    train, test = unit_rows(train_features), unit_rows(test_features)
    if min(len(train), len(test)) == 0 or train.shape[1] != test.shape[1]:
        raise InputError(f"training features {train.shape}, test features {test.shape}", "give rows of one dimension")
    classes = int(max(np.max(train_labels, initial=0), np.max(test_labels, initial=0))) + 1
    truth = _checked_labels(test_labels, len(test), classes)
    votes_for = torch.from_numpy(_checked_labels(train_labels, len(train), classes))
    right = 0
    block = max(1, _BLOCK_VALUES // len(train))
    for start in range(0, len(test), block):
        products = torch.from_numpy(test[start : start + block]) @ torch.from_numpy(train).T
        values, columns = products.topk(min(k, len(train)), dim=1)
        votes = torch.zeros(len(products), classes).scatter_add_(
            1, votes_for[columns], torch.exp(values / _TEMPERATURE)
        )
        right += int((votes.numpy().argmax(axis=1) == truth[start : start + block]).sum())
    return right / len(test)


def forward_losses(logits: torch.Tensor, labels: torch.Tensor, log_noise: torch.Tensor | None) -> torch.Tensor:
    """Computes -log P(given label) of each row, float[n]: cross-entropy, or forward-corrected cross-entropy.

    P(given label j) = sum_t softmax(logits)_t noise[t, j] (Patrini et al. 2017, arXiv 1609.03683, theorem 2).

    Args:
        logits: float[n, C], of the true classes.
        labels: int64[n], as given.
        log_noise: float[C, C], logarithms of P(given label | true class); None for labels without mistakes.
    """
    if log_noise is None:
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    given = torch.logsumexp(logits + log_noise.T[labels], dim=1)
    return torch.logsumexp(logits, dim=1) - given


def _minimise(
    x: torch.Tensor,
    y: torch.Tensor,
    row_weight: torch.Tensor,
    l2: float,
    begin: torch.Tensor,
    log_noise: torch.Tensor | None,
    change: float,
) -> torch.Tensor:
    """Returns parameters float32[C, d + 1], the bias last."""
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    parameters = begin.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [parameters],
        max_iter=_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=change,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        losses = forward_losses(x @ parameters.T, y, log_noise)
        value = (losses * row_weight).sum() + 0.5 * l2 * parameters.square().sum()
        value.backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]  # and this one
    return parameters.detach()


def _scale(x: Float32Array, mean: Float32Array, scaling: Scaling) -> Float32Array:
    scale = x.std(axis=0, dtype=np.float64)
    scale[scale <= 1e-6 * np.abs(mean)] = 0  # rounding errors of a constant feature
    if scaling == "one":
        scale[:] = np.sqrt(np.mean(scale**2))
    scale[scale == 0] = 1.0
    single: Float32Array = scale.astype(np.float32)
    return single


def _log_chances(noise: FloatArray, classes: int) -> torch.Tensor:
    if noise.shape != (classes, classes) or (noise < 0).any() or not np.allclose(noise.sum(axis=1), 1.0, atol=1e-4):
        raise InputError(
            f"a noise matrix of shape {noise.shape} for {classes} classes", "give P(given | true), rows of sum 1"
        )
    return torch.from_numpy(np.log(np.maximum(noise, _LEAST_CHANCE)).astype(np.float32))


def _checked(features: FloatArray, rows: int = 1) -> Float32Array:
    if features.ndim != 2 or features.dtype.kind not in "fiu" or len(features) < rows or features.shape[1] == 0:
        raise InputError(f"features {features.dtype}{list(features.shape)}", f"give float[n, d] with n >= {rows}")
    x = features.astype(np.float32)
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        first = np.flatnonzero(bad)[:5].tolist()
        raise InputError(f"{int(bad.sum())} of {len(x)} feature rows are not finite, first rows {first}", "reject them")
    return x


def _checked_labels(labels: IntArray, rows: int, classes: int) -> Int64Array:
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        raise InputError(f"labels {labels.dtype}{list(labels.shape)} for {rows} rows", "give one integer for each row")
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        some = np.unique(labels[outside])[:3].tolist()
        raise InputError(
            f"{int(outside.sum())} labels are outside 0..{classes - 1}: {some}", "correct or drop those rows"
        )
    return labels.astype(np.int64)


def _checked_weights(weights: FloatArray | None, rows: int) -> torch.Tensor:
    w = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (rows,) or not np.isfinite(w).all() or (w < 0).any() or w.sum() == 0:
        raise InputError(f"sample weights of shape {w.shape} for {rows} rows", "give finite weights >= 0, not all 0")
    return torch.from_numpy((w / w.sum()).astype(np.float32))
