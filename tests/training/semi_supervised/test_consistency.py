"""The consistency loss, its targets and thresholds against slow loops, gradients included."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coevo_ray.config import SemiTrainConfig
from coevo_ray.core.feed.cycles import Cycle
from coevo_ray.core.rows.row_set import ids_of
from coevo_ray.training.feed.batch import Batch
from coevo_ray.training.feed.paired import PairedBatch
from coevo_ray.training.feed.views import view_numbers
from coevo_ray.training.inputs.base import ViewPair
from coevo_ray.training.inputs.image_views import VIEW_NUMBERS
from coevo_ray.training.inputs.images import ImageShape
from coevo_ray.training.loop.descent import Descent
from coevo_ray.training.semi_supervised.consistency import PseudoTargets, Targets, consistency_losses, step_losses
from coevo_ray.training.semi_supervised.step import SemiRows, SemiSupervisedStep, figures, ramp_factor

CLASSES, SIZE = 4, 8
CPU = torch.device("cpu")
Array = npt.NDArray[np.float64]


def settings(**chosen: Any) -> SemiTrainConfig:
    return SemiTrainConfig.model_validate({"thresholds": "fixed", "image_size": SIZE, "least_steps": 0, **chosen})


def views_for(config: SemiTrainConfig) -> tuple[str, ViewPair]:
    return "image", ImageShape(SIZE).view_pair(config, None)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    result: Array = powers / powers.sum()
    return result


def test_the_loss_is_that_of_slow_loops_with_its_gradient() -> None:
    random = np.random.default_rng(0)
    weak, strong = random.normal(size=(2, 9, CLASSES)) * 2
    logits = torch.from_numpy(strong).requires_grad_()
    rule = PseudoTargets(settings(threshold=0.6), CLASSES, CPU)
    targets = rule.choose(torch.from_numpy(weak), torch.ones(9))
    losses = consistency_losses(logits, targets)
    losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
    assert logits.grad is not None
    chosen = 0
    for row in range(9):
        teacher, student = softmax(weak[row]), softmax(strong[row])
        target, loss, gradient = int(teacher.argmax()), 0.0, np.zeros(CLASSES)
        if teacher[target] >= 0.6:
            chosen += 1
            loss = -np.log(student[target])
            gradient = student - np.eye(CLASSES)[target]
        assert losses[row].item() == pytest.approx(loss, abs=1e-5)
        assert np.allclose(logits.grad[row].numpy(), gradient, atol=1e-5)
        assert targets.confidence[row].item() == pytest.approx(teacher[target], abs=1e-6)
    assert 0 < chosen < 9


class Scripted(nn.Module):
    """Logits linear in the mean colour of an image; notes what it is shown, in which mode, and with what gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(0)) * 3)
        self.shown: list[tuple[torch.Tensor, bool, bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append((images.detach().clone(), self.training, torch.is_grad_enabled()))
        return images.mean(dim=(2, 3)) @ self.matrix


def part(ids: list[int], images: torch.Tensor, weights: list[float]) -> Batch:
    rows = np.array(ids, dtype=np.int64)
    real = sum(weight > 0 for weight in weights)
    return Batch({"image": images[rows]}, rows, torch.tensor(weights), len(ids), real)


LABELS = np.array([0, 1, 2, 3, 1] + [-1] * 7)
KNOWN = np.array([0, 1, 2, 3, 1, 0, 0, 1, 1, 2, -1, 3])
SURE, WEIGHT = 0.7, 2.0 * 0.5  # lambda, and half of its ramp


def slow_step(
    few: Batch, many: Batch, weak: torch.Tensor, both: torch.Tensor, teacher: Array, matrix: Array
) -> tuple[float, float, Array, list[float]]:
    """Loss, that of the labels alone, gradient of the matrix, and counts."""
    of_labels, of_others, gradient, counts = 0.0, 0.0, np.zeros((3, CLASSES)), np.zeros(6)
    means = both.mean(dim=(2, 3)).numpy().astype(np.float64)
    for i, (row, weight) in enumerate(zip(few.row_ids.tolist(), few.weights.tolist(), strict=True)):
        student = softmax(means[i] @ matrix)
        of_labels += weight * -np.log(student[LABELS[row]]) / few.global_rows
        gradient += weight / few.global_rows * np.outer(means[i], student - np.eye(CLASSES)[LABELS[row]])
    for i, (row, weight) in enumerate(zip(many.row_ids.tolist(), many.weights.tolist(), strict=True)):
        predicted = softmax(weak[i].mean(dim=(1, 2)).numpy() @ teacher)
        target, mean = int(predicted.argmax()), means[len(few.row_ids) + i]
        hits, student = predicted[target] >= SURE, softmax(mean @ matrix)
        if hits:
            of_others += WEIGHT * weight * -np.log(student[target]) / many.global_rows
            gradient += WEIGHT * weight / many.global_rows * np.outer(mean, student - np.eye(CLASSES)[target])
        if weight > 0 and LABELS[row] < 0:
            counts[:4] += [1, hits, hits and KNOWN[row] >= 0, hits and KNOWN[row] == target]
        elif weight > 0:
            counts[4:] += [hits, hits and LABELS[row] == target]
    return of_labels + of_others, of_labels, gradient, counts.tolist()


@pytest.mark.parametrize("teacher", ["network", "ema"])
def test_a_step_is_that_of_a_slow_loop_with_its_gradient(teacher: str) -> None:
    """Weights of labelled rows, padding, lambda and its ramp; the gradient goes through the strong views alone."""
    config = settings(threshold=SURE, consistency_weight=2.0, teacher=teacher, ema=0.5, seed=3)
    images = torch.randint(0, 256, (12, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    network = Scripted()
    descent = Descent(config, network, network, CPU)
    assert descent.average is not None
    average = descent.average.module
    assert isinstance(average, Scripted)
    with torch.no_grad():
        average.matrix.mul_(-1.2)  # of another mind
    rows = SemiRows(LABELS, np.ones(12, np.float32), np.arange(12), KNOWN, CLASSES)
    step = SemiSupervisedStep(config, rows, descent, CPU, views_for(config))
    few = part([0, 3, 4, 0], images, [1.0, 0.25, 0.5, 0.0])
    many = part([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 2], images, [1.0] * 11 + [0.0])
    network.train()
    loss, sums = step(PairedBatch(few, many, (4, 6), 1), 0.5)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
    judge = network if teacher == "network" else average
    # The teacher sees weak views without gradient, in training mode if it is the network; the network sees the rest.
    (weak, *teaching), (both, *training) = judge.shown[0], network.shown[-1]
    assert (teaching, training, network.training) == ([teacher == "network", False], [True, True], True)
    matrices = [m.matrix.detach().numpy().astype(np.float64) for m in (judge, network)]
    expected, of_labels, gradient, counts = slow_step(few, many, weak, both, *matrices)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert network.matrix.grad is not None
    assert np.allclose(network.matrix.grad.numpy(), gradient, atol=1e-5)
    assert average.matrix.grad is None
    assert sums[:3].tolist() == pytest.approx([expected, 1.0, of_labels], abs=1e-5)
    assert sums[4:].tolist() == counts
    assert 0 < counts[1] < counts[0]
    told = figures(sums.tolist())
    assert told["confident_share"] == counts[1] / counts[0]
    assert told["own_accuracy"] == counts[5] / counts[4]
    assert told["consistency_loss"] == pytest.approx((expected - of_labels) / WEIGHT, abs=1e-5)


def test_a_single_image_is_predicted_without_its_statistics() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, CLASSES))
    weak, strong, labelled = torch.rand(3, 1, 3, SIZE, SIZE)
    rule = PseudoTargets(settings(threshold=0.01), CLASSES, CPU)
    losses = step_losses(network, network, rule, labelled, torch.tensor([1]), (weak, strong, torch.ones(1)))
    assert losses.targets is not None
    assert losses.targets.chosen.tolist() == [True]
    assert network.training


def test_views_of_a_step_depend_on_row_pass_and_kind_alone() -> None:
    config = settings(seed=3)
    images = torch.randint(0, 256, (6, 3, SIZE, SIZE), dtype=torch.uint8)
    rows = SemiRows(np.array([0, 1, 2, -1, -1, -1]), np.ones(6, np.float32), np.arange(6), np.arange(6), CLASSES)

    def shown(ids: list[int], others: list[int], passes: tuple[int, int]) -> list[torch.Tensor]:
        network = Scripted()
        step = SemiSupervisedStep(config, rows, Descent(config, network, network, CPU), CPU, views_for(config))
        few, many = (part(chosen, images, [1.0] * len(chosen)) for chosen in (ids, others))
        step(PairedBatch(few, many, passes, 1), 1.0)
        return [seen for seen, _, _ in network.shown]

    weak, both = shown([0, 1, 2], [2, 3, 4], (0, 0))
    weak_again, both_again = shown([2, 0, 1], [4, 2, 3], (0, 0))
    assert torch.equal(weak_again, weak[[2, 0, 1]])
    assert torch.equal(both_again, both[[2, 0, 1, 5, 3, 4]])
    assert not torch.equal(both[2], weak[0])  # row 2 as a labelled row and as an unlabelled one
    weak_later, both_later = shown([0, 1, 2], [2, 3, 4], (1, 1))
    assert not torch.equal(weak_later, weak)
    assert not any(torch.equal(both_later[i], both[i]) for i in range(6))


@given(seed=st.integers(0, 50), steps=st.integers(1, 5), threshold=st.floats(0.3, 1))
def test_thresholds_by_class_are_those_of_a_slow_loop(seed: int, steps: int, threshold: float) -> None:
    random = np.random.default_rng(seed)
    rule = PseudoTargets(settings(thresholds="class", threshold=threshold), CLASSES, CPU)
    before: list[Array] = []
    for _ in range(steps):
        logits = random.normal(size=(6, CLASSES)) * 3
        targets = rule.choose(torch.from_numpy(logits), torch.tensor([1, 1, 1, 1, 1, 0]))
        predicted = np.stack([softmax(row) for row in logits])
        before.append(predicted[:5].mean(axis=0))  # the last row is padding
        mean = np.mean(before, axis=0)  # of so few steps
        for row in range(6):
            best = int(predicted[row].argmax())
            assert targets.classes[row].item() == best
            assert targets.confidence[row].item() == pytest.approx(predicted[row].max(), abs=1e-6)
            assert bool(targets.chosen[row]) == (predicted[row].max() >= threshold * mean[best] / mean.max())


def test_the_running_mean_forgets_a_hundredth_of_what_was_in_each_step() -> None:
    rule = PseudoTargets(settings(thresholds="class"), 2, CPU)
    mean: Array = np.zeros(2)
    for step in range(300):
        share = 0.2 if step < 200 else 0.9
        rule.choose(torch.log(torch.tensor([[share, 1 - share]])), torch.ones(1))
        mean = 0.99 * mean + 0.01 * np.array([share, 1 - share]) if step >= 200 else np.array([0.2, 0.8])
    assert np.allclose(rule.means[:2].numpy(), mean, atol=1e-6)


def test_running_means_are_over_all_workers() -> None:
    """Two halves of a batch, each adding the other's sums, come to what the whole batch does."""
    config = settings(thresholds="class")
    logits = torch.randn(8, CLASSES, dtype=torch.float64) * 3
    whole = PseudoTargets(config, CLASSES, CPU)
    whole.choose(logits, torch.ones(8))
    sums: list[torch.Tensor] = []
    PseudoTargets(config, CLASSES, CPU, lambda own: sums.append(own.clone())).choose(logits[5:], torch.ones(3))
    half = PseudoTargets(config, CLASSES, CPU, lambda own: own.add_(sums[0]))
    half.choose(logits[:5], torch.ones(5))
    assert torch.allclose(half.means, whole.means, atol=1e-12)


def test_nothing_chosen_is_no_loss_and_no_gradient() -> None:
    logits = torch.randn(3, CLASSES, requires_grad=True)
    none = Targets(torch.zeros(3, dtype=torch.int64), torch.zeros(3), torch.zeros(3, dtype=torch.bool))
    losses = consistency_losses(logits, none)
    losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
    assert not losses.any()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_weight_rises_in_a_line_by_steps() -> None:
    config = settings(ramp_epochs=2.0)
    found = [ramp_factor(config, epoch, step, 4) for epoch in range(3) for step in range(4)]
    assert found == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1]
    assert ramp_factor(settings(), 0, 0, 4) == 1


def test_unlabelled_rows_are_all_or_those_without_a_label() -> None:
    labels = np.array([0, -1, 1, -1, -1, 1, 0, 2])
    rows = SemiRows(labels, np.arange(8).astype(np.float32), np.array([0, 1, 2, 3, 5, 6]), labels, CLASSES)
    labelled, others, steps = rows.plan(settings(batch_rows=3, mu=1))
    assert ids_of(labelled.row_ids).tolist() == [0, 2, 5, 6]
    assert labelled.weights is not None
    assert labelled.weights.tolist() == [0, 2, 5, 6]
    assert labelled.cycle == Cycle(4, 3)
    assert others is not None
    assert (ids_of(others.row_ids).tolist(), steps) == ([0, 1, 2, 3, 5, 6], 2)
    bare = rows.plan(settings(batch_rows=1, mu=1, labelled_too=False))
    assert bare[1] is not None
    assert (ids_of(bare[1].row_ids).tolist(), bare[2]) == ([1, 3], 2)
    # Without weight the others are left aside, in as many steps; without others the steps are the labels'.
    assert rows.plan(settings(batch_rows=3, mu=1, consistency_weight=0.0))[1:] == (None, 2)
    full = SemiRows(labels, rows.weights, np.array([0, 2, 5]), labels, CLASSES)
    assert full.plan(settings(batch_rows=2, mu=7))[1:] == (None, 2)
    assert rows.plan(settings(epoch_steps=17))[2] == 17
    # 21 steps in all are 6 in each of 4 epochs, with consistency or without; not for labels on every row.
    few = {"batch_rows": 3, "mu": 1, "epochs": 4, "least_steps": 21}
    assert [rows.plan(settings(**few, consistency_weight=weight))[2] for weight in (0.0, 1.0)] == [6, 6]
    assert rows.plan(settings(**{**few, "least_steps": 8}))[2] == rows.plan(settings(**few, epoch_steps=2))[2] == 2
    assert full.plan(settings(**few))[2] == 1
    assert rows.counts() == {"labelled": 4, "pseudo_labelled": 0, "unlabelled": 2}


def test_numbers_of_views_are_enough() -> None:
    assert view_numbers(np.arange(3), 0, 0, 1, VIEW_NUMBERS).shape == (3, VIEW_NUMBERS)
