"""The variants of the objective, and the losses that the package does not have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from coevo_ray.training.from_targets.network import contrast_loss, cosine_loss

Loss = Literal["cosine", "huber", "relational", "none"]
Targets = Literal["coverage_all", "one_prior", "mixed", "whitened"]
_TEMPERATURE = 0.1  # of the relational loss


@dataclass(frozen=True)
class Variant:
    """An objective; the defaults are the package's.

    Attributes:
        loss: between prediction and target.
        contrast: weight of telling a row's target from the batch's others.
        views: of a row in an epoch; with two there are half as many epochs.
        min_crop, colour: of the views.
        head: linear or mlp.
        centre: take the mean off the targets.
        learning_rate: peak.
        targets: those of all priors on every row; of the best prior; of one prior a row; all priors', whitened.
    """

    loss: Loss = "cosine"
    contrast: float = 0.2
    views: int = 1
    min_crop: float = 0.7
    colour: float = 0.25
    head: Literal["linear", "mlp"] = "linear"
    centre: bool = True
    learning_rate: float = 0.002
    targets: Targets = "coverage_all"

    def losses(self, predicted: torch.Tensor, targets: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Losses float[b] of predictions float[v b, n] for targets float[b, n] with mean float[n]."""
        found = _LOSSES[self.loss](predicted, targets, mean)
        return found + self.contrast * contrast_loss(predicted, targets, mean) if self.contrast else found


DEFAULT = "default"
_BASE = Variant()
_STRONG = replace(_BASE, min_crop=0.2, colour=1.0)
VARIANTS: dict[str, Variant] = {
    DEFAULT: _BASE,
    "cosine_alone": replace(_BASE, contrast=0.0),
    "contrast_alone": replace(_BASE, contrast=1.0, loss="none"),
    "two_views": replace(_BASE, views=2),
    "medium_views": replace(_BASE, min_crop=0.5, colour=0.5),
    "strong_views": _STRONG,
    "only_mirrored": replace(_BASE, min_crop=1.0, colour=0.0),
    "version_0.1.0": replace(_STRONG, views=2, contrast=0.0),
    "huber": replace(_BASE, loss="huber", contrast=0.0),
    "relational": replace(_BASE, loss="relational", contrast=0.0),
    "mlp_head": replace(_BASE, head="mlp"),
    "uncentred": replace(_BASE, centre=False),
    "whitened": replace(_BASE, targets="whitened"),
    "half_rate": replace(_BASE, learning_rate=0.001),
    "double_rate": replace(_BASE, learning_rate=0.004),
    "one_prior": replace(_BASE, targets="one_prior"),
    "mixed": replace(_BASE, targets="mixed"),
}


def huber_loss(predicted: torch.Tensor, targets: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Huber's loss (delta 1) to the centred target, scaled to unit variance a dimension; arguments as `cosine_loss`."""
    wanted = nn.functional.normalize(targets - mean, dim=1) * targets.shape[1] ** 0.5
    views = predicted.float().view(-1, *targets.shape)
    each = nn.functional.huber_loss(views, wanted.expand_as(views), reduction="none")
    return each.mean(dim=(0, 2))


def relational_loss(predicted: torch.Tensor, targets: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """KL divergence of a row's similarities to the batch's other rows, of predictions from those of targets.

    As in SEED (arXiv 2101.04731) and relational distillation: no dimension of the target is asked for, only which rows
    are alike. Arguments as `cosine_loss`.
    """
    rows = len(targets)
    others = ~torch.eye(rows, dtype=torch.bool, device=targets.device)

    def logs(vectors: torch.Tensor) -> torch.Tensor:
        unit = nn.functional.normalize(vectors, dim=1)
        return (unit @ unit.T)[others].view(rows, rows - 1).div(_TEMPERATURE).log_softmax(dim=1)

    wanted = logs(targets - mean)
    found = [logs(view) for view in predicted.float().view(-1, *targets.shape)]
    return torch.stack([(wanted.exp() * (wanted - each)).sum(dim=1) for each in found]).mean(dim=0)


def _none(predicted: torch.Tensor, targets: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return targets.new_zeros(len(targets))


_LOSSES = {"cosine": cosine_loss, "huber": huber_loss, "relational": relational_loss, "none": _none}
