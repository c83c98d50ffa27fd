"""The steps of a fit: schedule, early stop, figures of a window, and exact continuation."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
from coevo_ray.core.factors.sae_steps import SAESteps, Schedule, geometric_median, plateaued

ROWS = 16
CONFIG = SAEConfig(dim=6, latents=60, k=3, k_aux=4, dead_after_samples=2 * ROWS)


def make(end: int = 20 * ROWS) -> SAESteps:
    sae = TopKSAE(CONFIG, torch.Generator().manual_seed(0))
    return SAESteps(sae, Schedule(0.01, end))


def batch(index: int) -> torch.Tensor:
    return torch.randn(ROWS, CONFIG.dim, generator=torch.Generator().manual_seed(index))


def test_the_rate_falls_to_zero_over_the_last_fifth() -> None:
    schedule = Schedule(0.5, 1000)
    assert [schedule.rate(s) for s in (0, 799, 800, 900, 1000, 1100)] == [0.5, 0.5, 0.5, 0.25, 0.0, 0.0]


@given(st.integers(1, 10_000), st.integers(0, 12_000), st.integers(0, 12_000))
def test_a_fit_that_stops_early_ends_with_its_fifth_too(end: int, at: int, again: int) -> None:
    schedule = Schedule(1.0, end)
    before = copy.copy(schedule)
    schedule.decay_now(at)
    assert schedule.end <= end
    if at >= before.decay_from:  # it has begun already
        assert schedule == before
        return
    assert schedule.decay_from == at
    assert schedule.end == min(end, int(at / 0.8))
    assert schedule.rate(at) == pytest.approx(1.0 if schedule.end > at else 0.0)
    assert schedule.rate(schedule.end) == 0
    first = copy.copy(schedule)
    schedule.decay_now(max(at, again))
    assert schedule == first


def test_a_plateau_is_patience_looks_without_improvement() -> None:
    rising = [0.1, 0.2, 0.3]
    assert not plateaued([], 2, 0.01)
    assert not plateaued(rising[:2], 2, 0.01)
    assert not plateaued(rising, 2, 0.01)
    assert not plateaued([*rising, 0.305], 2, 0.01)
    assert plateaued([*rising, 0.305, 0.308], 2, 0.01)
    assert not plateaued([*rising, 0.305, 0.31], 2, 0.01)
    assert not plateaued([*rising, 0.305, 0.308], 3, 0.01)
    assert plateaued([0.3, 0.1, 0.15, 0.2], 2, 0.0)  # the best before counts, not the last before


@given(st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=15, deadline=None)
def test_a_fit_that_is_continued_ends_as_one_that_was_not_stopped(first: int, second: int) -> None:
    whole, stops = make(), {first, first + second}
    for index in range(20):
        whole.step(batch(index))
    part = make()
    for index in range(20):
        if index in stops:
            part.look()
            state = copy.deepcopy(part.state_dict())
            part = make(end=1)
            part.load_state_dict(state)
        part.step(batch(index))
    assert part.done and whole.done
    for (name, one), (_, other) in zip(whole.sae.state_dict().items(), part.sae.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert int(whole.sae.dead.sum()) > 0  # the auxiliary loss and its counts were at work


def test_the_geometric_median_is_nearest_to_all_rows_and_joins_workers() -> None:
    x = batch(0).double()
    x[0] = 100.0  # which moves the mean, not the median
    median = geometric_median(x, iterations=500)
    towards = (x - median) / (x - median).norm(dim=1, keepdim=True)
    assert towards.sum(dim=0).norm() < 1e-6  # the gradient of the sum of distances
    assert (geometric_median(x) - median).norm() < 0.05 < (x.mean(dim=0) - median).norm()
    parts = (x[:3], x[3:])
    seen: list[torch.Tensor] = []

    def join(sums: torch.Tensor) -> torch.Tensor:
        """Adds what the other worker has, whose rows the point that was found last weighs."""
        last = seen[-1] if seen else None
        other = parts[1]
        weights = torch.ones(len(other), 1) if last is None else 1 / (other - last).norm(dim=1, keepdim=True)
        joined = sums + torch.cat([(weights * other).sum(dim=0), weights.sum().reshape(1)])
        seen.append(joined[:-1] / joined[-1])
        return joined

    assert torch.allclose(geometric_median(parts[0], join), geometric_median(x), atol=1e-12)


def test_a_fit_begins_at_the_first_batches_median() -> None:
    steps = SAESteps(make().sae, Schedule(1e-9, ROWS))
    steps.sae.set_input_statistics(torch.arange(6.0), 4.0)
    steps.step(batch(0))
    assert torch.allclose(2 * steps.sae.pre_bias + torch.arange(6.0), geometric_median(batch(0)), atol=1e-5)


def test_a_window_tells_what_its_rows_were_before_their_steps() -> None:
    steps = make()
    steps.step(batch(0))  # the first one also moves the offset
    steps.look()
    for window in (range(1, 3), range(3, 8)):
        squares, active = 0.0, torch.zeros(CONFIG.latents, dtype=torch.int64)
        for index in window:
            x = batch(index)
            with torch.no_grad():
                codes = steps.sae.encode(x)
                squares += float((x - steps.sae.decode(codes)).square().sum())
            active += (torch.zeros(ROWS, CONFIG.latents).scatter(1, codes.indices, codes.values) > 0).sum(dim=0)
            steps.step(x)
        rows = ROWS * len(window)
        assert steps.window_samples == rows
        figures = steps.look()
        assert steps.window_samples == 0
        assert figures["samples"] == ROWS * (window.stop)
        # Inputs here are not scaled: their unit mean square is what variance is measured by.
        assert figures["explained_variance"] == pytest.approx(1 - squares / (rows * CONFIG.dim), rel=1e-5)
        assert figures["l0"] == pytest.approx(float(active.sum()) / rows)
        assert figures["dead_fraction"] == pytest.approx(float((active == 0).double().mean()))


def test_steps_are_those_of_plain_full_matrices() -> None:
    steps = make(end=4 * ROWS)
    steps.sae.double()
    steps.sae.set_offset_(geometric_median(batch(0).double()))
    encoder, bias, decoder, offset = (
        tensor.detach().clone().requires_grad_()
        for tensor in (steps.sae.encoder, steps.sae.encoder_bias, steps.sae.decoder, steps.sae.pre_bias)
    )
    plain = [encoder, bias, decoder, offset]
    optimizer = torch.optim.Adam(plain, lr=0.01, fused=False)
    for index in range(4):
        x = batch(index).double()
        z = torch.relu((x - offset) @ encoder.T + bias)
        z = torch.where(z >= z.topk(CONFIG.k, dim=1).values[:, -1:], z, 0)
        gradients = torch.autograd.grad((z @ decoder + offset - x).square().mean(), plain)
        across = gradients[2] - (gradients[2] * decoder).sum(dim=1, keepdim=True) * decoder
        wanted = [gradients[0], gradients[1], across.detach(), gradients[3]]
        length = torch.cat([gradient.flatten() for gradient in wanted]).norm()
        for tensor, gradient in zip(plain, wanted, strict=True):
            tensor.grad = gradient / length
        optimizer.param_groups[0]["lr"] = steps.schedule.rate(index * ROWS)
        optimizer.step()
        with torch.no_grad():
            decoder.div_(decoder.norm(dim=1, keepdim=True))
        steps.sae.silent.zero_()  # the auxiliary loss has its own test
        steps.step(x)
        ours = (steps.sae.encoder, steps.sae.encoder_bias, steps.sae.decoder, steps.sae.pre_bias)
        for one, other in zip(ours, plain, strict=True):
            assert torch.allclose(one, other, atol=1e-9), index


def test_a_step_keeps_the_decoder_at_unit_length_and_uses_the_rate() -> None:
    steps = make(end=2 * ROWS)
    before = steps.sae.encoder.detach().clone()
    steps.step(batch(0))
    # Adam's first step is as long as the rate wherever there is a gradient.
    moved = (steps.sae.encoder - before).abs().max()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(steps.sae.decoder.norm(dim=1), torch.ones(CONFIG.latents))
    assert all(parameter.grad is None for parameter in steps.sae.parameters())
    assert not steps.done
    steps.step(batch(1))
    assert steps.done
