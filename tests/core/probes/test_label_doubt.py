"""Doubt about labels: it finds what was made wrong, and nothing where nothing was."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from coevo_ray.core.probes.former_doubt import former_doubt, mistake_rates
from coevo_ray.core.probes.label_doubt import (
    find_mistakes,
    fold_of,
    fold_probes,
    label_doubt,
    most_doubted,
    predict_folds,
)
from coevo_ray.core.probes.noise_matrix import fewest_rows
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.messy import make_messy

ROWS, CLASSES = 6000, 5
Features = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Wrong = npt.NDArray[np.bool_]


def clouds(sizes: list[int], spread: float = 0.45) -> tuple[Features, Ints]:
    """Rows about the corners of a simplex; neighbouring classes overlap."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.eye(len(sizes))[labels] + spread * random.standard_normal((len(labels), len(sizes))), labels


@cache
def digits() -> tuple[Features, Ints]:
    data = load_digits()
    return data.data.astype(np.float32), data.target.astype(np.int64)


def swapped(labels: Ints, other: list[int], seed: int) -> tuple[Ints, Wrong]:
    """A fifth of the labels moved to another class, the same one for each class."""
    random = np.random.default_rng(seed)
    given = labels.copy()
    some = random.permutation(len(labels))[: round(0.2 * len(labels))]
    given[some] = np.array(other)[labels[some]]
    return given, given != labels


def quality(doubt: npt.NDArray[np.float32], wrong: Wrong) -> tuple[float, float]:
    doubted = doubt > 0.5
    return float(doubted[wrong].mean()), float(wrong[doubted].mean())


