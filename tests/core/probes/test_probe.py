"""Probes against scikit-learn and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from coevo_ray.core.probes.probe import (
    LinearProbe,
    Scaling,
    cross_fitted_predictions,
    forward_losses,
    knn_accuracy,
)
from coevo_ray.errors import InputError, UsageError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def problem(rows: int = 240, dim: int = 6, classes: int = 3, noise: float = 1.0, seed: int = 0) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    centres = 2 * rng.standard_normal((classes, dim))
    x = centres[labels] + noise * rng.standard_normal((rows, dim))
    return (x * np.linspace(0.1, 30, dim) + 5).astype(np.float32), labels


def cross_fitted_accuracy(x: Any, y: Any, classes: int, *, evaluate: Any, **options: Any) -> float:
    predicted = cross_fitted_predictions(x, y, classes, evaluate=evaluate, **options)
    return float((predicted.argmax(axis=1) == y[evaluate]).mean())


def sklearn_probabilities(
    x: Floats, y: Ints, l2: float, weight: Floats | None = None, scaling: Scaling = "one"
) -> npt.NDArray[np.float64]:
    """The same minimum: centred and scaled features, the bias as one more weight, C = 1 / (l2 n)."""
    z = x - x.mean(axis=0)
    z = z / z.std(axis=0) if scaling == "each" else z / np.sqrt((z.astype(np.float64) ** 2).mean())
    z = np.hstack([z, np.ones((len(z), 1))]).astype(np.float64)
    w = np.ones(len(x)) if weight is None else weight / weight.mean()
    model = LogisticRegression(C=1 / (l2 * len(x)), fit_intercept=False, tol=1e-8, max_iter=5000)
    out: npt.NDArray[np.float64] = model.fit(z, y, sample_weight=w).predict_proba(z)
    return out


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
@pytest.mark.parametrize("scaling", ["one", "each"])
def test_fit_is_sklearns(l2: float, scaling: Scaling) -> None:
    x, y = problem()
    probe = LinearProbe.fit(x, y, classes=3, l2=l2, scaling=scaling)
    np.testing.assert_allclose(probe.predict_proba(x), sklearn_probabilities(x, y, l2, scaling=scaling), atol=2e-3)


def test_all_features_are_divided_by_their_common_root_mean_square() -> None:
    x, y = problem()
    scale = LinearProbe.fit(x, y, classes=3).scale
    squares = [(float(value) - float(x[:, j].mean())) ** 2 for row in x for j, value in enumerate(row)]
    np.testing.assert_allclose(scale, [np.sqrt(np.mean(squares))] * x.shape[1], rtol=1e-4)


def test_directions_keep_their_size_so_that_features_of_little_variance_do_not_mislead() -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 4000)
    # One feature tells the classes, two hundred small ones tell nothing.
    x = np.column_stack([y + 0.3 * random.standard_normal(4000), 1e-2 * random.standard_normal((4000, 200))])
    right = {}
    for scaling in ("one", "each"):
        probe = LinearProbe.fit(x[:200], y[:200], classes=2, scaling=scaling)
        right[scaling] = (probe.predict_proba(x[200:]).argmax(axis=1) == y[200:]).mean()
    assert right["one"] > 0.9 > 0.85 > right["each"]


def test_forward_correction_by_hand_and_its_gradient_by_finite_differences() -> None:
    random = np.random.default_rng(3)
    logits = torch.from_numpy(random.standard_normal((5, 3))).requires_grad_()
    labels = torch.from_numpy(random.integers(0, 3, 5))
    noise = random.dirichlet(np.ones(3), 3)

    def by_hand(values: npt.NDArray[np.float64]) -> float:
        total = 0.0
        for row, label in zip(values, labels.tolist(), strict=True):
            true = np.exp(row) / np.exp(row).sum()
            total -= np.log(sum(true[t] * noise[t, label] for t in range(3)))
        return total

    loss = forward_losses(logits, labels, torch.from_numpy(np.log(noise))).sum()
    assert loss.item() == pytest.approx(by_hand(logits.detach().numpy()))
    (gradient,) = torch.autograd.grad(loss, logits)
    for place in np.ndindex(5, 3):
        step = np.zeros((5, 3))
        step[place] = 1e-6
        here = logits.detach().numpy()
        slope = (by_hand(here + step) - by_hand(here - step)) / 2e-6
        assert gradient[place].item() == pytest.approx(slope, abs=1e-6)


def test_a_noise_matrix_of_no_mistakes_changes_nothing_and_the_true_one_recovers_the_true_classes() -> None:
    x, y = problem(3000, noise=4.0)
    plain, same = LinearProbe.fit(x, y, 3), LinearProbe.fit(x, y, 3, noise=np.eye(3))
    np.testing.assert_allclose(plain.predict_proba(x), same.predict_proba(x), atol=1e-3)
    # Two fifths of class 0 are labelled 1: without the matrix the probe learns just that.
    noise = np.array([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    given = np.where((y == 0) & (np.random.default_rng(1).random(3000) < 0.4), 1, y)
    misled = LinearProbe.fit(x, given, 3).predict_proba(x)
    corrected = LinearProbe.fit(x, given, 3, noise=noise).predict_proba(x)
    off = [np.abs(found - plain.predict_proba(x)).mean() for found in (misled, corrected)]
    assert off[1] < 0.3 * off[0]


def test_a_start_changes_the_way_and_not_the_end() -> None:
    x, y = problem()
    there = LinearProbe.fit(x, y, 3, l2=1e-2)
    from_there = LinearProbe.fit(x, y, 3, l2=1e-1, start=there)
    np.testing.assert_allclose(from_there.weight, LinearProbe.fit(x, y, 3, l2=1e-1).weight, atol=1e-3)


def test_weighted_fit_is_sklearns() -> None:
    x, y = problem()
    weight = np.random.default_rng(1).random(len(x)).astype(np.float32) * 7
    probe = LinearProbe.fit(x, y, classes=3, l2=1e-2, sample_weight=weight)
    # Standardisation does not know the weights; scikit-learn gets the same features.
    np.testing.assert_allclose(probe.predict_proba(x), sklearn_probabilities(x, y, 1e-2, weight), atol=2e-3)


def test_weights_are_relative_and_zero_leaves_a_row_out() -> None:
    x, y = problem(60)
    weight = np.ones(60, dtype=np.float32)
    probe = LinearProbe.fit(x, y, classes=3, sample_weight=weight * 5)
    plain = LinearProbe.fit(x, y, classes=3)
    np.testing.assert_allclose(probe.predict_proba(x), plain.predict_proba(x), atol=1e-5)
    weight[7] = 0
    without = LinearProbe.fit(x, np.where(np.arange(60) == 7, (y + 1) % 3, y), classes=3, sample_weight=weight)
    with_it = LinearProbe.fit(x, y, classes=3, sample_weight=weight)
    np.testing.assert_array_equal(without.weight, with_it.weight)  # a row of weight 0 says nothing


def test_fit_repeats_and_probabilities_sum_to_one() -> None:
    x, y = problem()
    first, second = (LinearProbe.fit(x, y, classes=3) for _ in range(2))
    np.testing.assert_array_equal(first.weight, second.weight)
    out = first.predict_proba(x)
    assert out.dtype == np.float32 and out.shape == (240, 3)
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-5)
    assert (out.argmax(axis=1) == y).mean() > 0.9


def test_absent_classes_get_small_positive_probabilities() -> None:
    x, y = problem()
    out = LinearProbe.fit(x, y, classes=5).predict_proba(x)
    assert (out[:, 3:] > 0).all()
    assert out[:, 3:].max() < 0.05
    np.testing.assert_allclose(out[:, 3], out[:, 4], rtol=1e-4)  # nothing tells them apart
    np.testing.assert_allclose(out[:, :3].sum(axis=1) + out[:, 3:].sum(axis=1), 1, atol=1e-5)


def test_one_row_and_constant_features_can_be_fitted() -> None:
    x, y = problem(5)
    x[:, 2] = 0.1  # its mean is not exactly 0.1 in float32
    assert LinearProbe.fit(x, y, classes=3, scaling="each").scale[2] == 1
    assert (LinearProbe.fit(np.full_like(x, 0.1), y, classes=3).scale == 1).all()
    probe = LinearProbe.fit(x[:1], y[:1], classes=3)
    assert probe.predict_proba(x[:1]).argmax() == y[0]


def test_arrays_restore_the_probe() -> None:
    x, y = problem(40)
    probe = LinearProbe.fit(x, y, classes=3)
    again = LinearProbe.from_arrays(probe.arrays())
    np.testing.assert_array_equal(again.predict_proba(x), probe.predict_proba(x))
    with pytest.raises(InputError, match="bias"):
        LinearProbe.from_arrays({k: v for k, v in probe.arrays().items() if k != "bias"})
    with pytest.raises(InputError, match="shape"):
        LinearProbe.from_arrays({**probe.arrays(), "weight": probe.weight.T})


def test_bad_input_of_the_probe_is_refused() -> None:
    x, y = problem(20)
    probe, bad = LinearProbe.fit(x, y, classes=3), x.copy()
    bad[4, 1] = np.nan
    with pytest.raises(InputError, match=r"1 of 20 .*\[4\]"):
        LinearProbe.fit(bad, y, classes=3)
    with pytest.raises(InputError, match=r"1 of 20 .*\[4\]"):
        probe.predict_proba(bad)
    with pytest.raises(InputError, match="dimensions"):
        probe.predict_proba(x[:, :3])
    with pytest.raises(InputError, match="outside 0"):
        LinearProbe.fit(x, y, classes=2)
    with pytest.raises(InputError, match="one integer"):
        LinearProbe.fit(x, y[:-1], classes=3)
    with pytest.raises(InputError, match="n >= 1"):
        LinearProbe.fit(x[:0], y[:0], classes=3)
    with pytest.raises(InputError, match="weights"):
        LinearProbe.fit(x, y, classes=3, sample_weight=np.zeros(20, dtype=np.float32))
    for noise in (np.eye(4), np.full((3, 3), 0.5), np.array([[2.0, -1, 0], [0, 1, 0], [0, 0, 1]])):
        with pytest.raises(InputError, match="noise matrix"):
            LinearProbe.fit(x, y, classes=3, noise=noise)
    with pytest.raises(UsageError, match="l2"):
        LinearProbe.fit(x, y, classes=3, l2=0)
    assert probe.predict_proba(x[:0]).shape == (0, 3)


def test_cross_fitting_is_leave_one_out_with_as_many_folds_as_rows() -> None:
    x, y = problem(30, noise=3.0)
    evaluate = np.arange(30) % 3 == 0
    right = 0
    for i in np.flatnonzero(evaluate):
        rest = np.arange(30) != i
        right += int(LinearProbe.fit(x[rest], y[rest], 3, 1e-2).predict_proba(x[i : i + 1]).argmax() == y[i])
    accuracy = cross_fitted_accuracy(x, y, classes=3, folds=99, evaluate=evaluate, l2=1e-2)
    assert accuracy == right / evaluate.sum()
    assert 0 < accuracy < 1


def test_cross_fitting_does_not_see_the_row_that_it_predicts() -> None:
    """Random labels: a probe that saw its own rows would be far above chance."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((120, 100)).astype(np.float32), rng.integers(4, size=120)
    assert (LinearProbe.fit(x, y, 4).predict_proba(x).argmax(axis=1) == y).mean() > 0.95
    assert cross_fitted_accuracy(x, y, 4, folds=5, evaluate=np.ones(120, dtype=np.bool_)) < 0.45


