"""torchvision classifiers without their last layer: `torchvision:MODEL/WEIGHTS`, or `/random` when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import Prior, PriorInfo, feature_dim, rgb, weights_hash
from coevo_ray.priors.registry import known

_RANDOM = "random"
# Where torchvision's classifiers keep their last layer.
_HEADS = ("fc", "classifier", "head", "heads")


def check(model: str, input_size: int | None) -> None:
    """See `registry.check_prior`."""
    name, weights = _split(model)
    if weights == _RANDOM:
        return
    entry = _weights(name, weights)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    if not cached.is_file():
        _reachable(entry.url, cached)


def load(model: str, input_size: int | None) -> Prior:
    """See `registry.load_prior`."""
    from torchvision.models import get_model

    name, weights = _split(model)
    mean, std, size = rgb((0.485, 0.456, 0.406)), rgb((0.229, 0.224, 0.225)), 224
    if weights == _RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = get_model(name, weights=None)
        licence = "none: random weights"
    else:
        entry = _weights(name, weights)
        preset: Any = entry.transforms()
        mean, std, size = rgb(preset.mean), rgb(preset.std), preset.crop_size[0]
        try:
            module = get_model(name, weights=entry)
        except OSError as error:
            raise _no_weights(model, error) from error
        licence = str(entry.meta.get("_docs", "see torchvision's page of the weights")).split("\n")[0]
    _strip_head(module, name)
    size = input_size or size
    info = PriorInfo(
        name=f"torchvision:{model}",
        input_size=size,
        dim=feature_dim(module, size),
        preprocessing="RGB, shorter side to the input size, centre crop, ImageNet mean and standard deviation",
        weights=weights_hash(module),
        licence=licence,
    )
    return Prior(info, module, mean, std)


def _split(model: str) -> tuple[str, str]:
    from torchvision.models import list_models

    name, slash, weights = model.partition("/")
    known("torchvision model", name, list_models(module=__import__("torchvision").models), "torchvision.models")
    if not slash or not weights:
        raise UsageError(f"torchvision:{model} names no weights", f"write torchvision:{name}/DEFAULT, or /random")
    return name, weights


def _weights(name: str, weights: str) -> Any:
    from torchvision.models import get_model_weights

    entries = get_model_weights(name)
    if weights == "DEFAULT":
        return entries.DEFAULT
    known(f"weights of torchvision:{name}", weights, [e.name for e in entries], "or DEFAULT, or random")
    return entries[weights]


def _reachable(url: str, cached: Path) -> None:
    """Asks for the weights' headers, so that a missing network is found before any work."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10):  # noqa: S310 - https
            return
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"the weights {cached.name} are not at {cached} and cannot be downloaded: {error}",
            f"download them elsewhere and put them there, or set TORCH_HOME to a folder with hub/checkpoints/{cached.name}",
        ) from error


def _no_weights(model: str, error: OSError) -> InputError:
    return InputError(
        f"cannot load the weights of torchvision:{model}: {error}",
        "put them into TORCH_HOME/hub/checkpoints on every node, or use a prior whose weights are installed",
    )


def _strip_head(module: nn.Module, name: str) -> None:
    for head in _HEADS:
        if hasattr(module, head):
            setattr(module, head, nn.Identity())
            return
    raise UsageError(f"torchvision:{name} has no classifier to strip", "use callable:package.module:Class for it")
