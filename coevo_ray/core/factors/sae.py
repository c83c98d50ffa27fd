"""TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093), whose latents are the factors of arXiv 2603.04981.

Formulas: docs/design.md#sae.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from coevo_ray.core.factors.sparse_codes import GradientMemory, sum_rows, top_activations
from coevo_ray.errors import InputError


@dataclass(frozen=True)
class SAEConfig:
    """Sizes of the model and settings of its loss.

    The defaults of `dead_after_samples` and `aux_coefficient` are those of Gao et al. 2024 (arXiv 2406.04093).

    Attributes:
        dim: d, dimension of the input.
        latents: m, number of latents.
        k: active latents per row.
        k_aux: dead latents that reconstruct the residual.
        dead_after_samples: samples without activity after which a latent counts as dead.
        aux_coefficient: weight of the auxiliary loss.

    Raises:
        InputError: a size is below 1, or k is above `latents`.
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
        """Returns the fields as JSON values: int, and float for the coefficient."""
        return asdict(self)


class Codes(NamedTuple):
    """Active latents of n rows: indices int64[n, k] and values float[n, k] >= 0; a value of 0 is no activity."""

    indices: torch.Tensor
    values: torch.Tensor


class SAELoss(NamedTuple):
    """Loss of a batch, or one worker's part of it; the parts of all workers add up to the loss of the batch.

    Attributes:
        total: float[], reconstruction + coefficient x auxiliary, with gradient.
        reconstruction: float[], mean squared error in units of the scaled input, without gradient. Scaled inputs have
            unit mean square over all rows, so 1 minus its mean is the explained variance.
        auxiliary: float[], squared error of the dead latents' reconstruction of the residual, relative to the
            residual's square, without gradient; 0 while no latent is dead.
        codes: the batch's codes, without gradient.
    """

    total: torch.Tensor
    reconstruction: torch.Tensor
    auxiliary: torch.Tensor
    codes: Codes