def test_cross_fitting_repeats() -> None:
    x, y = problem(80, noise=3.0)
    first = np.arange(80) < 40
    runs = [cross_fitted_accuracy(x, y, 3, folds=4, evaluate=first, seed=seed) for seed in (3, 3, 4, 5, 6)]
    assert runs[0] == runs[1]
    assert len(set(runs)) > 1  # the seed matters


def test_bad_input_of_cross_fitting_is_refused() -> None:
    x, y = problem(10)
    with pytest.raises(InputError, match="0 rows to evaluate"):
        cross_fitted_accuracy(x, y, 3, folds=2, evaluate=np.zeros(10, dtype=np.bool_))
    with pytest.raises(InputError, match="1 and 2"):
        cross_fitted_accuracy(x[:1], y[:1], 3, folds=2, evaluate=np.ones(1, dtype=np.bool_))
    with pytest.raises(InputError, match="mask"):
        cross_fitted_accuracy(x, y, 3, folds=2, evaluate=np.ones(9, dtype=np.bool_))
    with pytest.raises(UsageError, match="1 folds"):
        cross_fitted_accuracy(x, y, 3, folds=1, evaluate=np.ones(10, dtype=np.bool_))


def test_knn_is_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(90, noise=3.0)
    train, test = np.arange(60), np.arange(60, 90)
    right = 0
    for i in test:
        similarity = [float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])) for j in train]
        votes = [0.0] * 3
        for j in sorted(range(60), key=lambda j: -similarity[j])[:7]:
            votes[y[j]] += np.exp(similarity[j] / 0.07)
        right += int(np.argmax(votes) == y[i])
    assert knn_accuracy(x[train], y[train], x[test], y[test], k=7) == right / 30
    monkeypatch.setattr("coevo_ray.core.probes.probe._BLOCK_VALUES", 60 * 4)
    assert knn_accuracy(x[train], y[train], x[test], y[test], k=7) == right / 30


