"""Sparse arithmetic against full matrices: values, gradients, memory that held something else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.factors import sparse_codes
from coevo_ray.core.factors.sparse_codes import GradientMemory, sum_rows, top_activations

Tensors = list[torch.Tensor]
DIM, LATENTS = 5, 11


def random(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    drawn = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.requires_grad_()


def weights(seed: int = 0) -> Tensors:
    """Offset, weight and bias."""
    return [random(DIM, seed=seed), random(LATENTS, DIM, seed=seed + 1), random(LATENTS, seed=seed + 2, scale=0.3)]


def dense_activations(x: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.relu((x - offset) @ weight.T + bias)


class Dirty(GradientMemory):
    """Gives memory in which there is something else."""

    def take(self, like: torch.Tensor) -> torch.Tensor:
        return torch.full_like(super().take(like), float("nan"))


@pytest.mark.parametrize("k_among", [0, 2])
def test_gradients_of_activations_are_those_of_finite_differences(k_among: int) -> None:
    among = torch.tensor([1, 4, 7])

    def values(*tensors: torch.Tensor) -> Tensors:
        found = top_activations(*tensors, k=3, among=among, k_among=k_among, memory=Dirty())
        return [found[0], found[2]]

    assert torch.autograd.gradcheck(values, (random(4, DIM, seed=9), *weights()))


def test_gradients_of_sums_are_those_of_finite_differences() -> None:
    indices = torch.tensor([[0, 3, 10], [3, 4, 5], [1, 3, 9]])
    others = torch.tensor([[3], [3], [0]])

    def sums(weight: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return sum_rows(weight, [(one, indices), (other, others)], Dirty())

    inputs = (random(LATENTS, DIM, seed=0), random(3, 3, seed=1), random(3, 1, seed=2))
    assert torch.autograd.gradcheck(sums, inputs)


@given(st.integers(0, 9), st.integers(1, LATENTS), st.integers(0, 4), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_activations_and_gradients_equal_the_dense_model(rows: int, k: int, k_among: int, seed: int) -> None:
    x, among = random(rows, DIM, seed=seed + 100), torch.tensor([0, 2, 5, 10])
    inputs = [x, *weights(seed)]
    values, indices, some, some_indices = top_activations(*inputs, k=k, among=among, k_among=k_among, memory=Dirty())
    z = dense_activations(*inputs)
    dense = [z.topk(k, dim=1).values, z[:, among].topk(k_among, dim=1).values]
    for found, at, wanted in ((values, indices, dense[0]), (some, some_indices, dense[1])):
        assert torch.allclose(found, z.gather(1, at))
        assert torch.allclose(found.sort(dim=1, descending=True).values, wanted)
    assert torch.isin(some_indices, among).all()
    ours = torch.autograd.grad(values.square().sum() + 3 * some.square().sum(), inputs)
    theirs = torch.autograd.grad(dense[0].square().sum() + 3 * dense[1].square().sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@given(st.integers(0, 9), st.integers(1, 6), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_sums_and_gradients_equal_the_dense_product(rows: int, k: int, seed: int) -> None:
    weight, values, coefficients = (random(*s, seed=seed + i) for i, s in enumerate([(11, 5), (rows, k), (rows, 5)]))
    indices = torch.rand(rows, LATENTS, generator=torch.Generator().manual_seed(seed)).topk(k, dim=1).indices
    (found,) = sum_rows(weight, [(values, indices)], Dirty())
    wanted = torch.zeros(rows, LATENTS, dtype=torch.float64).scatter(1, indices, values) @ weight
    assert torch.allclose(found, wanted)
    ours = torch.autograd.grad((found * coefficients).sum(), [weight, values])
    theirs = torch.autograd.grad((wanted * coefficients).sum(), [weight, values])
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_rows_in_parts_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the last bits: a product of fewer rows may add up in another order, on some processors."""
    inputs, among = [random(10, DIM, seed=5), *weights()], torch.tensor([2, 3])
    whole = top_activations(*inputs, k=4, among=among, k_among=1, memory=GradientMemory())
    monkeypatch.setattr(sparse_codes, "_CPU_ROWS", 3)
    for one, other in zip(
        whole, top_activations(*inputs, k=4, among=among, k_among=1, memory=GradientMemory()), strict=True
    ):
        assert one.dtype == other.dtype and torch.allclose(one.double(), other.double(), rtol=1e-12, atol=1e-12)


def test_only_what_is_asked_for_is_computed() -> None:
    x, (offset, weight, bias) = random(4, DIM, seed=5).detach(), weights()
    none = torch.empty(0, dtype=torch.int64)
    found = top_activations(x, offset.detach(), weight, bias, k=2, among=none, k_among=0, memory=GradientMemory())
    torch.autograd.backward(found[0].sum())
    assert x.grad is None and offset.grad is None
    assert weight.grad is not None and bias.grad is not None


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_autocast_makes_the_product_in_half_precision_and_keeps_the_rest(device: str) -> None:
    inputs = [t.detach().float().to(device).requires_grad_() for t in (random(64, DIM, seed=5), *weights())]
    none = torch.empty(0, dtype=torch.int64, device=device)
    plain = top_activations(*inputs, k=3, among=none, k_among=0, memory=GradientMemory())[0]
    with torch.autocast(device, torch.bfloat16):
        half, indices, *_ = top_activations(*inputs, k=3, among=none, k_among=0, memory=GradientMemory())
    assert half.dtype == torch.float32 and not torch.equal(half, plain)
    assert torch.equal(half, half.bfloat16().float())
    exact = dense_activations(*inputs).gather(1, indices)
    assert torch.allclose(half, exact, atol=0.1)
    gradients = torch.autograd.grad(half.square().sum(), inputs)
    wanted = torch.autograd.grad((exact * half.detach() * 2).sum(), inputs)
    for one, other in zip(gradients, wanted, strict=True):
        assert one.dtype == torch.float32
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds() -> None:
    def all_of(device: str) -> Tensors:
        inputs = [t.detach().to(device).requires_grad_() for t in (random(300, DIM, seed=5), *weights())]
        among = torch.tensor([1, 2, 9], device=device)
        values, indices, some, some_indices = top_activations(
            *inputs, k=4, among=among, k_among=2, memory=GradientMemory()
        )
        sums = sum_rows(inputs[2], [(values, indices), (some, some_indices)], GradientMemory())
        loss = sums[0].square().sum() + sums[1].sum()
        return [t.cpu() for t in (*sums, *torch.autograd.grad(loss, inputs))]

    for one, other in zip(all_of("cpu"), all_of("cuda"), strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_memory_is_taken_once_and_only_where_it_fits() -> None:
    memory, parameter = GradientMemory(), torch.nn.Parameter(torch.zeros(3, 2))
    gradient = torch.ones(3, 2)
    place = gradient.data_ptr()
    parameter.grad = gradient
    memory.recycle_([parameter])
    assert [p.grad for p in (parameter,)] == [None]
    assert memory.take(torch.zeros(2, 3)).data_ptr() != place
    assert memory.take(torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float64
    taken = memory.take(parameter)
    assert taken.data_ptr() == place
    assert memory.take(parameter).data_ptr() != place
