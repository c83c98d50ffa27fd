"""OpenCLIP image towers: `open_clip:MODEL/PRETRAINED`, or `/random` when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from coevo_ray.errors import InputError, UsageError
from coevo_ray.priors.base import Prior, PriorInfo, feature_dim, rgb, weights_hash
from coevo_ray.priors.registry import known

_RANDOM = "random"


class _ImageTower(nn.Module):
    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.visual(images)
        return features[0] if isinstance(features, tuple) else features


def check(model: str, input_size: int | None) -> None:
    """See `registry.check_prior`."""
    name, pretrained = _split(model)
    if pretrained == _RANDOM or Path(pretrained).is_file():
        return
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    known(f"weights of open_clip:{name}", pretrained, tags, "or random, or a file")
    if input_size is not None:
        own = int(open_clip.get_model_config(name)["vision_cfg"].get("image_size", 224))
        if input_size != own:
            raise UsageError(f"open_clip:{name} at {input_size} pixels", f"its towers take {own}: leave input_size out")
    try:  # into the cache, so that a missing network is found before any work
        open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, pretrained))
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_weights(model, error) from error


def load(model: str, input_size: int | None) -> Prior:
    """See `registry.load_prior`."""
    import open_clip

    name, pretrained = _split(model)
    options: dict[str, Any] = {} if input_size is None else {"force_image_size": input_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            network = open_clip.create_model(name, pretrained=None if pretrained == _RANDOM else pretrained, **options)
        except (OSError, RuntimeError) as error:
            raise _no_weights(model, error) from error
    module = _ImageTower(network.visual)
    size = network.visual.image_size
    size = int(size[0] if isinstance(size, tuple | list) else size)
    info = PriorInfo(
        name=f"open_clip:{model}",
        input_size=size,
        dim=feature_dim(module, size),
        preprocessing="RGB, shorter side to the input size, centre crop, CLIP mean and standard deviation",
        weights=weights_hash(module),
        licence="none: random weights" if pretrained == _RANDOM else "see the weights' model card",
    )
    mean = getattr(network.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(network.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    return Prior(info, module, rgb(mean), rgb(std))


def _no_weights(model: str, error: Exception) -> InputError:
    return InputError(
        f"cannot load the weights of open_clip:{model}: {' '.join(str(error).split())[:300]}",
        "set HF_HOME to a cache that holds them on every node, or give a local file: open_clip:MODEL/PATH",
    )


def _split(model: str) -> tuple[str, str]:
    try:
        import open_clip
    except ImportError as error:
        raise UsageError(f"open_clip:{model} needs open_clip_torch: {error}", "pip install open_clip_torch") from error

    name, slash, pretrained = model.partition("/")
    known("open_clip model", name, open_clip.list_models(), "open_clip.list_models()")
    if not slash or not pretrained:
        raise UsageError(f"open_clip:{model} names no weights", f"write open_clip:{name}/TAG, or /random")
    return name, pretrained
