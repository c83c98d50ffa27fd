"""timm's encoders without their classifier: `timm:MODEL[.TAG]`, the extra `timm`.

TAG is one of the model's pretrained weights; without it timm's first is taken. `timm:MODEL[.TAG]/random` and
`timm:MODEL[.TAG]/ABSOLUTE_PATH` replace public weights; TAG then only chooses the preparation of pixels. The file is a
state dict, which may lack the classifier's weights or hold them for any number of classes. Size, mean, std and crop are
those of timm's configuration; scaling is bicubic, and a centre crop has the whole shorter side, whatever share timm
evaluates.
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
from coevo_ray.priors import hub
from coevo_ray.priors.base import Crop, LoadedPrior, channels, feature_dim, known, library, make_prior, require_modality
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

_INSTALL = "pip install 'coevo-ray[timm]'"
# File names of weights in a Hugging Face repository of timm when the configuration names none.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class _Config(Protocol):
    """timm's entry of a model's weights."""

    hf_hub_id: str | None
    hf_hub_filename: str | None
    url: str
    license: str | None


class _Network(Protocol):
    """The parts of timm's models, beside `nn.Module`, that are used."""

    pretrained_cfg: dict[str, object]

    def set_input_size(self, *, img_size: int) -> None: ...


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    require_modality(f"timm:{model}", "image", samples)
    name, weights = _split(model)
    if weights:
        return
    config = _config(name)
    repository, files = _hub(config)
    if repository:
        hub.check_file(repository, files, f"timm:{model}", _remedy(name))
    elif not _torch_cached(config).is_file():
        check_download(config.url, f"timm:{model}", _remedy(name))


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    check(model, input_size, samples)  # fails early: the Hub's own client retries for long
    name, weights = _split(model)
    module = _create(name) if weights else _pretrained(name)
    if not weights:
        licence = f"{_config(name).license or 'not stated'}, as stated by timm"
    elif weights == RANDOM:
        licence = RANDOM_LICENCE
    else:
        load_into(module, Path(weights), f"timm:{name}", _classifiers(module))
        licence = FILE_LICENCE
    preset = _timm(model).data.resolve_model_data_config(module)
    size = _resize(model, module, int(preset["input_size"][-1]), input_size)
    dim = feature_dim(f"timm:{model}", module, size)
    mean, std = channels(preset["mean"]), channels(preset["std"])
    crop: Crop = "squash" if preset["crop_mode"] == "squash" else "center"
    return make_prior(f"timm:{model}", module, size, dim, mean, std, licence, crop)


def _timm(model: str) -> ModuleType:
    return library("timm", f"timm:{model}", _INSTALL)


def _split(model: str) -> tuple[str, str]:
    """Splits into MODEL[.TAG] and what replaces public weights: `random`, a file's path, or ""."""
    full, _, weights = model.partition("/")
    name, _, tag = full.partition(".")
    package = _timm(model)
    known("timm model", name, package.list_models(), "timm:MODEL[.TAG]")
    form = f"timm:{name}.TAG, timm:{name}/{RANDOM} or timm:{name}/ABSOLUTE_PATH"
    if tag:
        tags = [every.partition(".")[2] for every in package.list_pretrained() if every.startswith(f"{name}.")]
        known(f"weights of timm:{name}", tag, tags, form)
    if weights and weights != RANDOM and local_file(weights) is None:
        raise UsageError(f"timm:{model}: {weights!r} is no file", f"write {form}")
    return full, weights


def _config(name: str) -> _Config:
    """timm's entry of MODEL[.TAG]: address of the weights and scaling of pixels."""
    models = library("timm.models", f"timm:{name}", _INSTALL)
    config = models.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise UsageError(
            f"timm:{name} has no public weights", f"write timm:{name}/{RANDOM}, or timm:{name}/ABSOLUTE_PATH of a file"
        )
    return cast(_Config, config)


def _hub(config: _Config) -> tuple[str, tuple[str, ...]]:
    """Repository on the Hugging Face Hub ("" for other hosts) and files that may hold the weights, best first."""
    named = config.hf_hub_filename
    if not named:
        return config.hf_hub_id or "", _HUB_FILES
    safe = (f"{named[:-4]}.safetensors",) if named.endswith((".bin", ".pth")) else ()
    return config.hf_hub_id or "", (*safe, named)


def _torch_cached(config: _Config) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(config.url).path).name


def _remedy(name: str) -> str:
    return (
        "set HF_HOME (for weights that are not on the Hugging Face Hub TORCH_HOME) to a cache that holds them on every "
        f"node, or download the file elsewhere and name it: timm:{name}/ABSOLUTE_PATH"
    )


def _create(name: str, pretrained: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        made: nn.Module = _timm(name).create_model(name, num_classes=0, pretrained=pretrained)
        return made


def _pretrained(name: str) -> nn.Module:
    config = _config(name)
    repository, files = _hub(config)
    cached = hub.cached_file(repository, files) if repository else _torch_cached(config)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # PyTorch announces downloads on stdout, which is for results
            return _create(name, pretrained=True)
    except READ_ERRORS as error:
        if cached is not None and cached.is_file():
            raise unreadable(cached, error) from error
        raise not_fetched(f"timm:{name}", str(error), _remedy(name)) from error


def _classifiers(module: nn.Module) -> tuple[str, ...]:
    names = cast("str | tuple[str, ...]", cast(_Network, module).pretrained_cfg.get("classifier") or ())
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _resize(model: str, module: nn.Module, own: int, input_size: int | None) -> int:
    """Pixels of the input; resizes the module's position tables where they fix the size."""
    network = cast(_Network, module)
    if input_size is None or input_size == own or not network.pretrained_cfg.get("fixed_input_size"):
        return input_size or own
    try:
        network.set_input_size(img_size=input_size)
    except (AttributeError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"timm:{model} cannot take {input_size} pixels: {reason}", f"leave input_size out to use its own {own}"
        ) from error
    return input_size
