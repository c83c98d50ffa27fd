"""Learning rates by share of the work: against PyTorch's schedules, and ending with the last step whatever happens."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.training.loop.schedules import Progress, Schedule, rate_factor, steps_of

EPOCHS = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def positions(epochs: list[int], planned: list[int] | None = None) -> list[float]:
    """Of all steps, when the sizes of later epochs are believed to be `planned`."""
    progress, found = Progress(), []
    for index, steps in enumerate(epochs):
        progress.plan(steps, (planned or epochs)[index + 1 :])
        found += [progress.step() for _ in range(steps)]
    return found


@given(EPOCHS)
def test_steps_are_evenly_spaced_over_epochs_of_any_size(epochs: list[int]) -> None:
    total = sum(epochs)
    expected = [step / max(1, total - 1) for step in range(total)]
    assert positions(epochs) == pytest.approx(expected, abs=1e-12)


@given(EPOCHS, st.data())
def test_wrong_plans_still_end_with_the_last_step(epochs: list[int], data: st.DataObject) -> None:
    planned = data.draw(st.lists(st.integers(1, 30), min_size=len(epochs), max_size=len(epochs)))
    found = positions(epochs, planned)
    assert all(a < b for a, b in pairwise(found))
    if len(found) > 1 and sum(planned[1:]) + epochs[0] > 1:
        assert found[-1] == pytest.approx(1, abs=1e-12)
        assert found[0] == pytest.approx(0, abs=1e-12)


@given(EPOCHS, st.data())
def test_a_restart_changes_nothing(epochs: list[int], data: st.DataObject) -> None:
    stop = data.draw(st.integers(1, sum(epochs)))
    progress, found = Progress(), []
    for index, steps in enumerate(epochs):
        progress.plan(steps, epochs[index + 1 :])
        for _ in range(steps):
            found.append(progress.step())
            if len(found) == stop:
                progress = Progress(progress.state())
    assert found == positions(epochs)


def test_subsets_that_shrink_and_end_with_full_data() -> None:
    rows = [500, 250, 250, 1000]
    steps = [steps_of(n, 64) for n in rows]
    assert steps == [8, 4, 4, 16]
    found = positions(steps)
    assert len(found) == 32
    assert rate_factor("cosine", 0.1, found[-1]) == pytest.approx(0, abs=1e-12)
    assert rate_factor("onecycle", 0.3, found[-1]) == pytest.approx(1 / 25 / 1e4, rel=1e-9)
    assert rate_factor("onecycle", 0.3, found[0]) == pytest.approx(1 / 25)


def test_one_cycle_is_pytorchs() -> None:
    total, warm_up = 2001, 0.3
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=warm_up, cycle_momentum=False
    )
    for step in range(total):
        # PyTorch's rise ends a step earlier: pct_start x steps - 1.
        assert rate_factor("onecycle", warm_up, step / (total - 1)) == pytest.approx(peer.get_last_lr()[0], abs=3e-3)
        if step + 1 < total:
            optimizer.step()
            peer.step()


@pytest.mark.parametrize("warm_up", [0.0, 0.2])
def test_cosine_is_pytorchs_after_a_linear_rise(warm_up: float) -> None:
    total = 101
    rise = round(warm_up * (total - 1))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - 1 - rise)
    for step in range(total):
        factor = rate_factor("cosine", warm_up, step / (total - 1))
        if step < rise:
            assert factor == pytest.approx(1 / 25 + (24 / 25) * step / rise)
        else:
            assert factor == pytest.approx(fall.get_last_lr()[0], abs=1e-9)
            optimizer.step()
            fall.step()


def test_constant_stays_after_its_rise() -> None:
    assert [rate_factor("constant", 0.5, p) for p in (0.5, 0.7, 1.0)] == [1.0, 1.0, 1.0]
    assert rate_factor("constant", 0.5, 0.25) == pytest.approx((1 + 1 / 25) / 2)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
@given(st.floats(0, 0.9), st.floats(0, 1))
def test_factors_lie_between_nothing_and_the_peak(schedule: Schedule, warm_up: float, position: float) -> None:
    factor = rate_factor(schedule, warm_up, position)
    assert math.isfinite(factor)
    assert -1e-12 <= factor <= 1 + 1e-12
