"""Networks by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from coevo_ray.errors import UsageError


class SmallCNN(nn.Module):
    """Four 3x3 convolutions with batch norm and a linear head; for images of 8 to 64 pixels.

    Args:
        classes: outputs.
        width: channels of the first layer; doubled twice.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, width),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
            nn.MaxPool2d(2),
            *_block(4 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images float[b, 3, s, s] -> logits float[b, classes]."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]


def make_model(name: str, classes: int) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: `small_cnn`, `torchvision:NAME` (as torchvision.models.get_model knows it, without weights), or
            `package.module:function`, called with `num_classes`.
        classes: outputs.

    Raises:
        UsageError: the name is unknown, or the function does not take `num_classes` or return a module.
    """
    if name == "small_cnn":
        return SmallCNN(classes)
    scheme, _, rest = name.partition(":")
    if scheme == "torchvision":
        return _torchvision(rest, classes)
    try:
        model: Any = getattr(import_module(scheme), rest)(num_classes=classes)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(
            f"unknown model {name!r}: {error}", "use small_cnn, torchvision:resnet18 or package.module:function"
        ) from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} returned {type(model).__name__}", "return a torch.nn.Module")
    return model


def _torchvision(name: str, classes: int) -> nn.Module:
    from torchvision.models import get_model, list_models

    if name not in list_models():
        raise UsageError(f"torchvision has no model {name!r}", "see torchvision.models.list_models()")
    model: nn.Module = get_model(name, weights=None, num_classes=classes)
    return model
