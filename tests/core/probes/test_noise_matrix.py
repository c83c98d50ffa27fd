"""The noise matrix against loops, and Bayes' rule by hand."""

from __future__ import annotations

from math import lgamma

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.probes.noise_matrix import (
    bayes_doubt,
    count_anchors,
    expected_counts,
    label_chances,
    noise_of,
    smooth_counts,
    surest_disagreement,
)
from coevo_ray.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def problem(rows: int = 60, classes: int = 4, seed: int = 0) -> tuple[Floats, Floats, Ints]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(classes), rows)
    noise = 0.7 * np.eye(classes) + 0.3 * random.dirichlet(np.ones(classes), classes)
    return probabilities, noise, random.integers(0, classes, rows)


def posterior(probabilities: Floats, noise: Floats, label: int) -> list[float]:
    joint = [p * noise[t, label] for t, p in enumerate(probabilities)]
    return [value / sum(joint) for value in joint]


@given(st.integers(0, 999))
def test_doubt_is_bayes_rule_row_by_row(seed: int) -> None:
    probabilities, noise, labels = problem(seed=seed)
    doubt = bayes_doubt(probabilities, noise, labels)
    assert doubt.dtype == np.float32 and 0 <= doubt.min() <= doubt.max() <= 1
    for row, label in enumerate(labels):
        assert doubt[row] == pytest.approx(1 - posterior(probabilities[row], noise, label)[label], abs=1e-6)


def test_chances_and_expected_counts_row_by_row() -> None:
    probabilities, noise, labels = problem()
    chances = label_chances(probabilities, noise, labels)
    counts = np.zeros((4, 4))
    for row, label in enumerate(labels):
        assert chances[row] == pytest.approx(sum(probabilities[row, t] * noise[t, label] for t in range(4)))
        for t, share in enumerate(posterior(probabilities[row], noise, label)):
            counts[t, label] += share
    found = expected_counts(probabilities, noise, labels)
    np.testing.assert_allclose(found, counts, atol=1e-9)
    assert found.sum() == pytest.approx(len(labels))


def test_without_mistakes_no_label_is_doubted_however_unlikely() -> None:
    probabilities = np.array([[1.0, 0.0], [1e-9, 1.0], [0.5, 0.5]])
    assert not bayes_doubt(probabilities, np.eye(2), np.array([1, 0, 1])).any()


def test_anchors_are_the_surest_fifth_of_each_predicted_class() -> None:
    probabilities, _, labels = problem(300, classes=3)
    expected = np.zeros((3, 3))
    for c in range(3):
        members = [row for row in range(300) if probabilities[row].argmax() == c]
        members.sort(key=lambda row: -probabilities[row].max())
        for row in members[: max(5, round(0.2 * len(members)))]:
            expected[c, labels[row]] += 1
    np.testing.assert_array_equal(count_anchors(probabilities, labels), expected)


def test_a_class_that_is_never_predicted_has_no_anchors() -> None:
    probabilities = np.tile([0.6, 0.3, 0.1], (20, 1))
    counts = count_anchors(probabilities, np.zeros(20, dtype=np.int64))
    assert counts[0].tolist() == [5, 0, 0] and not counts[1:].any()


def test_the_surest_end_is_that_of_a_weighted_line() -> None:
    probabilities, _, labels = problem(400)
    order = sorted(range(400), key=lambda row: -probabilities[row].max())[:80]
    rank = [(i + 0.5) / 80 for i in range(80)]
    wrong = [float(labels[row] != probabilities[row].argmax()) for row in order]
    slope, value = np.polyfit(rank, wrong, 1, w=[np.sqrt(1 - u) for u in rank])
    found, error = surest_disagreement(probabilities, labels)
    assert found == pytest.approx(value, abs=1e-9)
    # White's covariance, sum by sum.
    matrix, middle = np.zeros((2, 2)), np.zeros((2, 2))
    for u, d in zip(rank, wrong, strict=True):
        x, weight = np.array([1.0, u]), 1 - u
        matrix += weight * np.outer(x, x)
        middle += (weight * (d - value - slope * u)) ** 2 * np.outer(x, x)
    inverse = np.linalg.inv(matrix)
    assert error == pytest.approx(np.sqrt((inverse @ middle @ inverse)[0, 0]), abs=1e-9)


