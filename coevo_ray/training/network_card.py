"""A trained network's card: what it is, what goes into it, and the lines that load it without this package."""

from __future__ import annotations

from typing import Any

from torch import nn

from coevo_ray.core.json import JsonObject
from coevo_ray.training.feed.images import MEAN, STD
from coevo_ray.training.models import classifier_of, make_model, stem_of, timm_options, torchvision_options

FORMAT = 1
_CLASSES = 10  # outputs of a network whose classifier is taken off anyway
_SMALL_CNN = (
    "from collections import OrderedDict",
    "from torch import nn",
    "block = lambda i, o: (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())",
    "layers = (*block(3, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 128), nn.MaxPool2d(2), *block(128, 128))",
    "features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())",
)


def make_card(settings: JsonObject, weights: str, averaged: str | None = None) -> JsonObject:
    """Describes a trained network.

    Args:
        settings: `model`, `stem` and `image_size`; of a classifier `classes` and maybe `class_names`. Without classes
            it is a backbone, which gives features.
        weights: file of the network's state dict.
        averaged: that of its averaged weights, or None.

    Returns:
        JSON-able: these, `outputs` (`logits` or `features`) and their dimension `dim`, `mean` and `std` of the pixels
        in 0..255, and as `load` the lines that make the network and load its weights.

    Raises:
        UsageError: the network cannot be made here.
    """
    name, stem, size = settings["model"], settings["stem"], settings["image_size"]
    classes: int | None = settings.get("classes")
    network = make_model(name, classes or _CLASSES, stem=stem, image_size=size)
    path, dim = None, classes
    if classes is None:
        path, classifier = classifier_of(name, network, _CLASSES)
        dim = classifier.in_features
    named = ("classes", "class_names")
    return {
        "format": FORMAT,
        **{key: settings[key] for key in ("model", "stem", "image_size")},
        "outputs": "features" if classes is None else "logits",
        "dim": dim,
        **{key: settings[key] for key in named if settings.get(key)},
        "weights": weights,
        **({} if averaged is None else {"averaged_weights": averaged}),
        "mean": list(MEAN),
        "std": list(STD),
        "preprocess": "8-bit RGB; the shorter side scaled to image_size (bicubic, antialiased), the centre cropped; "
        "(pixels - mean) / std, as float32[3, image_size, image_size]",
        "load": [*_made(name, classes, size), *_changed(name, network, stem, path), *_loaded(weights)],
    }


def _made(name: str, classes: int | None, image_size: int) -> list[str]:
    """Lines that make the network, as the package does."""
    scheme, _, rest = name.partition(":")
    if name == "small_cnn":
        head = "nn.Identity()" if classes is None else f"nn.Linear(128, {classes})"
        return [*_SMALL_CNN, f"network = nn.Sequential(OrderedDict(features=features, head={head}))"]
    if scheme == "torchvision":
        options = torchvision_options(rest, classes or _CLASSES, image_size)
        return ["import torchvision", f'network = torchvision.models.get_model("{rest}", {_spelled(options)})']
    if scheme == "timm":
        options = timm_options(rest, classes or _CLASSES, image_size)
        return ["import timm", f'network = timm.create_model("{rest}", {_spelled(options)})']
    return [f"from {scheme} import {rest}", f"network = {rest}(num_classes={classes or _CLASSES})"]


def _changed(name: str, network: nn.Module, stem: str, classifier: str | None) -> list[str]:
    """Lines that make its stem small and take its classifier off."""
    lines = []
    found = stem_of(network, nn.Identity) if stem == "small" else None
    if found is not None:
        first, pool, layer = found
        channels = f"{layer.in_channels}, {layer.out_channels}, 3, padding=1, bias={layer.bias is not None}"
        lines += [f"{_of(first)} = torch.nn.Conv2d({channels})", f"{_of(pool)} = torch.nn.Identity()"]
    if classifier is not None and name != "small_cnn":
        lines.append(f"{_of(classifier)} = torch.nn.Identity()")
    return ["import torch", *lines] if lines else []


def _loaded(weights: str) -> list[str]:
    load = f'network.load_state_dict(load_file("{weights}"))'
    return ["from safetensors.torch import load_file", load, "network.eval()"]


def _spelled(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _of(path: str) -> str:
    """A module of the network as Python writes it: `classifier.1` is `network.classifier[1]`."""
    return "network" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split("."))
