"""torchvision classifiers without their last layer: `torchvision:MODEL/WEIGHTS`.

WEIGHTS is one of the model's (`IMAGENET1K_V1`, `DEFAULT`), the absolute path of a state dict, or `random`. Of a state
dict the last layer's weights are not needed, and may be of any number of classes.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any
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
# Where torchvision's classifiers keep their last layer.
_HEADS = ("fc", "classifier", "head", "heads")
# Without these, the first two spend a minute on initial weights and expect pixels scaled in another way.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False, "transform_input": True},
    "inception_v3": {"init_weights": False, "transform_input": True},
}
# Position tables fix their input size.
_FIXED_SIZE = ("vit_", "maxvit_")


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    require_modality(f"torchvision:{model}", "image", samples)
    name, weights = _split(model)
    entry = _entry(name, weights)
    if entry is None:
        return
    own = _preset(entry)["crop_size"]
    if name.startswith(_FIXED_SIZE) and input_size not in (None, own):
        raise UsageError(f"torchvision:{model} at {input_size} pixels", f"it takes {own} alone: leave input_size out")
    cached = _cached(entry)
    if not cached.is_file():
        check_download(entry.url, f"torchvision:{model}", _remedy(name, cached))


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    require_modality(f"torchvision:{model}", "image", samples)
    name, weights = _split(model)
    entry = _entry(name, weights)
    preset = _preset(entry or _models(model).get_model_weights(name).DEFAULT)
    module = _random(name) if entry is None else _pretrained(name, weights, entry)
    licence = RANDOM_LICENCE if entry is None else str(entry.meta.get("license", _LICENCE))
    head = _strip_head(module, name)
    path = None if weights == RANDOM else local_file(weights)
    if path is not None:
        load_into(module, path, f"torchvision:{name}", (head,))
        licence = FILE_LICENCE
    size = input_size or int(preset["crop_size"])
    dim = feature_dim(f"torchvision:{model}", module, size)
    mean, std = channels(preset["mean"]), channels(preset["std"])
    return make_prior(f"torchvision:{model}", module, size, dim, mean, std, licence)


def _models(model: str) -> Any:
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


def _entry(name: str, weights: str) -> Any:
    """The model's weights of that name; None for random ones and for a file."""
    if weights == RANDOM or local_file(weights) is not None:
        return None
    entries = _models(name).get_model_weights(name)
    names = ["DEFAULT", *(entry.name for entry in entries), RANDOM]
    known(f"weights of torchvision:{name}", weights, names, f"torchvision:{name}/WEIGHTS or an absolute path")
    return entries[weights]


def _preset(entry: Any) -> dict[str, Any]:
    """crop_size in pixels, mean and std in 0..1, as these weights were evaluated."""
    preset = entry.transforms()
    return {"crop_size": preset.crop_size[0], "mean": preset.mean, "std": preset.std}


def _cached(entry: Any) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(entry.url).path).name


def _remedy(name: str, cached: Path) -> str:
    return (
        f"fetch the file elsewhere and put it at {cached} on every node, set TORCH_HOME to a folder with "
        f"hub/checkpoints/{cached.name}, or name a local file: torchvision:{name}/ABSOLUTE_PATH"
    )


def _random(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        made: nn.Module = _models(name).get_model(name, weights=None, **_OPTIONS.get(name, {}))
        return made


def _pretrained(name: str, weights: str, entry: Any) -> nn.Module:
    cached = _cached(entry)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # PyTorch announces downloads on stdout, which is for results
            # torchvision's own loading, which knows the old names of some weights, unpickles without weights_only:
            # a first, restricted reading makes sure that there are only tensors.
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
    """Takes off the last linear layer, and keeps what comes before it in the head, such as a norm.

    Returns:
        What the names of its weights begin with.
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
    raise UsageError(f"torchvision:{name} has no classifier to take off", "use callable:package.module:Class for it")