def test_mistakes_of_a_share_are_read_at_the_surest_end_and_hard_rows_are_not_taken_for_them() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1.0, 20_000)
    probabilities = np.column_stack([sure, 1 - sure])
    right = random.random(20_000) > (1 - sure)  # probabilities are what they say: the surest rows are right
    clean = np.where(right, 0, 1)
    value, error = surest_disagreement(probabilities, clean)
    assert abs(value) < 3 * error + 0.01
    wrong = random.random(20_000) < 0.2
    value, error = surest_disagreement(probabilities, np.where(wrong, 1 - clean, clean))
    assert value == pytest.approx(0.2, abs=3 * error + 0.01)
    assert error < 0.03


def likeliest_concentration(counts: Floats, base: Floats) -> float:
    """By loops over rows and cells of base above 0."""

    def likelihood(a: float) -> float:
        total = 0.0
        for row, mean in zip(counts, base, strict=True):
            total += lgamma(a) - lgamma(a + row.sum())
            total += sum(lgamma(n + a * m) - lgamma(a * m) for n, m in zip(row, mean, strict=True) if m > 0)
        return total

    return float(max(np.geomspace(0.1, 3000.0, 24), key=likelihood))


def test_counts_are_smoothed_as_the_dirichlet_multinomial_likelihood_says() -> None:
    counts = np.array([[50.0, 6, 1, 0], [2, 40, 0, 1], [0, 0, 60, 0], [1, 9, 3, 30]])
    pattern, rates = smooth_counts(counts)
    wrong = counts - np.diag(np.diag(counts))
    equal = (1 - np.eye(4)) / 3
    a = likeliest_concentration(wrong, equal)
    np.testing.assert_allclose(pattern, (wrong + a * equal) / (wrong.sum(axis=1, keepdims=True) + a))
    mean = wrong.sum() / counts.sum()
    split = np.stack([wrong.sum(axis=1), np.diag(counts)], axis=1)
    b = likeliest_concentration(split, np.tile([mean, 1 - mean], (4, 1)))
    np.testing.assert_allclose(rates, (wrong.sum(axis=1) + b * mean) / (counts.sum(axis=1) + b))


def test_smoothing_tells_pairs_from_mistakes_that_may_be_any() -> None:
    classes = 20
    pairs, any_class = 40 * np.eye(classes), 40 * np.eye(classes)
    random = np.random.default_rng(0)
    for c in range(classes):
        pairs[c, (c + 1) % classes] = 10
        for other in random.integers(1, classes, 10):
            any_class[c, (c + other) % classes] += 1
    assert (smooth_counts(pairs)[0][np.arange(classes), (np.arange(classes) + 1) % classes] > 0.95).all()
    assert smooth_counts(any_class)[0].max() < 0.1


@given(st.integers(0, 999), st.floats(0.01, 0.4))
def test_the_matrix_has_the_level_and_rows_of_sum_one(seed: int, level: float) -> None:
    random = np.random.default_rng(seed)
    pattern, rates = smooth_counts(random.integers(0, 5, (5, 5)) + 20.0 * np.eye(5))
    prior = random.dirichlet(np.full(5, 5.0))
    noise = noise_of(pattern, rates, prior, level)
    np.testing.assert_allclose(noise.sum(axis=1), 1)
    assert (noise >= 0).all() and (np.diagonal(noise) >= 0.4 - 1e-9).all()
    if (rates * level / (prior @ rates) < 0.6).all():
        assert prior @ (1 - np.diagonal(noise)) == pytest.approx(level)


def test_no_mistakes_make_the_identity() -> None:
    pattern, rates = smooth_counts(30 * np.eye(3))
    assert not rates.any()
    np.testing.assert_array_equal(noise_of(pattern, rates, np.full(3, 1 / 3), 0.2), np.eye(3))


def test_what_does_not_fit_is_refused() -> None:
    probabilities, noise, labels = problem()
    for bad in (labels[:3], np.where(np.arange(60) == 2, 4, labels)):
        with pytest.raises(InputError, match="60 rows"):
            bayes_doubt(probabilities, noise, bad)
