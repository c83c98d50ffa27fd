"""Forward and backward passes of a TopK autoencoder at the cost of its active latents (docs/design.md#sae).

The pre-activations are the only dense matrix product. Decoding, the decoder's gradient, the encoder's weight gradient
(Gao et al. 2024, arXiv 2406.04093, appendix D) and the codes' gradients touch active latents only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# Fewer rows make the matrix product slower; more of them push the activations out of a CPU's cache between product and
# selection.
_CPU_ROWS = 512
_GPU_ACTIVATIONS = 1 << 28  # values held at a time: 1 GiB in float32

# Each process that fits would print it once, and users of this module cannot act on it.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)


class GradientMemory:
    """Reuses the memory of gradients.

    A weight's gradient is larger than what the C library keeps for reuse, so that every step would pay page faults for
    fresh memory: more time than the sparse products that fill it.
    """

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []

    def recycle_(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sets the parameters' gradients to None and keeps their memory; callers must hold no reference to them."""
        self._free = []
        for parameter in parameters:
            if parameter.grad is not None:
                self._free.append(parameter.grad.detach())
                parameter.grad = None

    def take(self, like: torch.Tensor) -> torch.Tensor:
        """Returns an uninitialised tensor of the same shape, dtype and device, from kept memory if there is any."""
        for index, tensor in enumerate(self._free):
            if (tensor.shape, tensor.dtype, tensor.device) == (like.shape, like.dtype, like.device):
                return self._free.pop(index)
        return torch.empty_like(like)