class TopKSAE(nn.Module):
    """z = TopK(ReLU(W_enc (x' - b_pre) + b_enc)), x'hat = W_dec^T z + b_pre, with x' = (x - mean) / scale.

    Gao et al. 2024, arXiv 2406.04093, section 2.3 (docs/design.md#sae). The decoder is stored as one row of length 1
    per latent, so that decoding reads the k active rows only. The encoder starts as the decoder's transpose, as
    published, which leaves few latents dead.

    Args:
        config: sizes and settings.
        generator: draws the initial decoder; None takes PyTorch's global generator, which `torch.manual_seed` sets.

    Attributes:
        decoder, encoder: float32[m, d].
        encoder_bias: float32[m].
        pre_bias: float32[d], in scaled units.
        mean: float32[d], of the inputs.
        scale: float32[], root of the inputs' mean square about their mean.
        silent: int64[m], samples since each latent was last active.
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
        self._memory = GradientMemory()

    def set_input_statistics(self, mean: torch.Tensor, mean_square: float) -> None:
        """Sets the statistics by which inputs are centred and scaled to unit mean square.

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

    @torch.no_grad()
    def set_offset_(self, point: torch.Tensor) -> None:
        """Sets the offset b_pre, which encoding subtracts and decoding adds, to a point float[d] in input units."""
        self.pre_bias.copy_((point - self.mean) / self.scale)

    def encode(self, x: torch.Tensor) -> Codes:
        """Encodes inputs float[n, d] in input units.

        Returns:
            Indices int64[n, k], in no order, and values float[n, k] >= 0.

        Raises:
            InputError: the inputs' shape does not fit.
        """
        return self._activate(self._scaled(x))[0]

    def decode(self, codes: Codes) -> torch.Tensor:
        """Decodes codes to reconstructions float[n, d] in input units."""
        (decoded,) = sum_rows(self.decoder, [(codes.values, codes.indices)], self._memory)
        return (decoded + self.pre_bias) * self.scale + self.mean

    def loss(
        self,
        x: torch.Tensor,
        rows: int | None = None,
        join: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> SAELoss:
        """Computes the loss of a batch (Gao et al. 2024, sections 2.3 and A.2), or of one worker's part of it.

        Args:
            x: float[n, d]; a worker's part may be empty.
            rows: number of rows of the whole batch; None for n.
            join: sums a tensor over all workers; None for a single worker. Called if latents are dead.

        Raises:
            InputError: the inputs' shape does not fit.
        """
        scaled = self._scaled(x)
        size = (len(x) if rows is None else rows) * self.config.dim
        dead = torch.nonzero(self.dead).squeeze(1)
        codes, among_dead = self._activate(scaled, dead)
        sets = [(codes.values, codes.indices)]
        if len(dead):
            sets.append((among_dead.values, among_dead.indices))
        decoded, *guesses = sum_rows(self.decoder, sets, self._memory)
        decoded = decoded + self.pre_bias
        reconstruction = nn.functional.mse_loss(decoded, scaled, reduction="sum") / size
        auxiliary = torch.zeros_like(reconstruction)
        for guess in guesses:
            residual = (scaled - decoded).detach()
            squares = residual.square().sum()
            # Relative to the residual's size, as published, so that the term keeps its weight as the fit improves.
            total_squares = (squares if join is None else join(squares)).clamp_min(1e-12 * size)
            auxiliary = nn.functional.mse_loss(guess, residual, reduction="sum") / total_squares
        total = reconstruction + self.config.aux_coefficient * auxiliary
        detached = Codes(codes.indices, codes.values.detach())
        return SAELoss(total, reconstruction.detach(), auxiliary.detach(), detached)

    def active_counts(self, codes: Codes) -> torch.Tensor:
        """Counts the rows of a batch in which each latent is active: int64[m]."""
        active = codes.indices[codes.values > 0]
        return torch.bincount(active.reshape(-1), minlength=self.config.latents)

    @torch.no_grad()
    def note_active_(self, counts: torch.Tensor, samples: int) -> None:
        """Updates `silent` by a global batch of `samples` rows with counts int64[m], summed over workers."""
        self.silent.add_(samples).masked_fill_(counts > 0, 0)

    @property
    def dead(self) -> torch.Tensor:
        """bool[m], latents without activity for `dead_after_samples` samples."""
        return self.silent >= self.config.dead_after_samples

    @torch.no_grad()
    def normalise_decoder_(self) -> None:
        """Rescales the rows of the decoder, float32[m, d], to length 1; call it after each optimizer step."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def remove_parallel_gradient_(self) -> None:
        """Removes the part of the decoder's gradient, float32[m, d], that is parallel to its rows.

        That part only changes their lengths, which `normalise_decoder_` undoes. Call it before each optimizer step.
        """
        if self.decoder.grad is not None:
            along = torch.einsum("md,md->m", self.decoder.grad, self.decoder)
            self.decoder.grad.addcmul_(self.decoder, along.unsqueeze(1), value=-1)

    @torch.no_grad()
    def normalise_gradients_(self) -> None:
        """Scales all gradients jointly to length 1; call it before each optimizer step.

        Gradients shrink as the fit improves, faster than Adam's second moments follow, and Adam's steps with them.
        Gao et al. 2024 clip gradients, which amounts to the same above the limit.
        """
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        if gradients:
            length = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]).norm()
            for gradient in gradients:
                gradient.div_(length.clamp_min(1e-30))

    def drop_gradients_(self) -> None:
        """Sets gradients to None like `zero_grad`, and reuses their memory for the next ones: keep no reference."""
        self._memory.recycle_(self.parameters())

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 2 or x.shape[1] != self.config.dim:
            raise InputError(
                f"inputs of shape {tuple(x.shape)} for an SAE of dimension {self.config.dim}",
                f"give features of shape [n, {self.config.dim}], those the SAE was fitted on",
            )
        return (x - self.mean).div_(self.scale)

    def _activate(self, scaled: torch.Tensor, dead: torch.Tensor | None = None) -> tuple[Codes, Codes]:
        """Returns codes over all latents, and over the dead ones int64[j]."""
        among = self.silent.new_empty(0) if dead is None else dead
        k_among = min(self.config.k_aux, len(among))
        values, indices, among_values, among_indices = top_activations(
            scaled,
            self.pre_bias,
            self.encoder,
            self.encoder_bias,
            k=self.config.k,
            among=among,
            k_among=k_among,
            memory=self._memory,
        )
        return Codes(indices, values), Codes(among_indices, among_values)
