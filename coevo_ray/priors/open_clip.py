"""OpenCLIP image towers: `open_clip:MODEL/PRETRAINED`.

PRETRAINED is one of OpenCLIP's tags (`laion2b_s34b_b79k`), the absolute path of a checkpoint, or `random`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import LoadedPrior, channels, feature_dim, known, library, make_prior
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.weights import (
    RANDOM,
    RANDOM_LICENCE,
    RANDOM_SEED,
    READ_ERRORS,
    check_download,
    local_file,
    not_fetched,
    unreadable,
)

# What a Hugging Face repository calls OpenCLIP weights when the tag does not say.
_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class _ImageTower(nn.Module):
    """The image half; some towers return their tokens beside the pooled features."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.visual(images)
        pooled: torch.Tensor = features[0] if isinstance(features, tuple) else features
        return pooled


def check(model: str, input_size: int | None, samples: Samples) -> None:
    """See `registry.check_prior`."""
    name, pretrained = _split(model)
    text = _open_clip(model).get_model_config(name).get("text_cfg", {})
    if "hf_model_name" in text:
        library("transformers", f"open_clip:{model}", "pip install transformers")
    if pretrained == RANDOM or local_file(pretrained) is not None:
        return
    tag = _tag(name, pretrained)
    if _cached(tag) is None:
        _check_tag(model, tag)


def load(model: str, input_size: int | None, samples: Samples) -> LoadedPrior:
    """See `registry.load_prior`."""
    name, pretrained = _split(model)
    tag, path, licence = {}, None, RANDOM_LICENCE
    if pretrained != RANDOM:
        path, licence = local_file(pretrained), "as stated by who made the weights' file"
        if path is None:
            tag = _tag(name, pretrained)
            path, licence = _cached(tag) or _download(model, tag), f"code MIT; weights as stated at {_origin(tag)}"
    network = _create(model, name, path, bool(tag.get("quick_gelu")), input_size)
    module, own = _ImageTower(network.visual), network.visual.image_size
    size = input_size or int(own[0] if isinstance(own, tuple | list) else own)
    preset = {**_open_clip(model).get_model_preprocess_cfg(network), **tag}
    dim = feature_dim(f"open_clip:{model}", module, size)
    mean, std = channels(preset["mean"]), channels(preset["std"])
    return make_prior(f"open_clip:{model}", module, size, dim, mean, std, licence)


def _open_clip(model: str) -> Any:
    return library("open_clip", f"open_clip:{model}", "pip install -U open_clip_torch")


def _split(model: str) -> tuple[str, str]:
    name, _, pretrained = model.partition("/")
    known("open_clip model", name, _open_clip(model).list_models(), "open_clip:MODEL/PRETRAINED")
    if not pretrained:
        raise UsageError(
            f"open_clip:{model} names no weights",
            f"write open_clip:{name}/TAG, or open_clip:{name}/{RANDOM} for random initialisation",
        )
    return name, pretrained


def _tag(name: str, pretrained: str) -> dict[str, Any]:
    """OpenCLIP's entry of a tag: where its weights are and how pixels were scaled."""
    package = _open_clip(name)
    tags = [*package.list_pretrained_tags_by_model(name), RANDOM]
    known(f"weights of open_clip:{name}", pretrained, tags, f"open_clip:{name}/TAG or an absolute path")
    tag: dict[str, Any] = package.get_pretrained_cfg(name, pretrained)
    return tag


def _hub(tag: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Repository on the Hugging Face Hub and the files that may hold the weights, best first; "" if elsewhere."""
    repository, _, file = str(tag.get("hf_hub", "")).rpartition("/")
    if not file:
        return repository, _HUB_FILES
    if file.endswith((".bin", ".pth")):
        return repository, (f"{file[:-4]}.safetensors", file)
    return repository, (file,)


def _cached(tag: dict[str, Any]) -> Path | None:
    repository, files = _hub(tag)
    if not repository:
        path = Path("~/.cache/clip").expanduser() / Path(tag["url"]).name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(repository, file) for file in files]
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _origin(tag: dict[str, Any]) -> str:
    repository, _ = _hub(tag)
    return f"huggingface.co/{repository}" if repository else str(tag["url"])


def _check_tag(model: str, tag: dict[str, Any]) -> None:
    repository, files = _hub(tag)
    if not repository:
        check_download(tag["url"], f"open_clip:{model}", _remedy(model))
        return
    hub = library("huggingface_hub", f"open_clip:{model}", "pip install huggingface_hub")
    if hub.constants.HF_HUB_OFFLINE:
        raise not_fetched(f"open_clip:{model}", "HF_HUB_OFFLINE is set", _remedy(model))
    url, headers = hub.hf_hub_url(repository, files[-1]), hub.utils.build_hf_headers()
    check_download(url, f"open_clip:{model}", _remedy(model), headers)


def _download(model: str, tag: dict[str, Any]) -> Path:
    try:
        return Path(_open_clip(model).download_pretrained(tag))
    except READ_ERRORS as error:
        raise not_fetched(f"open_clip:{model}", str(error), _remedy(model)) from error


def _remedy(model: str) -> str:
    return (
        "set HF_HOME to a cache that holds them on every node, or fetch the file elsewhere and name it: "
        f"open_clip:{model.partition('/')[0]}/ABSOLUTE_PATH"
    )


def _create(model: str, name: str, path: Path | None, quick_gelu: bool, input_size: int | None) -> Any:
    """Builds the whole model, of which the image tower is kept; without a file its weights are random but seeded."""
    options: dict[str, Any] = {"force_image_size": input_size, "force_quick_gelu": quick_gelu, "weights_only": True}
    pretrained = None if path is None else str(path)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            # pretrained_text would fetch the text tower's own weights, which nobody asked for.
            return _open_clip(model).create_model(name, pretrained=pretrained, pretrained_text=False, **options)
    except READ_ERRORS as error:
        if path is not None:
            raise unreadable(path, error) from error
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"cannot build open_clip:{model}: {reason}", "choose another model") from error
