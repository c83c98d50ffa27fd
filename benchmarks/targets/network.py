"""Networks of the targets benchmark, for images of 32 pixels; `--model` takes others."""

from __future__ import annotations

from typing import Any

from torch import nn


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
