"""The sides of the SAE benchmark, and what both are given: features, a start, a schedule.

The peer is dictionary-learning's AutoEncoderTopK in its own TopKTrainer. Its package's front door imports nnsight,
which reads activations out of language models and brings transformers, diffusers and some thirty more packages. None
of them is used here, so the peer's own modules are imported past that door; nothing in them is replaced.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
from coevo_ray.core.factors.sae_steps import DECAY_SHARE, SAESteps, Schedule

PEER = "dictionary-learning"
_ATOMS_OF_A_ROW = 40
_WARM_UP_SHARE = 0.05


@dataclass(frozen=True)
class Sizes:
    """What is fitted: d, m, k, rows of a batch, steps of the fit, both sides' peak learning rate."""

    dim: int
    latents: int
    k: int
    batch_rows: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Side:
    """One side of the comparison.

    Attributes:
        step: takes a step's number and a batch, float32[b, d].
        reconstruct: float32[n, d] -> float32[n, d].
    """

    step: Callable[[int, torch.Tensor], None]
    reconstruct: Callable[[torch.Tensor], torch.Tensor]


def planted(rows: int, dim: int, seed: int) -> torch.Tensor:
    """Features with something to find: sums of about forty atoms of a dictionary, some far more frequent, and noise.

    Returns:
        float32[rows, dim], centred, of unit mean square.
    """
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(4 * dim, dim, generator=generator), dim=1)
    frequency = 1.0 / (10 + torch.arange(len(atoms)))
    # The k largest of log p + Gumbel noise are a draw without replacement.
    features = torch.empty(rows, dim)
    for start in range(0, rows, 4096):
        part = features[start : start + 4096]
        noise = -torch.empty(len(part), len(atoms)).exponential_(generator=generator).log()
        chosen = (frequency.log() + noise).topk(_ATOMS_OF_A_ROW, dim=1, sorted=False).indices
        weights = torch.empty(chosen.shape).exponential_(generator=generator)
        part.copy_(torch.nn.functional.embedding_bag(chosen, atoms, per_sample_weights=weights, mode="sum"))
        part.add_(torch.randn(part.shape, generator=generator), alpha=0.2 * dim**-0.5)
    return standardised(features)


def standardised(features: torch.Tensor) -> torch.Tensor:
    """Centred, of unit mean square, in place."""
    features -= features.mean(dim=0)
    features /= features.square().mean().sqrt()
    return features


def explained_variance(side: Side, rows: torch.Tensor) -> float:
    """Of held-out rows."""
    with torch.inference_mode():
        parts = [(side.reconstruct(part) - part).square().sum() for part in torch.split(rows, 1024)]
    return 1.0 - float(torch.stack(parts).sum() / (rows - rows.mean(dim=0)).square().sum())


def make_ours(sizes: Sizes, decoder: torch.Tensor) -> tuple[Side, TopKSAE]:
    """The code that `coevo-ray sae` runs on every worker, with a start that both sides share."""
    sae = TopKSAE(SAEConfig(sizes.dim, sizes.latents, sizes.k))
    with torch.no_grad():
        sae.decoder.copy_(decoder)
        sae.encoder.copy_(decoder)
    steps = SAESteps(sae, Schedule(sizes.learning_rate, sizes.steps * sizes.batch_rows))
    return Side(lambda _, x: steps.step(x) and None, lambda x: sae.decode(sae.encode(x))), sae


def make_peer(sizes: Sizes, decoder: torch.Tensor) -> Side:
    """dictionary-learning's trainer as it comes, with its warm-up shortened to the run and the same decay as ours."""
    trainer = peer_module().TopKTrainer(
        steps=sizes.steps,
        activation_dim=sizes.dim,
        dict_size=sizes.latents,
        k=sizes.k,
        layer=0,
        lm_name="none",
        lr=sizes.learning_rate,
        warmup_steps=int(_WARM_UP_SHARE * sizes.steps),
        decay_start=int((1 - DECAY_SHARE) * sizes.steps),
        device="cpu",
    )
    with torch.no_grad():
        trainer.ae.decoder.weight.copy_(decoder.T)
        trainer.ae.encoder.weight.copy_(decoder)
    return Side(trainer.update, trainer.ae)


def peer_module() -> Any:
    """dictionary_learning.trainers.top_k, without the package's own imports.

    Raises:
        SystemExit: it is not installed.
    """
    name = PEER.replace("-", "_")
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        if spec is None or importlib.util.find_spec("einops") is None:
            raise SystemExit(
                f"{PEER} is not installed: pip install --constraint constraints.txt '.[bench]', "
                f"then pip install --constraint constraints.txt --no-deps {PEER}"
            )
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{name}.trainers.top_k")


def dense_loss(sae: TopKSAE, x: torch.Tensor) -> torch.Tensor:
    """The loss with full matrices: every product is dense, and autograd finds the gradients."""
    scaled = (x - sae.mean) / sae.scale
    z = torch.relu((scaled - sae.pre_bias) @ sae.encoder.T + sae.encoder_bias)
    decoded = _largest(z, sae.config.k) @ sae.decoder + sae.pre_bias
    loss = (scaled - decoded).square().mean()
    dead = torch.nonzero(sae.dead).squeeze(1)
    if len(dead):
        residual = (scaled - decoded).detach()
        guess = _largest(z[:, dead], min(sae.config.k_aux, len(dead))) @ sae.decoder[dead]
        loss = loss + sae.config.aux_coefficient * (guess - residual).square().sum() / residual.square().sum()
    return loss


def _largest(z: torch.Tensor, k: int) -> torch.Tensor:
    values, indices = z.topk(k, dim=1)
    return torch.zeros_like(z).scatter(1, indices, values)


def gradient_difference(sae: TopKSAE, x: torch.Tensor, dead: int) -> float:
    """Largest difference between the gradients of our loss and of `dense_loss`, over the largest gradient.

    Args:
        sae: a model of its own: its precision becomes float64, in which rounding cannot hide a wrong formula.
        x: float[n, d].
        dead: latents that count as dead.
    """
    sae, x = sae.double(), x.double()
    sae.silent.zero_()[:dead] = sae.config.dead_after_samples
    parameters = list(sae.parameters())
    ours = torch.autograd.grad(sae.loss(x).total, parameters)
    dense = torch.autograd.grad(dense_loss(sae, x), parameters)
    largest = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, dense, strict=True)]
    return max(largest)
