"""OpenCLIP's towers: `open_clip:MODEL/PRETRAINED`, the image tower for images and the text tower for texts.

PRETRAINED is one of OpenCLIP's tags (`laion2b_s34b_b79k`), the absolute path of a checkpoint, or `random`. For texts
input_size is the context length. Features are those of encode_image and encode_text, not normalised. For a checkpoint
pixels are prepared as for the model's tags where these agree, else as for OpenAI's models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

from coevo_ray.core.arrays import Int32Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors import hub
from coevo_ray.priors.base import (
    Crop,
    LoadedPrior,
    channels,
    feature_dim,
    known,
    library,
    make_prior,
    make_text_prior,
    require_modality,
)
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.weights import (
    FILE_LICENCE,
    RANDOM,
    RANDOM_LICENCE,
    RANDOM_SEED,
    READ_ERRORS,
    check_download,
    local_file,
    not_fetched,
    unreadable,
)

# File names of OpenCLIP weights in a Hugging Face repository when the tag names none.
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_MODEL_FILES = ("config.json",)
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.txt")
# Tokens of a text where a model's configuration states none.
_CONTEXT = 77


class _Visual(Protocol):
    """OpenCLIP's image tower."""

    image_size: int | tuple[int, ...]


class _Network(Protocol):
    """The parts of OpenCLIP's models that are used."""

    visual: _Visual

    def encode_text(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor: ...


class _Texts(Protocol):
    """OpenCLIP's tokenizers."""

    def __call__(self, texts: list[str]) -> torch.Tensor: ...


class _ImageTower(nn.Module):
    """The image tower; some return their tokens beside the pooled features."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.visual(images)
        pooled: torch.Tensor = features[0] if isinstance(features, tuple) else features
        return pooled


class _TextTower(nn.Module):
    """The text tower: the model without its other parts."""

    network: _Network

    def __init__(self, network: _Network) -> None:
        super().__init__()
        for other in ("visual", "text_decoder", "logit_scale", "logit_bias"):
            if hasattr(network, other):
                delattr(network, other)
        self.network = network

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.network.encode_text(tokens, normalize=False)


@dataclass(frozen=True)
class _Tokenize:
    """A model's tokenizer; it pickles as the model's name and reads its vocabulary on first use."""

    model: str
    context: int

    def __call__(self, texts: list[str]) -> Int32Array:
        """Tokens int32[b, context]."""
        tokens: Int32Array = _tokenizer(self.model, self.context)(texts).numpy().astype(np.int32)
        return tokens


@cache
def _tokenizer(model: str, context: int) -> _Texts:
    try:
        return cast(_Texts, _open_clip(model).get_tokenizer(model, context_length=context))
    except READ_ERRORS as error:
        raise not_fetched(f"the tokenizer of open_clip:{model}", str(error), _remedy(model)) from error


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    name, pretrained = _split(model)
    if samples.modality != "text":
        require_modality(f"open_clip:{model}", "image", samples)
    _check_text_files(model, _text_config(model, name), samples)
    if pretrained == RANDOM or local_file(pretrained) is not None:
        return
    tag = _tag(name, pretrained)
    repository, files = _hub(tag)
    if repository:
        hub.check_file(repository, files, f"open_clip:{model}", _remedy(model))
    elif _cached(tag) is None:
        check_download(tag["url"], f"open_clip:{model}", _remedy(model))


def _check_text_files(model: str, text: JsonObject, samples: Samples) -> None:
    """Checks for files of a Hugging Face text tower, which is built for images too, and of its tokenizer, for texts."""
    tokenizer = text.get("hf_tokenizer_name") if samples.modality == "text" else None
    needed = {"text tower": (text.get("hf_model_name"), _MODEL_FILES), "tokenizer": (tokenizer, _TOKENIZER_FILES)}
    for what, (repository, files) in needed.items():
        if not repository:
            continue
        library("transformers", f"open_clip:{model}", "pip install transformers")
        remedy = f"set HF_HOME to a cache that holds {repository} on every node, or choose a model of OpenCLIP's own"
        if not Path(repository).exists():
            hub.check_file(repository, files, f"open_clip:{model} (its {what} {repository})", remedy)


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    check(model, input_size, samples)  # fails early: the Hub's own client retries for long
    name, pretrained = _split(model)
    tag, path, licence = {}, None, RANDOM_LICENCE
    if pretrained != RANDOM:
        path, licence = local_file(pretrained), FILE_LICENCE
        if path is None:
            tag = _tag(name, pretrained)
            path, licence = _cached(tag) or _download(model, tag), f"code MIT; weights as stated at {_origin(tag)}"
    is_text = samples.modality == "text"
    size_option = "force_context_length" if is_text else "force_image_size"
    options: dict[str, object] = {size_option: input_size, "force_quick_gelu": bool(tag.get("quick_gelu"))}
    network = _create(model, name, path, options)
    if is_text:
        context = input_size or int(_text_config(model, name).get("context_length", _CONTEXT))
        return _text_prior(model, network, context, licence)
    module, own = _ImageTower(cast(nn.Module, network.visual)), network.visual.image_size
    size = input_size or int(own[0] if isinstance(own, tuple | list) else own)
    preset = {**_open_clip(model).get_model_preprocess_cfg(network), **(tag or _common_preset(name))}
    dim = feature_dim(f"open_clip:{model}", module, size)
    mean, std = channels(preset["mean"]), channels(preset["std"])
    crop: Crop = "squash" if preset.get("resize_mode") == "squash" else "center"
    return make_prior(f"open_clip:{model}", module, size, dim, mean, std, licence, crop)


def _text_prior(model: str, network: _Network, context: int, licence: str) -> LoadedPrior:
    spec, module = f"open_clip:{model}", _TextTower(network)
    dim = feature_dim(spec, module, context, "text")
    return make_text_prior(spec, module, context, dim, _Tokenize(model.partition("/")[0], context), licence)


def _open_clip(model: str) -> ModuleType:
    return library("open_clip", f"open_clip:{model}", "pip install -U open_clip_torch")


def _text_config(model: str, name: str) -> JsonObject:
    config: JsonObject = _open_clip(model).get_model_config(name).get("text_cfg", {})
    return config


def _split(model: str) -> tuple[str, str]:
    name, _, pretrained = model.partition("/")
    known("open_clip model", name, _open_clip(model).list_models(), "open_clip:MODEL/PRETRAINED")
    if not pretrained:
        raise UsageError(
            f"open_clip:{model} names no weights",
            f"write open_clip:{name}/TAG, or open_clip:{name}/{RANDOM} for random initialisation",
        )
    return name, pretrained


def _tag(name: str, pretrained: str) -> JsonObject:
    """OpenCLIP's entry of a tag: address of its weights and scaling of pixels."""
    package = _open_clip(name)
    tags = [*package.list_pretrained_tags_by_model(name), RANDOM]
    known(f"weights of open_clip:{name}", pretrained, tags, f"open_clip:{name}/TAG or an absolute path")
    tag: JsonObject = package.get_pretrained_cfg(name, pretrained)
    return tag


def _common_preset(name: str) -> JsonObject:
    """The scaling of pixels that all tags of a model share; empty where they differ."""
    package = _open_clip(name)
    tags = [package.get_pretrained_cfg(name, tag) for tag in package.list_pretrained_tags_by_model(name)]
    presets = [{key: tag[key] for key in ("mean", "std", "resize_mode") if key in tag} for tag in tags]
    return presets[0] if presets and all(preset == presets[0] for preset in presets) else {}


def _hub(tag: JsonObject) -> tuple[str, tuple[str, ...]]:
    """Repository on the Hugging Face Hub ("" for other hosts) and files that may hold the weights, best first."""
    repository, _, file = str(tag.get("hf_hub", "")).rpartition("/")
    if not file:
        return repository, _HUB_FILES
    if file.endswith((".bin", ".pth")):
        return repository, (f"{file[:-4]}.safetensors", file)
    return repository, (file,)


def _cached(tag: JsonObject) -> Path | None:
    repository, files = _hub(tag)
    if not repository:
        path = Path("~/.cache/clip").expanduser() / Path(tag["url"]).name
        return path if path.is_file() else None
    return hub.cached_file(repository, files)


def _origin(tag: JsonObject) -> str:
    repository, _ = _hub(tag)
    return f"huggingface.co/{repository}" if repository else str(tag["url"])


def _download(model: str, tag: JsonObject) -> Path:
    try:
        return Path(_open_clip(model).download_pretrained(tag))
    except READ_ERRORS as error:
        raise not_fetched(f"open_clip:{model}", str(error), _remedy(model)) from error


def _remedy(model: str) -> str:
    return (
        "set HF_HOME to a cache that holds them on every node, or download the file elsewhere and name it: "
        f"open_clip:{model.partition('/')[0]}/ABSOLUTE_PATH"
    )


def _create(model: str, name: str, path: Path | None, options: dict[str, object]) -> _Network:
    """Builds the whole model, of which one tower is kept; without a file its weights are random but seeded."""
    pretrained = None if path is None else str(path)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            # pretrained_text would also download the text tower's own weights.
            made = _open_clip(model).create_model(
                name, pretrained=pretrained, pretrained_text=False, weights_only=True, **options
            )
            return cast(_Network, made)
    except READ_ERRORS as error:
        if path is not None:
            raise unreadable(path, error) from error
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"cannot build open_clip:{model}: {reason}", "choose another model") from error
