"""A network of a few thousand weights, so that trainings kept as test data are small."""

from __future__ import annotations

from torch import nn


def tiny(num_classes: int) -> nn.Module:
    """Two convolutions and a linear head; images float[b, 3, s, s] -> logits float[b, num_classes]."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )
