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


_FEATURES_OF = 10  # outputs that tell the classifier from other layers


def make_backbone(name: str, image_size: int) -> tuple[nn.Module, int]:
    """A freshly initialised network with its classifier taken off, and the dimension of its features.

    The classifier is the last linear layer with as many outputs as there are classes.

    Args:
        name: as in `make_model`.
        image_size: pixels of the square input, to try it.

    Raises:
        UsageError: the name is unknown, the network ends in no linear layer, or it does not take such images.
    """
    network = make_model(name, _FEATURES_OF)
    linear = [
        (path, layer)
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == _FEATURES_OF
    ]
    if not linear:
        raise UsageError(
            f"{name} has no linear layer with num_classes outputs to take off", "use a network that ends in one"
        )
    path, classifier = linear[-1]
    parent, _, attribute = path.rpartition(".")
    if not path:
        raise UsageError(f"{name} is a linear layer and nothing else", "use a network with layers before it")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    _try(name, network, image_size, classifier.in_features)
    return network, classifier.in_features


def _try(name: str, network: nn.Module, image_size: int, dim: int) -> None:
    network.eval()
    try:
        with torch.inference_mode():
            shape = tuple(network(torch.zeros(1, 3, image_size, image_size)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{name} does not take images of {image_size} pixels: {error}", "choose another image_size or model"
        ) from error
    finally:
        network.train()
    if shape != (1, dim):
        raise UsageError(
            f"{name} without its classifier gives {list(shape)} for one image, need [1, {dim}]",
            "use a network that ends in its classifier",
        )
