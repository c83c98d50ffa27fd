"""Irreducible loss: the cross-entropy of labels under probes of other rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coevo_ray.core.probes.irreducible import irreducible_loss
from coevo_ray.core.probes.label_doubt import cross_fitted
from coevo_ray.errors import InputError


def test_it_is_the_cross_entropy_of_the_labels() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(3), 50)
    labels = random.integers(0, 3, 50)
    expected = [-math.log(probabilities[i, label]) for i, label in enumerate(labels.tolist())]
    assert irreducible_loss(probabilities, labels) == pytest.approx(expected, rel=1e-5)
    certain = irreducible_loss(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    assert certain.dtype == np.float32 and certain.tolist() == pytest.approx([0.0, -math.log(1e-7)])
    assert np.isfinite(certain.astype(np.float16)).all()


def test_wrong_labels_have_more_than_right_ones_though_probes_were_fitted_on_them() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 3000)
    features = (np.eye(5)[labels] * 4 + random.normal(size=(3000, 5))).astype(np.float32)
    given, wrong = labels.copy(), np.arange(3000) < 600
    given[wrong] = (labels[wrong] + random.integers(1, 5, 600)) % 5
    losses = irreducible_loss(cross_fitted(features, given), given)
    assert losses[wrong].min() > 0.5 and np.median(losses[wrong]) > 5 * np.median(losses[~wrong])


@pytest.mark.parametrize("labels", [[0], [0, 3], [-1, 0]])
def test_labels_that_do_not_fit_are_refused(labels: list[int]) -> None:
    with pytest.raises(InputError, match="labels for probabilities of 2 rows, 3 classes"):
        irreducible_loss(np.full((2, 3), 1 / 3), np.array(labels))
