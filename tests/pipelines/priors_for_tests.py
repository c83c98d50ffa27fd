"""Encoders as a user would write them: `callable:tests.pipelines.priors_for_tests:Class`."""

from __future__ import annotations

import torch
from torch import nn


class _Centred(nn.Module):
    """Pixels minus their mean: zero for a black image; NaN where the mean is above `limit`."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(1)
        mean = pixels.mean(dim=1, keepdim=True)
        return torch.where(mean > self.limit, torch.nan, pixels - mean)


class _Constant(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 12)


class _OneRow(nn.Module):
    """Right for one image, as in the check that is made when it is loaded, and wrong for a batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:1]


class FailsOnBright:
    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Centred(0.75), 192, 8


class Constant:
    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Constant(), 12, 8


class WrongShape:
    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _OneRow(), 192, 8
