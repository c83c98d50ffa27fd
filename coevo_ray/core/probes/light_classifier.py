"""The gate's light classifier: linear on fixed features, tuned, calibrated and validated on its own labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array
from coevo_ray.core.probes.calibration import apply_temperature, fit_temperature
from coevo_ray.core.probes.probe import LinearProbe, Scaling, cross_fitted_predictions
from coevo_ray.errors import InputError

_FOLDS = 5
_LEAST_CALIBRATED = 50
_LEAST_VALIDATED = 200  # the loss of fewer rows is too uncertain to stop by
# Of log T, where there are rows that the probe did not learn from: a probe with a tuned penalty is nearly calibrated,
# and some fifty rows weigh as much.
_TEMPERATURE_SPREAD = 0.25
# The penalty is one of these / labels (as scikit-learn's C has it). No single one serves all pools: on frozen features
# of CIFAR-10, 100 was best from 500 to 2 000 labels (3 points above 20), on handwritten digits 3 (2 points above 100).
# With one scale for all features stronger ones pay, too; gates of version 0.1.0 go on with theirs.
_DECAY_ROWS: dict[Scaling, tuple[float, ...]] = {
    "one": (3.0, 10.0, 30.0, 100.0, 300.0),
    "each": (3.0, 10.0, 30.0, 100.0),
}
_USUAL_DECAY_ROWS = 30.0


@dataclass(frozen=True, eq=False)
class LightClassifier:
    """A linear probe with calibrated confidence.

    Attributes:
        probe: the probe.
        temperature: T of its calibration.
        decay_rows: its weight decay times the number of labels.
        validation_loss: cross-entropy in nats on the validation rows, None below 50 of them; where none are given, on
            the random first labels, each predicted by a fit without its fold, None below 200 of them. The latter is too
            high once rows are chosen, for they are chosen away from the very rows that are left out.
        validation_accuracy: accuracy on the same rows.
    """

    probe: LinearProbe
    temperature: float
    decay_rows: float
    validation_loss: float | None
    validation_accuracy: float | None

    def __call__(self, features: FloatArray) -> Float32Array:
        """Predicts class probabilities float32[n, C] of features float[n, d]; uniform for rows that are not finite."""
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
    groups: Int64Array | None = None,
    l2: float | None = None,
    decay_rows: float | None = None,
    calibrate: bool = True,
    seed: int = 0,
    scaling: Scaling = "one",
    validation: tuple[Float32Array, Int64Array] | None = None,
) -> LightClassifier:
    """Fits the classifier on all labels so far, and chooses its penalty by cross-validation.

    Its temperature is fitted on validation rows, or by cross-validation where there are none.

    Args:
        features: float32[n, d], of the labelled rows.
        labels: int64[n] in 0..C-1.
        first: bool[n], the random first rows, on which it is tuned, calibrated and validated.
        classes: C.
        copies: features float32[m, d] and labels int64[m] of near-duplicates, for the final fit only: in validation, a
            copy of a row would reveal the row's label.
        groups: int64[n], equal for near-duplicates among the labelled rows, which validation keeps on one side.
        l2: weight decay; None for `decay_rows` / labels.
        decay_rows: weight decay times labels; None chooses the strongest that is as good as the best on the first rows.
        calibrate: fit a temperature.
        seed: seed of the folds.
        scaling: see `LinearProbe.fit`.
        validation: features float32[v, d] and labels int64[v] of random rows that are not learned from; None where no
            such rows are kept.

    Raises:
        InputError: there are no labels, or features and labels do not fit.
    """
    if len(labels) == 0 or first.shape != labels.shape:
        raise InputError(f"{len(labels)} labels and a mask of {first.shape}", "label some rows first")
    chosen, temperature, loss, accuracy = decay_rows or _USUAL_DECAY_ROWS, 1.0, None, None
    if first.sum() >= _LEAST_CALIBRATED:
        tried = (chosen,) if decay_rows is not None or l2 is not None else _DECAY_ROWS[scaling]
        found = [
            _validated(features, labels, first, classes, l2 or rows / len(labels), seed, groups, scaling)
            for rows in tried
        ]
        index = _strongest_of_the_best([losses for losses, _ in found])
        chosen, (losses, predicted) = tried[index], found[index]
        temperature = fit_temperature(predicted, labels[first]) if calibrate else 1.0
        if first.sum() >= _LEAST_VALIDATED:
            loss, accuracy = float(losses.mean()), float((predicted.argmax(axis=1) == labels[first]).mean())
    if copies is not None and len(copies[1]):
        features, labels = np.concatenate([features, copies[0]]), np.concatenate([labels, copies[1]])
    decay = l2 if l2 is not None else chosen / len(labels)
    probe = LinearProbe.fit(features, labels, classes, decay, scaling=scaling)
    if validation is not None:
        temperature, loss, accuracy = _on_validation(probe, *validation, calibrate)
    return LightClassifier(probe, temperature, chosen, loss, accuracy)


def _on_validation(
    probe: LinearProbe, features: Float32Array, labels: Int64Array, calibrate: bool
) -> tuple[float, float | None, float | None]:
    """Temperature, cross-entropy and accuracy by rows that the probe did not learn from."""
    if len(labels) == 0:
        return 1.0, None, None
    predicted = probe.predict_proba(features)
    temperature = fit_temperature(predicted, labels, _TEMPERATURE_SPREAD) if calibrate else 1.0
    if len(labels) < _LEAST_CALIBRATED:
        return temperature, None, None
    right = apply_temperature(predicted, temperature)[np.arange(len(labels)), labels].astype(np.float64)
    loss = float(-np.log(np.maximum(right, 1e-12)).mean())
    return temperature, loss, float((predicted.argmax(axis=1) == labels).mean())


def _validated(
    features: Float32Array,
    labels: Int64Array,
    first: BoolArray,
    classes: int,
    l2: float,
    seed: int,
    groups: Int64Array | None,
    scaling: Scaling,
) -> tuple[Float64Array, Float32Array]:
    """Returns the first rows' cross-entropies and predictions, each by a fit without the row's fold."""
    predicted = cross_fitted_predictions(features, labels, classes, _FOLDS, first, l2, seed, groups, scaling)
    right = predicted[np.arange(len(predicted)), labels[first]].astype(np.float64)
    return -np.log(np.maximum(right, 1e-12)), predicted


def _strongest_of_the_best(losses: list[Float64Array]) -> int:
    """Returns the index of the last (strongest) penalty within two standard errors (paired) of the least mean loss.

    On a few hundred rows a weak penalty looks as good as a stronger one, and then hides the gain of further labels: on
    a long-tailed pool the gate stopped at half the labels that it needed.
    """
    least = losses[int(np.argmin([each.mean() for each in losses]))]
    fits = [i for i, each in enumerate(losses) if _not_worse(each - least)]
    return fits[-1]


def _not_worse(difference: Float64Array) -> bool:
    return bool(difference.mean() <= 2.0 * difference.std() / np.sqrt(len(difference)))
