"""torchvision classifiers without their last layer: `torchvision:MODEL/WEIGHTS`.

WEIGHTS is one of the model's (`IMAGENET1K_V1`, `DEFAULT`), the absolute path of a state dict, or `random`. A state dict
may lack the last layer's weights, or hold them for any number of classes.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast
from urllib.parse import urlsplit

import torch
from torch import nn

from coevo_ray.errors import UsageError
from coevo_ray.priors.base import LoadedPrior, channels, feature_dim, known, library, make_prior, require_modality
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.weights import (
    FILE_LICENCE,
    RANDOM,
    RANDOM_LICENCE,
    RANDOM_SEED,
    READ_ERRORS,
    check_download,
    load_into,
    local_file,
    not_fetched,
    unreadable,
)

_LICENCE = "code BSD-3-Clause; trained on ImageNet-1K"
# Attributes of torchvision's classifiers that hold their last layer.
_HEADS = ("fc", "classifier", "head", "heads")
# Without these, the first two spend a minute on initial weights and expect pixels scaled in another way.
_OPTIONS: dict[str, dict[str, bool]] = {
    "googlenet": {"init_weights": False, "transform_input": True},
    "inception_v3": {"init_weights": False, "transform_input": True},
}
# Position tables fix their input size.
_FIXED_SIZE = ("vit_", "maxvit_")


class _Preset(Protocol):
    """The image transform of torchvision's weights."""

    crop_size: list[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Weights(Protocol):
    """An entry of torchvision's weights."""

    name: str
    url: str
    meta: dict[str, object]

    def transforms(self) -> _Preset: ...


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    require_modality(f"torchvision:{model}", "image", samples)
    name, weights = _split(model)
    entry = _entry(name, weights)
    if entry is None:
        return
    own = _crop_size(entry.transforms())
    if name.startswith(_FIXED_SIZE) and input_size not in (None, own):
        raise UsageError(f"torchvision:{model} at {input_size} pixels", f"it takes only {own}: leave input_size out")
    cached = _cached(entry)
    if not cached.is_file():
        check_download(entry.url, f"torchvision:{model}", _remedy(name, cached))


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    require_modality(f"torchvision:{model}", "image", samples)
    name, weights = _split(model)
    entry = _entry(name, weights)
    preset = (entry or cast(_Weights, _models(model).get_model_weights(name).DEFAULT)).transforms()
    module = _random(name) if entry is None else _pretrained(name, weights, entry)
    licence = RANDOM_LICENCE if entry is None else str(entry.meta.get("license", _LICENCE))
    head = _strip_head(module, name)
    path = None if weights == RANDOM else local_file(weights)
    if path is not None:
        load_into(module, path, f"torchvision:{name}", (head,))
        licence = FILE_LICENCE
    size = input_size or _crop_size(preset)
    dim = feature_dim(f"torchvision:{model}", module, size)
    mean, std = channels(preset.mean), channels(preset.std)
    return make_prior(f"torchvision:{model}", module, size, dim, mean, std, licence)


def _models(model: str) -> ModuleType:
    remedy = "install the torch that it was built for, from the same place: pip install -U torch torchvision"
    return library("torchvision.models", f"torchvision:{model}", remedy)


def _split(model: str) -> tuple[str, str]:
    models = _models(model)
    name, _, weights = model.partition("/")
    known("torchvision model", name, models.list_models(module=models), "torchvision:MODEL/WEIGHTS")
    if not weights:
        raise UsageError(
            f"torchvision:{model} names no weights",
            f"write torchvision:{name}/DEFAULT, or torchvision:{name}/{RANDOM} for random initialisation",
        )
    return name, weights


def _entry(name: str, weights: str) -> _Weights | None:
    """The model's public weights of that name; None for random ones and for a file."""
    if weights == RANDOM or local_file(weights) is not None:
        return None
    entries = _models(name).get_model_weights(name)
    names = ["DEFAULT", *(entry.name for entry in entries), RANDOM]
    known(f"weights of torchvision:{name}", weights, names, f"torchvision:{name}/WEIGHTS or an absolute path")
    return cast(_Weights, entries[weights])


def _crop_size(preset: _Preset) -> int:
    """Pixels of the square that the weights were evaluated at."""
    return int(preset.crop_size[0])


def _cached(entry: _Weights) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(entry.url).path).name


def _remedy(name: str, cached: Path) -> str:
    return (
        f"download the file elsewhere and put it at {cached} on every node, set TORCH_HOME to a folder with "
        f"hub/checkpoints/{cached.name}, or name a local file: torchvision:{name}/ABSOLUTE_PATH"
    )


def _random(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        made: nn.Module = _models(name).get_model(name, weights=None, **_OPTIONS.get(name, {}))
        return made


def _pretrained(name: str, weights: str, entry: _Weights) -> nn.Module:
    cached = _cached(entry)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # PyTorch announces downloads on stdout, which is for results
            # torchvision's own loading, which knows old names of some weights, unpickles without weights_only: a first,
            # restricted reading makes sure that the file holds only tensors.
            torch.hub.load_state_dict_from_url(
                entry.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
            made: nn.Module = _models(name).get_model(name, weights=entry, progress=False)
            return made
    except READ_ERRORS as error:
        if cached.is_file():
            raise unreadable(cached, error) from error
        raise not_fetched(f"torchvision:{name}/{weights}", str(error), _remedy(name, cached)) from error


def _strip_head(module: nn.Module, name: str) -> str:
    """Removes the last linear layer, and keeps the layers before it in the head, such as a norm.

    Returns:
        Prefix of the names of its weights.
    """
    for head in _HEADS:
        layer = getattr(module, head, None)
        if isinstance(layer, nn.Linear):
            setattr(module, head, nn.Identity())
            return f"{head}."
        if isinstance(layer, nn.Sequential):
            linear = [key for key, child in layer.named_children() if isinstance(child, nn.Linear)]
            if linear:
                setattr(layer, linear[-1], nn.Identity())
                return f"{head}.{linear[-1]}."
            setattr(module, head, nn.AdaptiveAvgPool2d(1))  # SqueezeNet classifies with a convolution
            return f"{head}."
    raise UsageError(f"torchvision:{name} has no classifier to remove", "use callable:package.module:Class for it")