def top_activations(
    x: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    k: int,
    among: torch.Tensor,
    k_among: int,
    memory: GradientMemory,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes TopK(ReLU(W (x - offset) + b)) over all latents, and again over some of them.

    Gao et al. 2024, arXiv 2406.04093, section 2.3. Under autocast the product is computed in autocast's dtype,
    everything else in that of the inputs.

    Args:
        x: float[n, d].
        offset: float[d].
        weight, bias: float[m, d] and float[m].
        k: latents to keep of all, 1..m.
        among: int64[j], some latents.
        k_among: latents to keep of those, 0..j.
        memory: source of the memory of the weight's gradient.

    Returns:
        values float[n, k] >= 0 and indices int64[n, k] in no order; the same of `among`, [n, k_among].
    """
    found: tuple[torch.Tensor, ...] = _TopActivations.apply(x, offset, weight, bias, k, among, k_among, memory)
    return found[0], found[1], found[2], found[3]


def sum_rows(
    weight: torch.Tensor, codes: list[tuple[torch.Tensor, torch.Tensor]], memory: GradientMemory
) -> tuple[torch.Tensor, ...]:
    """Computes sum_j values_ij weight[indices_ij] for one or more sets of codes.

    Args:
        weight: float[m, d].
        codes: pairs of values float[n, k] and indices int64[n, k]; k may differ between pairs.
        memory: source of the memory of the weight's gradient.

    Returns:
        float[n, d] for each pair.
    """
    sums: tuple[torch.Tensor, ...] = _SumRows.apply(weight, memory, *(tensor for pair in codes for tensor in pair))
    return sums


class _TopActivations(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        offset: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        k: int,
        among: torch.Tensor,
        k_among: int,
        memory: GradientMemory,
    ) -> tuple[torch.Tensor, ...]:
        centred = x - offset
        all_latents = x.new_empty(len(x), k), among.new_empty(len(x), k)
        some_latents = x.new_empty(len(x), k_among), among.new_empty(len(x), k_among)
        for rows, pre in _activations(centred, weight, bias):
            _select(pre, k, all_latents, rows)
            if k_among:
                _select(pre[:, among], k_among, some_latents, rows)
        if k_among:
            some_latents = some_latents[0], among[some_latents[1]]
        values, indices = all_latents
        ctx.save_for_backward(centred, weight, bias, values, indices, *some_latents)
        ctx.memory = memory
        ctx.mark_non_differentiable(indices, some_latents[1])
        return values, indices, *some_latents

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        centred, weight, bias, *codes = ctx.saved_tensors
        # ReLU has no gradient at outputs of 0.
        pairs = [(g * (v > 0), i) for g, v, i in zip(gradients[::2], codes[::2], codes[1::2], strict=True)]
        pairs = [pair for pair in pairs if pair[0].shape[1]]
        by_latent = bias.new_zeros(bias.shape)
        for coefficients, indices in pairs:
            by_latent.index_add_(0, indices.reshape(-1), coefficients.reshape(-1))
        by_input = by_weight = None
        if ctx.needs_input_grad[0]:
            by_input = torch.stack([_sum(weight, *pair) for pair in pairs]).sum(dim=0)
        if ctx.needs_input_grad[2]:
            by_weight = _gather_transposed(ctx.memory.take(weight), [(*pair, centred) for pair in pairs])
        # All inputs share one offset, so its gradient follows from the sums over rows.
        by_offset = -(by_latent @ weight) if ctx.needs_input_grad[1] else None
        return by_input, by_offset, by_weight, by_latent, None, None, None, None


class _SumRows(Function):
    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, memory: GradientMemory, *codes: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(weight, *codes)
        ctx.memory = memory
        return tuple(_sum(weight, v, i) for v, i in zip(codes[::2], codes[1::2], strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, *codes = ctx.saved_tensors
        sets = [(v, i, g.contiguous()) for v, i, g in zip(codes[::2], codes[1::2], gradients, strict=True)]
        by_weight = _gather_transposed(ctx.memory.take(weight), sets) if ctx.needs_input_grad[0] else None
        by_codes: list[torch.Tensor | None] = []
        for position, (_, indices, gradient) in enumerate(sets):
            wanted = ctx.needs_input_grad[2 + 2 * position]
            by_codes += [_dot(weight, indices, gradient) if wanted else None, None]
        return by_weight, None, *by_codes


def _activations(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Iterable[tuple[slice, torch.Tensor]]:
    """Yields pre-activations float[rows, m] of some rows at a time; the next ones overwrite them."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    step = _CPU_ROWS if kind == "cpu" else max(_CPU_ROWS, _GPU_ACTIVATIONS // len(weight))
    memory = x.new_empty(min(step, len(x)), len(weight))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        yield slice(start, start + len(part)), torch.addmm(bias, part, weight.t(), out=memory[: len(part)])


def _select(pre: torch.Tensor, k: int, into: tuple[torch.Tensor, torch.Tensor], rows: slice) -> None:
    values, indices = pre.topk(k, dim=1, sorted=False)
    into[0][rows] = values.relu()
    into[1][rows] = indices


def _sum(weight: torch.Tensor, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")


def _dot(weight: torch.Tensor, indices: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Computes x_i . weight[indices_ij]: float[n, k]."""
    n, k = indices.shape
    if x.is_cuda:
        step = max(1, _GPU_ACTIVATIONS // (k * x.shape[1]))
        parts = [slice(start, start + step) for start in range(0, n, step)]
        return torch.cat([torch.bmm(weight[indices[p]], x[p].unsqueeze(2)).squeeze(2) for p in parts])
    starts = torch.arange(0, n * k + 1, k)
    pattern = _csr(starts, indices.reshape(-1), x.new_zeros(n * k), (n, len(weight)))
    products: torch.Tensor = torch.sparse.sampled_addmm(pattern, x, weight.t(), beta=0.0)
    return products.values().view(n, k)


def _gather_transposed(into: torch.Tensor, sets: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Writes Z^T x, summed over sets, into float[m, d]; Z, float[n, m], has `values` at `indices`, 0 elsewhere."""
    for beta, (values, indices, x) in enumerate(sets):
        n, k = indices.shape
        by_latent, order = torch.sort(indices.reshape(-1), stable=True)
        starts = torch.searchsorted(by_latent, torch.arange(len(into) + 1, device=x.device))
        transposed = _csr(starts, order // k, values.reshape(-1)[order], (len(into), n))
        torch.addmm(into, transposed, x, beta=min(beta, 1), out=into)
    return into


def _csr(starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)
