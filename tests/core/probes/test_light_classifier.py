"""The gate's light classifier: its choice of regularisation, calibration and validation against doing it by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coevo_ray.core.probes.calibration import apply_temperature, fit_temperature
from coevo_ray.core.probes.light_classifier import fit_light_classifier
from coevo_ray.core.probes.probe import LinearProbe, Scaling, cross_fitted_predictions
from coevo_ray.errors import InputError


def problem(rows: int = 300, seed: int = 0) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, rows)
    features = (np.eye(20)[labels] + 0.6 * random.standard_normal((rows, 20))).astype(np.float32)
    return features, labels.astype(np.int64), np.arange(rows) % 4 != 0


def cross_entropy(predicted: Any, labels: Any) -> float:
    return float(np.mean([-np.log(p[label]) for p, label in zip(predicted, labels, strict=True)]))


def worse(predicted: Any, best: Any, labels: Any) -> bool:
    """Whether the mean loss is above the best one's by more than two standard errors of the difference, row by row."""
    pairs = zip(predicted, best, labels, strict=True)
    gaps = [np.log(float(b[label])) - np.log(float(p[label])) for p, b, label in pairs]
    return bool(np.mean(gaps) > 2 * np.std(gaps) / np.sqrt(len(gaps)))


@pytest.mark.parametrize(
    ("scaling", "tried"), [("one", (3.0, 10.0, 30.0, 100.0, 300.0)), ("each", (3.0, 10.0, 30.0, 100.0))]
)
def test_it_takes_the_decay_of_the_least_loss_and_says_what_it_measured(scaling: Scaling, tried: Any) -> None:
    features, labels, first = problem()
    fitted = fit_light_classifier(features, labels, first, 3, seed=7, scaling=scaling)
    losses = {}
    for rows in tried:
        predicted = cross_fitted_predictions(features, labels, 3, 5, first, rows / 300, 7, scaling=scaling)
        losses[rows] = (cross_entropy(predicted, labels[first]), predicted)
    least = min(losses, key=lambda rows: losses[rows][0])
    equal = [rows for rows in tried if not worse(losses[rows][1], losses[least][1], labels[first])]
    assert fitted.decay_rows == max(equal)
    loss, predicted = losses[fitted.decay_rows]
    assert fitted.validation_loss == pytest.approx(loss, abs=1e-5)
    assert fitted.validation_accuracy == (predicted.argmax(axis=1) == labels[first]).mean()
    assert fitted.temperature == pytest.approx(fit_temperature(predicted, labels[first]))
    probe = LinearProbe.fit(features, labels, 3, fitted.decay_rows / 300, scaling=scaling)
    assert fitted(features) == pytest.approx(apply_temperature(probe.predict_proba(features), fitted.temperature))
    given = fit_light_classifier(features, labels, first, 3, decay_rows=3.0, calibrate=False)
    assert (given.decay_rows, given.temperature) == (3.0, 1.0)


def test_copies_teach_but_do_not_validate() -> None:
    features, labels, first = problem()
    alone = fit_light_classifier(features, labels, first, 3)
    wrong = (features + 0.01, (labels + 1) % 3)
    misled = fit_light_classifier(features, labels, first, 3, copies=wrong)
    assert misled.validation_loss == alone.validation_loss and misled.temperature == alone.temperature
    right = (alone(features).argmax(axis=1) == labels).mean()
    assert (misled(features).argmax(axis=1) == labels).mean() < right - 0.2


def test_few_first_rows_measure_nothing() -> None:
    features, labels, _ = problem()
    for count, calibrated, validated in ((49, False, False), (50, True, False), (199, True, False), (200, True, True)):
        fitted = fit_light_classifier(features, labels, np.arange(300) < count, 3)
        assert (fitted.temperature != 1.0, fitted.validation_loss is not None) == (calibrated, validated)


def test_rows_that_are_not_finite_get_no_opinion() -> None:
    features, labels, first = problem()
    fitted = fit_light_classifier(features, labels, first, 3)
    asked = features[:3].copy()
    asked[1, 4] = np.nan
    assert fitted(asked)[1] == pytest.approx([1 / 3] * 3)
    assert fitted(asked)[[0, 2]] == pytest.approx(fitted(features[[0, 2]]))
    with pytest.raises(InputError, match="0 labels"):
        fit_light_classifier(features[:0], labels[:0], first[:0], 3)


def test_a_copy_never_sits_in_the_other_fold() -> None:
    """Every row twice, with labels that no feature tells: only a copy in the fit could reveal them."""
    random = np.random.default_rng(0)
    features = np.repeat(random.standard_normal((150, 60)), 2, axis=0).astype(np.float32)
    labels = np.repeat(random.integers(0, 3, 150), 2).astype(np.int64)
    first, groups = np.arange(300) % 2 == 0, np.repeat(np.arange(150) + 1000, 2)
    some = np.ones(300, dtype=bool)
    for asked in (some, first | (np.arange(300) >= 100)):
        alone, kept = (
            fit_light_classifier(features, labels, asked, 3, decay_rows=3.0, groups=g) for g in (None, groups)
        )
        assert alone.validation_accuracy is not None and kept.validation_accuracy is not None
        assert alone.validation_accuracy > 0.5, "the copy gives the label away"
        assert kept.validation_accuracy < 0.4


def test_groups_of_one_row_change_nothing() -> None:
    features, labels, first = problem()
    alone = fit_light_classifier(features, labels, first, 3)
    own = fit_light_classifier(features, labels, first, 3, groups=np.random.default_rng(1).permutation(300))
    one = fit_light_classifier(features, labels, first, 3, groups=np.zeros(300, dtype=np.int64))
    for other in (own, one):
        assert (other.validation_loss, other.temperature) == (alone.validation_loss, alone.temperature)


@pytest.mark.parametrize("rows", [0, 20, 120])
def test_validation_rows_calibrate_and_measure_but_teach_nothing(rows: int) -> None:
    features, labels, first = problem()
    others, truth, _ = problem(rows, seed=1)
    fitted = fit_light_classifier(features, labels, first, 3, validation=(others, truth))
    plain = fit_light_classifier(features, labels, first, 3)
    assert np.array_equal(fitted.probe.weight, plain.probe.weight) and fitted.decay_rows == plain.decay_rows
    if rows == 0:
        assert (fitted.temperature, fitted.validation_loss, fitted.validation_accuracy) == (1.0, None, None)
        return
    predicted = plain.probe.predict_proba(others)

    def posterior(temperature: float) -> float:
        """Loss of all rows, and that of a temperature away from 1."""
        scaled = apply_temperature(predicted, temperature)
        return float(rows * cross_entropy(scaled, truth) + 0.5 * (np.log(temperature) / 0.25) ** 2)

    grid = np.exp(np.linspace(-1.5, 1.5, 1201))
    best = grid[int(np.argmin([posterior(t) for t in grid]))]
    assert fitted.temperature == pytest.approx(best, rel=0.01) and fitted.temperature != 1.0
    if rows < 50:
        assert fitted.validation_loss is None and fitted.validation_accuracy is None
        return
    assert fitted.validation_loss == pytest.approx(cross_entropy(fitted(others), truth), abs=1e-5)
    assert fitted.validation_accuracy == (predicted.argmax(axis=1) == truth).mean()
