"""TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093; factors as in arXiv 2603.04981; DESIGN section 5.2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from coevo_ray.errors import InputError


@dataclass(frozen=True)
class SAEConfig:
    """Shape of the model.

    Attributes:
        dim: d, dimension of the input.
        latents: m.
        k: active latents of a row.
        k_aux: dead latents that reconstruct the residual.
        dead_after_samples: a latent that was not active for so many samples is dead.
        aux_coefficient: weight of the auxiliary loss.
    """

    dim: int
    latents: int
    k: int
    k_aux: int = 64
    dead_after_samples: int = 10_000_000
    aux_coefficient: float = 1 / 32

    def __post_init__(self) -> None:
        if min(self.dim, self.latents, self.k, self.k_aux, self.dead_after_samples) < 1 or self.k > self.latents:
            raise InputError(f"an SAE of {self}", "all sizes must be 1 or more, and k at most latents")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Codes(NamedTuple):
    """Active latents: indices int64[n, k] and values float[n, k] >= 0."""

    indices: torch.Tensor
    values: torch.Tensor


class SAELoss(NamedTuple):
    """One batch's loss.

    Attributes:
        total: reconstruction + coefficient x auxiliary; scalar with gradient.
        reconstruction: mean squared error in units of the scaled input.
        auxiliary: squared error of the residual as the dead latents reconstruct it, relative to the residual's mean
            square; 0 while none is dead.
        codes: the batch's codes.
        xhat: reconstruction in input units, without gradient.
    """

    total: torch.Tensor
    reconstruction: torch.Tensor
    auxiliary: torch.Tensor
    codes: Codes
    xhat: torch.Tensor


class TopKSAE(nn.Module):
    """z = TopK(ReLU(W_enc (x' - b_pre) + b_enc)), x'hat = W_dec^T z + b_pre, with x' = (x - mean) / scale.

    The decoder is stored as one row of length 1 per latent, so that decoding touches only the k active ones.

    Args:
        config: shape of the model.
        generator: draws the first decoder; None takes PyTorch's own generator, which `torch.manual_seed` sets.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    silent: torch.Tensor

    def __init__(self, config: SAEConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        decoder = nn.functional.normalize(torch.randn(config.latents, config.dim, generator=generator), dim=1)
        self.decoder = nn.Parameter(decoder)
        self.encoder = nn.Parameter(decoder.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(config.latents))
        self.pre_bias = nn.Parameter(torch.zeros(config.dim))
        self.register_buffer("mean", torch.zeros(config.dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("silent", torch.zeros(config.latents, dtype=torch.int64))

    def set_input_statistics(self, mean: torch.Tensor, mean_square: float) -> None:
        """Centres inputs and scales them to unit mean square.

        Args:
            mean: float[d].
            mean_square: mean over rows and dimensions of (x - mean)^2, above 0.

        Raises:
            InputError: the mean square is not positive.
        """
        if not mean_square > 0:
            raise InputError(
                f"inputs have mean square {mean_square} about their mean", "they are constant; check encode"
            )
        self.mean.copy_(mean)
        self.scale.fill_(mean_square**0.5)

    def encode(self, x: torch.Tensor) -> Codes:
        """Codes of inputs float[n, d].

        Raises:
            InputError: the inputs' shape does not fit.
        """
        return self._encode(self._scaled(x), self.config.k)

    def decode(self, codes: Codes) -> torch.Tensor:
        """Reconstructions float[n, d] in input units."""
        return self._decode(codes) * self.scale + self.mean

    def loss(self, x: torch.Tensor) -> SAELoss:
        """Loss of a batch float[n, d] (Gao et al. 2024, sections 2.3 and A.2).

        Raises:
            InputError: the inputs' shape does not fit.
        """
        scaled = self._scaled(x)
        codes = self._encode(scaled, self.config.k)
        decoded = self._decode(codes)
        reconstruction = (decoded - scaled).square().mean()
        auxiliary = self._auxiliary(scaled, (scaled - decoded).detach())
        total = reconstruction + self.config.aux_coefficient * auxiliary
        detached = Codes(codes.indices, codes.values.detach())
        return SAELoss(total, reconstruction, auxiliary, detached, decoded.detach() * self.scale + self.mean)

    def active_counts(self, codes: Codes) -> torch.Tensor:
        """int64[latents]: rows of a batch in which each latent is active."""
        active = codes.indices[codes.values > 0]
        return torch.bincount(active.reshape(-1), minlength=self.config.latents)

    @torch.no_grad()
    def note_active_(self, counts: torch.Tensor, samples: int) -> None:
        """Notes a global batch: counts int64[latents], summed over workers, of `samples` rows."""
        self.silent.add_(samples).masked_fill_(counts > 0, 0)

    @property
    def dead(self) -> torch.Tensor:
        """bool[latents]."""
        return self.silent >= self.config.dead_after_samples

    @torch.no_grad()
    def normalise_decoder_(self) -> None:
        """Brings decoder rows back to length 1, after each step."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def remove_parallel_gradient_(self) -> None:
        """Takes from the decoder's gradient what would only change its rows' lengths, before each step."""
        if self.decoder.grad is not None:
            along = (self.decoder.grad * self.decoder).sum(dim=1, keepdim=True)
            self.decoder.grad.sub_(along * self.decoder)

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 2 or x.shape[1] != self.config.dim:
            raise InputError(
                f"inputs of shape {tuple(x.shape)} for an SAE of dimension {self.config.dim}", "check them"
            )
        return (x - self.mean) / self.scale

    def _encode(self, scaled: torch.Tensor, k: int, among: torch.Tensor | None = None) -> Codes:
        """TopK(ReLU(W_enc (x' - b_pre) + b_enc)) over all latents, or over those in `among`, int64[j].

        All use of the encoder's weight is here, so that another gradient can take its place.
        """
        weight = self.encoder if among is None else self.encoder[among]
        bias = self.encoder_bias if among is None else self.encoder_bias[among]
        pre = nn.functional.linear(scaled - self.pre_bias, weight, bias)
        values, indices = pre.topk(k, dim=1, sorted=False)
        return Codes(indices if among is None else among[indices], values.relu())

    def _decode(self, codes: Codes) -> torch.Tensor:
        """Touches only the active rows of the decoder, forward and backward."""
        return self._sum_active(codes) + self.pre_bias

    def _sum_active(self, codes: Codes) -> torch.Tensor:
        return nn.functional.embedding_bag(codes.indices, self.decoder, per_sample_weights=codes.values, mode="sum")

    def _auxiliary(self, scaled: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        dead = torch.nonzero(self.dead).squeeze(1)
        if len(dead) == 0:
            return scaled.new_zeros(())
        guess = self._sum_active(self._encode(scaled, min(self.config.k_aux, len(dead)), dead))
        # Relative to the residual's size, as published, so that the term keeps its weight as the fit improves.
        return (guess - residual).square().mean() / residual.square().mean().clamp_min(1e-12)


@dataclass(frozen=True)
class ReconstructionStatistics:
    """Sums that add up over batches and workers.

    Attributes:
        rows: rows seen.
        total, squares: float64[d], sums of x and x^2.
        residual: sum of squared errors.
        active: int64[latents], rows in which each latent was active.
    """

    rows: int
    total: torch.Tensor
    squares: torch.Tensor
    residual: float
    active: torch.Tensor

    @classmethod
    def empty(cls, dim: int, latents: int) -> ReconstructionStatistics:
        """No rows yet."""
        zero = torch.zeros(dim, dtype=torch.float64)
        return cls(0, zero, zero.clone(), 0.0, torch.zeros(latents, dtype=torch.int64))

    @classmethod
    def measure(cls, x: torch.Tensor, xhat: torch.Tensor, active: torch.Tensor) -> ReconstructionStatistics:
        """Of one batch: inputs, reconstructions float[n, d], active counts int64[latents]."""
        wide = x.detach().cpu().double()
        residual = float((wide - xhat.detach().cpu().double()).square().sum())
        return cls(len(x), wide.sum(dim=0), wide.square().sum(dim=0), residual, active.detach().cpu())

    def __add__(self, other: ReconstructionStatistics) -> ReconstructionStatistics:
        return ReconstructionStatistics(
            self.rows + other.rows,
            self.total + other.total,
            self.squares + other.squares,
            self.residual + other.residual,
            self.active + other.active,
        )

    @property
    def explained_variance(self) -> float:
        """1 - squared error / squared distance from the mean."""
        spread = float((self.squares - self.total.square() / max(self.rows, 1)).sum())
        return 1.0 - self.residual / spread if spread > 0 else float("nan")

    @property
    def dead_fraction(self) -> float:
        """Share of latents that no row activated."""
        return float((self.active == 0).double().mean())

    @property
    def mean_l0(self) -> float:
        """Mean number of active latents of a row."""
        return float(self.active.sum()) / max(self.rows, 1)
