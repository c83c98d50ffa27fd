"""Networks that benchmarks train from scratch: small enough for two cores, or the usual one for a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class ResNet(nn.Module):
    """A residual block for each width, as in He et al. 2016 for CIFAR-10, with n = 1.

    Args:
        classes: outputs.
        widths: channels of the blocks; each block but the first halves the image's sides.
        stride: of the first convolution.
    """

    def __init__(self, classes: int, widths: Sequence[int], stride: int = 1) -> None:
        super().__init__()
        first = nn.Conv2d(3, widths[0], 3, stride=stride, padding=1, bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        pairs = itertools.pairwise((widths[0], *widths))
        self.blocks = nn.Sequential(*(_Block(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(pairs)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[b, 3, s, s] -> logits float[b, classes]."""
        logits: torch.Tensor = self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        same = stride == 1 and into == out
        self.past = nn.Identity() if same else nn.Conv2d(into, out, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.layers(x) + self.past(x)
        return total.relu()


def small_resnet(num_classes: int) -> nn.Module:
    """A ResNet with 192 features for images of 32 pixels: two cores see over a thousand images a second in training.

    Args:
        num_classes: outputs.
    """
    return ResNet(num_classes, (24, 48, 96, 192), stride=2)


def strided(num_classes: int) -> nn.Module:
    """Four 3x3 convolutions, each but the first with stride 2, 256 features: an epoch takes seconds on two cores.

    Args:
        num_classes: outputs.
    """
    widths = (32, 64, 128, 256)
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        convolution = nn.Conv2d(before, after, 3, stride=1 if before == 3 else 2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


def resnet18(num_classes: int) -> nn.Module:
    """torchvision's ResNet-18 with the usual beginning for small images: a 3x3 convolution and no pooling.

    Args:
        num_classes: outputs.
    """
    from torchvision.models import get_model

    network: Any = get_model("resnet18", weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    made: nn.Module = network
    return made
