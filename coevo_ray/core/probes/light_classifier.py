"""The gate's light classifier: linear on fixed features, regularised, calibrated and validated by its own labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array
from coevo_ray.core.probes.calibration import apply_temperature, fit_temperature
from coevo_ray.core.probes.probe import LinearProbe, cross_fitted_predictions
from coevo_ray.errors import InputError

_FOLDS = 5
_LEAST_CALIBRATED = 50
_LEAST_VALIDATED = 200  # the loss of fewer rows is too uncertain to stop by
# The penalty is one of these / labels (as scikit-learn's C has it). On frozen features of CIFAR-10 100 is best from 500
# to 2 000 labels (3 points above 20), on those of handwritten digits 3 (2 points above 100).
_DECAY_ROWS = (3.0, 10.0, 30.0, 100.0)
_USUAL_DECAY_ROWS = 30.0


@dataclass(frozen=True, eq=False)
class LightClassifier:
    """A linear probe with calibrated confidence.

    Attributes:
        probe: the probe.
        temperature: its calibration.
        decay_rows: its weight decay times labels.
        validation_loss: cross-entropy in nats on the random first labels, each predicted without its fold: an unbiased
            estimate that needs no further labels; None below 200 of them.
        validation_accuracy: accuracy there.
    """

    probe: LinearProbe
    temperature: float
    decay_rows: float
    validation_loss: float | None
    validation_accuracy: float | None

    def __call__(self, features: FloatArray) -> Float32Array:
        """Class probabilities, float32[n, C], of features float[n, d]; uniform where one is not finite."""
        finite = np.isfinite(features).all(axis=1)
        predicted = np.full((len(features), self.probe.classes), 1.0 / self.probe.classes, dtype=np.float32)
        predicted[finite] = apply_temperature(self.probe.predict_proba(features[finite]), self.temperature)
        return predicted


def fit_light_classifier(
    features: Float32Array,
    labels: Int64Array,
    first: BoolArray,
    classes: int,
    *,
    copies: tuple[Float32Array, Int64Array] | None = None,
    l2: float | None = None,
    decay_rows: float | None = None,
    calibrate: bool = True,
    seed: int = 0,
) -> LightClassifier:
    """Fits the classifier on all labels so far.

    Args:
        features: float32[n, d], of the labelled rows.
        labels: int64[n] in 0..C-1.
        first: bool[n], the random first rows, which calibrate and validate.
        classes: C.
        copies: features float32[m, d] and labels int64[m] of near-duplicates, which teach, but neither calibrate nor
            validate: a copy of a row would tell its label.
        l2: weight decay; None for `decay_rows` / labels.
        decay_rows: weight decay times labels; None chooses the strongest that is as good as the best on
            the first rows.
        calibrate: whether a temperature is fitted.
        seed: of the folds.

    Raises:
        InputError: no labels, or features and labels that do not fit.
    """
    if len(labels) == 0 or first.shape != labels.shape:
        raise InputError(f"{len(labels)} labels and a mask of {first.shape}", "label some rows first")
    chosen, temperature, loss, accuracy = decay_rows or _USUAL_DECAY_ROWS, 1.0, None, None
    if first.sum() >= _LEAST_CALIBRATED:
        tried = (chosen,) if decay_rows is not None or l2 is not None else _DECAY_ROWS
        found = [_validated(features, labels, first, classes, l2 or rows / len(labels), seed) for rows in tried]
        best = _strongest_of_the_best([losses for losses, _ in found])
        chosen, (losses, predicted) = tried[best], found[best]
        temperature = fit_temperature(predicted, labels[first]) if calibrate else 1.0
        if first.sum() >= _LEAST_VALIDATED:
            loss, accuracy = float(losses.mean()), float((predicted.argmax(axis=1) == labels[first]).mean())
    if copies is not None and len(copies[1]):
        features, labels = np.concatenate([features, copies[0]]), np.concatenate([labels, copies[1]])
    probe = LinearProbe.fit(features, labels, classes, l2 if l2 is not None else chosen / len(labels))
    return LightClassifier(probe, temperature, chosen, loss, accuracy)


def _validated(
    features: Float32Array, labels: Int64Array, first: BoolArray, classes: int, l2: float, seed: int
) -> tuple[Float64Array, Float32Array]:
    """Cross-entropy of each of the first rows, and their predictions, each without its fold."""
    predicted = cross_fitted_predictions(features, labels, classes, folds=_FOLDS, evaluate=first, l2=l2, seed=seed)
    right = predicted[np.arange(len(predicted)), labels[first]].astype(np.float64)
    return -np.log(np.maximum(right, 1e-12)), predicted


def _strongest_of_the_best(losses: list[Float64Array]) -> int:
    """The last, which is the strongest, whose mean loss is within two standard errors (paired) of the least.

    A weak penalty looks as good as a stronger one on a few hundred rows, and then hides what further labels would give:
    on a long-tailed pool the gate stopped at half the labels that it needed.
    """
    least = losses[int(np.argmin([each.mean() for each in losses]))]
    fits = [i for i, each in enumerate(losses) if _not_worse(each - least)]
    return fits[-1]


def _not_worse(difference: Float64Array) -> bool:
    return bool(difference.mean() <= 2.0 * difference.std() / np.sqrt(len(difference)))