def test_knn_with_few_rows_and_bad_input() -> None:
    x, y = problem(10)
    assert knn_accuracy(x[:1], y[:1], x, y, k=20) == (y == y[0]).mean()
    with pytest.raises(InputError, match="dimension"):
        knn_accuracy(x, y, x[:, :2], y)
    with pytest.raises(InputError, match="outside"):
        knn_accuracy(x, y - 1, x, y)
    with pytest.raises(InputError, match="rows"):
        knn_accuracy(x[:0], y[:0], x, y)
    with pytest.raises(UsageError, match="k = 0"):
        knn_accuracy(x, y, x, y, k=0)


@pytest.mark.parametrize("seed", range(5))
def test_folds_keep_groups_together(seed: int) -> None:
    """Against a loop: groups, in the order of their first rows in the shuffle, take the folds in turn."""
    random = np.random.default_rng(seed)
    x, y = random.standard_normal((40, 4)).astype(np.float32), random.integers(0, 2, 40)
    y[:2] = 0, 1
    evaluate, groups = random.random(40) < 0.7, random.integers(0, 12, 40)
    measured = np.flatnonzero(evaluate).tolist()
    order = [measured[i] for i in np.random.Generator(np.random.PCG64(seed)).permutation(len(measured))]
    first = {g: min(row for row in measured if groups[row] == g) for g in groups[measured].tolist()}
    ranked = sorted(first, key=lambda g: order.index(first[g]))
    predicted = cross_fitted_predictions(x, y, 2, 3, evaluate, 1e-2, seed, groups)
    for place, row in enumerate(measured):
        fold = ranked.index(groups[row]) % 3
        fitted = [i for i in range(40) if groups[i] not in [g for n, g in enumerate(ranked) if n % 3 == fold]]
        expected = LinearProbe.fit(x[fitted], y[fitted], 2, 1e-2).predict_proba(x[row : row + 1])[0]
        assert predicted[place] == pytest.approx(expected, abs=1e-4)
