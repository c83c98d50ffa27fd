from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.probes.calibration import apply_temperature, fit_temperature
from coevo_ray.errors import InputError


def cross_entropy(probabilities: Any, labels: Any) -> float:
    return float(np.mean([-np.log(max(row[label], 1e-30)) for row, label in zip(probabilities, labels, strict=True)]))


@given(st.integers(0, 50), st.floats(0.2, 5.0))
def test_it_finds_the_temperature_that_was_applied(seed: int, temperature: float) -> None:
    random = np.random.default_rng(seed)
    truth = random.dirichlet(np.ones(4), size=4000)
    labels = (truth.cumsum(axis=1) > random.random((4000, 1))).argmax(axis=1)
    sharpened = apply_temperature(truth, temperature)
    assert fit_temperature(sharpened, labels) == pytest.approx(1 / temperature, rel=0.12)


def test_no_temperature_of_a_fine_grid_is_better() -> None:
    random = np.random.default_rng(3)
    probabilities, labels = random.dirichlet(np.ones(5), size=60), random.integers(0, 5, 60)
    found = fit_temperature(probabilities, labels)
    best = cross_entropy(apply_temperature(probabilities, found), labels)
    for temperature in np.geomspace(0.05, 20, 400):
        assert best <= cross_entropy(apply_temperature(probabilities, float(temperature)), labels) + 1e-6


def test_applying_by_hand() -> None:
    p = np.array([[0.8, 0.2]])
    assert apply_temperature(p, 2.0) == pytest.approx(np.array([[2 / 3, 1 / 3]]))  # sqrt(0.8) : sqrt(0.2) = 2 : 1
    assert apply_temperature(p, 1.0) == pytest.approx(p)


def test_predictions_without_labels_are_refused() -> None:
    for probabilities, labels in ((np.ones((0, 2)), np.zeros(0, int)), (np.ones((3, 2)) / 2, np.zeros(2, int))):
        with pytest.raises(InputError, match="labels of shape"):
            fit_temperature(probabilities, labels)