def test_wrong_labels_are_doubted_and_right_ones_are_not() -> None:
    features, true = clouds([ROWS // CLASSES] * CLASSES)
    random = np.random.default_rng(1)
    wrong = random.random(ROWS) < 0.2
    labels = np.where(wrong, (true + random.integers(1, CLASSES, ROWS)) % CLASSES, true)
    doubted = label_doubt(features, labels) > 0.5
    assert doubted[wrong].mean() > 0.6
    assert doubted[~wrong].mean() < 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_of_the_most_similar_class_are_found(seed: int) -> None:
    features, labels = digits()
    means = np.stack([features[labels == c].mean(axis=0) for c in range(10)])
    distance = ((means[:, None] - means[None]) ** 2).sum(axis=2) + 1e9 * np.eye(10)
    given, wrong = swapped(labels, distance.argmin(axis=1).tolist(), seed)
    recall, precision = quality(label_doubt(features, given, seed=seed), wrong)
    assert recall > 0.7
    assert precision > 0.8


@pytest.mark.parametrize("seed", [0, 1])
def test_swaps_of_some_classes_alone_are_found(seed: int) -> None:
    """3 with 8, 1 with 7, 4 with 9: the surest rows, of the other classes, have no mistakes."""
    features, labels = digits()
    given, wrong = swapped(labels, [0, 7, 2, 8, 9, 5, 6, 1, 3, 4], seed)
    recall, precision = quality(label_doubt(features, given, seed=seed), wrong)
    assert recall > 0.7
    assert precision > 0.7


def test_labels_of_any_class_are_found_among_digits() -> None:
    features, labels = digits()
    random = np.random.default_rng(0)
    wrong = random.random(len(labels)) < 0.2
    given = np.where(wrong, (labels + random.integers(1, 10, len(labels))) % 10, labels)
    recall, precision = quality(label_doubt(features, given), wrong)
    assert recall > 0.7
    assert precision > 0.9


def test_curated_labels_are_not_doubted() -> None:
    assert (label_doubt(*digits()) > 0.5).mean() <= 0.01


@pytest.mark.parametrize("sizes", [[1200] * 5, [5000, 1500, 400, 120, 30]])
@pytest.mark.parametrize("spread", [0.45, 1.0])
def test_nobody_is_doubted_without_mistakes_however_rare_the_class_or_weak_the_features(
    sizes: list[int], spread: float
) -> None:
    features, labels = clouds(sizes, spread)
    doubted = label_doubt(features, labels) > 0.5
    assert doubted.mean() < 0.01


def test_the_estimated_matrix_is_that_of_the_mistakes() -> None:
    features, true = clouds([ROWS // CLASSES] * CLASSES, 0.3)
    noise = np.eye(CLASSES)
    noise[0] = [0.7, 0.3, 0, 0, 0]
    noise[2] = [0.1, 0, 0.8, 0.1, 0]
    random = np.random.default_rng(3)
    labels = np.array([random.choice(CLASSES, p=noise[c]) for c in true])
    fold = fold_of(np.arange(ROWS), 2)
    found = find_mistakes(features, labels, fold, folds=2, classes=CLASSES)
    assert np.abs(found.noise - noise).max() < 0.1
    assert found.level == pytest.approx((labels != true).mean(), abs=0.04)
    assert found.prior == pytest.approx(np.full(CLASSES, 1 / CLASSES), abs=0.03)
    for c in range(CLASSES):  # by hand: of the rows of other classes, those that got this label
        rate = sum(found.prior[t] * found.noise[t, c] for t in range(CLASSES) if t != c) / (1 - found.prior[c])
        assert found.rates[c] == pytest.approx(rate)


def test_a_sample_for_penalty_and_level_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coevo_ray.core.probes.label_doubt._TUNED_ROWS", 1500)
    features, true = clouds([ROWS // CLASSES] * CLASSES)
    random = np.random.default_rng(1)
    wrong = random.random(ROWS) < 0.2
    labels = np.where(wrong, (true + random.integers(1, CLASSES, ROWS)) % CLASSES, true)
    recall, precision = quality(label_doubt(features, labels), wrong)
    assert recall > 0.6
    assert precision > 0.85


def test_a_penalty_that_is_given_is_kept() -> None:
    features, labels = digits()
    given, _ = swapped(labels, [0, 7, 2, 8, 9, 5, 6, 1, 3, 4], 0)
    fold = fold_of(np.arange(len(labels)), 2)
    found = find_mistakes(features, given, fold, folds=2, classes=10, l2=0.02)
    assert found.l2 == 0.02
    assert found.level > 0


def test_a_pool_too_small_to_tell_doubts_nobody() -> None:
    features, labels = digits()
    given, _ = swapped(labels, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0], 0)
    assert not label_doubt(features[:499], given[:499]).any()
    assert (label_doubt(features[:500], given[:500]) > 0.5).sum() > 25
    for rows, judged in ((499, False), (500, True)):
        found = find_mistakes(features[:rows], given[:rows], fold_of(np.arange(rows), 2), folds=2, classes=10)
        assert (found.fewest, found.judged, found.level > 0) == (500, judged, judged)


def test_a_few_hundred_rows_of_skewed_classes_show_their_wrong_labels() -> None:
    """The demo's draws: a fifth of the labels is wrong, in classes that differ in size by a factor of ten."""
    features, labels = digits()
    found, of = [], []
    for seed in range(2):
        messy = make_messy(features.astype(np.float32), labels, seed)
        wrong = messy.given != labels[messy.train]
        assert 500 < len(wrong) < 1000
        found.append(quality(label_doubt(features[messy.train], messy.given), wrong))
        of.append(float((label_doubt(features[messy.train], labels[messy.train]) > 0.5).mean()))
    recall, precision = np.mean(found, axis=0)
    assert recall > 0.5 and precision > 0.6
    assert max(of) <= 0.02


def test_right_labels_of_few_rows_a_class_are_not_doubted() -> None:
    """Texts of up to three words of their class: probes of 13 rows a class are unsure of right labels, too."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(77), 13)
    words = random.integers(0, 2000, (77, 4))
    features = np.zeros((len(labels), 2000))
    for row, label in enumerate(labels):
        features[row, random.choice(words[label], random.integers(0, 4))] = 1
        features[row, (2000 * random.random(8) ** 4).astype(int)] += 1
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    left, scale, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    order = random.permutation(len(labels))
    assert len(labels) == 1001 and fewest_rows(labels) == 77 * 40
    assert not label_doubt((left * scale)[order, :256], labels[order]).any()


def test_every_row_is_predicted_by_a_probe_that_never_saw_it() -> None:
    features, labels = clouds([40, 30, 30])
    fold = fold_of(np.arange(100), 3, seed=5)
    assert (fold == hash_rows(np.arange(100, dtype=np.int64), 5) % np.uint64(3)).all()
    probabilities = predict_folds(fold_probes(features, labels, fold, folds=3, classes=3), features, fold)
    for part in range(3):
        probe = LinearProbe.fit(features[fold != part], labels[fold != part], 3, 1e-3)
        assert np.allclose(probabilities[fold == part], probe.predict_proba(features[fold == part]), atol=1e-6)


@given(st.integers(0, 999), st.integers(1, 60))
def test_the_most_doubted_come_by_hundredths_and_classes_take_turns(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.permutation(1000)[:50]
    doubt, labels = random.choice([0.9, 0.901, 0.97, 1.0], 50), random.integers(0, 4, 50)
    place = most_doubted(rows, doubt, labels, count)
    left = list(range(50))
    expected: list[int] = []
    for hundredth in sorted({round(100 * d) for d in doubt}, reverse=True):
        queues = [
            sorted(
                (i for i in left if round(100 * doubt[i]) == hundredth and labels[i] == c),
                key=lambda i: (-doubt[i], rows[i]),
            )
            for c in range(4)
        ]
        while any(queues):
            expected += sorted((queue.pop(0) for queue in queues if queue), key=lambda i: (-doubt[i], rows[i]))
    assert place.tolist() == expected[:count]


def test_former_doubt_is_the_share_of_mistakes_over_the_probability() -> None:
    random = np.random.default_rng(2)
    probabilities = random.dirichlet(np.ones(3), 2000).astype(np.float32)
    labels = random.integers(0, 3, 2000)
    doubt = former_doubt(probabilities, labels, mistake_rates(probabilities, labels))
    for row in range(0, 2000, 97):
        likely = probabilities[:, labels[row]]
        anchors = np.argsort(likely)[:200]
        mistakes = (labels[anchors] == labels[row]).mean()
        assert doubt[row] == pytest.approx(min(1.0, mistakes / likely[row]), rel=1e-5)
    assert not mistake_rates(probabilities[:900], labels[:900]).any()


def test_what_does_not_fit_is_refused() -> None:
    features, labels = clouds([10, 10])
    with pytest.raises(UsageError, match="1 folds"):
        label_doubt(features, labels, folds=1)
    with pytest.raises(InputError, match="1 of them without a label"):
        label_doubt(features, np.where(np.arange(20) == 3, -1, labels))
    with pytest.raises(InputError, match="3 labels for probabilities of 20 rows"):
        find_mistakes(features, labels, fold_of(np.arange(20), 2), folds=2, classes=2).doubt(
            np.ones((20, 2)), labels[:3]
        )
