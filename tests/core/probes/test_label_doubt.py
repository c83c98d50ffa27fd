"""Doubt about labels: it finds what was made wrong, and nothing where nothing was."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from coevo_ray.core.probes.label_doubt import cross_fitted, label_doubt
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError

ROWS, CLASSES = 6000, 5
Features = npt.NDArray[np.float64]


def clouds(sizes: list[int], spread: float = 0.45) -> tuple[Features, npt.NDArray[np.int64]]:
    """Rows about the corners of a simplex; neighbouring classes overlap."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.eye(len(sizes))[labels] + spread * random.standard_normal((len(labels), len(sizes))), labels


def test_wrong_labels_are_doubted_and_right_ones_are_not() -> None:
    features, true = clouds([ROWS // CLASSES] * CLASSES)
    random = np.random.default_rng(1)
    wrong = random.random(ROWS) < 0.2
    labels = np.where(wrong, (true + random.integers(1, CLASSES, ROWS)) % CLASSES, true)
    doubted = label_doubt(cross_fitted(features, labels), labels) > 0.5
    assert doubted[wrong].mean() > 0.6
    assert doubted[~wrong].mean() < 0.05


@pytest.mark.parametrize("sizes", [[1200] * 5, [5000, 1500, 400, 120, 30]])
def test_nobody_is_doubted_without_mistakes_however_rare_the_class(sizes: list[int]) -> None:
    features, labels = clouds(sizes)
    doubted = label_doubt(cross_fitted(features, labels), labels) > 0.5
    assert doubted.mean() < 0.01


def test_doubt_is_the_share_of_mistakes_over_the_probability() -> None:
    random = np.random.default_rng(2)
    probabilities = random.dirichlet(np.ones(3), 2000).astype(np.float32)
    labels = random.integers(0, 3, 2000)
    doubt = label_doubt(probabilities, labels)
    for row in range(0, 2000, 97):
        likely = probabilities[:, labels[row]]
        anchors = np.argsort(likely)[:200]
        mistakes = (labels[anchors] == labels[row]).mean()
        assert doubt[row] == pytest.approx(min(1.0, mistakes / likely[row]), rel=1e-5)


def test_a_pool_too_small_to_tell_doubts_nobody() -> None:
    random = np.random.default_rng(3)
    assert not label_doubt(random.dirichlet(np.ones(3), 900), random.integers(0, 3, 900)).any()


def test_every_row_is_predicted_by_a_probe_that_never_saw_it() -> None:
    features, labels = clouds([40, 30, 30])
    probabilities = cross_fitted(features, labels, folds=3, seed=5)
    part = hash_rows(np.arange(100, dtype=np.int64), 5) % np.uint64(3)
    for fold in range(3):
        probe = LinearProbe.fit(features[part != fold], labels[part != fold], 3, 1e-3)
        assert np.allclose(probabilities[part == fold], probe.predict_proba(features[part == fold]), atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    features, labels = clouds([10, 10])
    with pytest.raises(UsageError, match="1 folds"):
        cross_fitted(features, labels, folds=1)
    with pytest.raises(InputError, match="1 of them without a label"):
        cross_fitted(features, np.where(np.arange(20) == 3, -1, labels))
    with pytest.raises(InputError, match="3 labels for probabilities of 20 rows"):
        label_doubt(cross_fitted(features, labels), labels[:3])
