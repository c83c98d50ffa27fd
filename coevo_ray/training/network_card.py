"""A trained network's card: what it is, what goes into it, and the lines that load it without this package."""

from __future__ import annotations

from typing import Any

from torch import nn

from coevo_ray.config.pool import IMAGE
from coevo_ray.core.json import JsonObject
from coevo_ray.store.location import Location
from coevo_ray.training.feed.images import MEAN, STD
from coevo_ray.training.inputs.shapes import shape_of
from coevo_ray.training.inputs.texts import TOKENIZER, TextNetwork
from coevo_ray.training.inputs.vectors import VectorNetwork
from coevo_ray.training.models import classifier_of, stem_of, timm_options, torchvision_options

FORMAT = 2  # cards of networks for images still say 1, which earlier versions read
_CLASSES = 10  # outputs of a network whose classifier is taken off anyway
_SMALL_CNN = (
    "from collections import OrderedDict",
    "from torch import nn",
    "block = lambda i, o: (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())",
    "layers = (*block(3, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 128), nn.MaxPool2d(2), *block(128, 128))",
    "features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())",
)


_PREPROCESS: dict[str, JsonObject] = {
    "image": {
        "mean": list(MEAN),
        "std": list(STD),
        "preprocess": "8-bit RGB; the shorter side scaled to image_size (bicubic, antialiased), the centre cropped; "
        "(pixels - mean) / std, as float32[3, image_size, image_size]",
    },
    "vector": {"preprocess": "float32 vectors as they are: the network centres and scales them"},
    "text": {"preprocess": f"tokens by {TOKENIZER}, cut to input.context; ids, and a mask of 1 where there is a token"},
}
_POOLED = {
    "mean": "(hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)",
    "cls": "hidden[:, 0]",
    "last": "hidden[torch.arange(len(hidden)), mask.sum(1) - 1]",
    "max": "hidden.masked_fill(mask[:, :, None] == 0, -3e38).amax(1)",
}


def make_card(settings: JsonObject, folder: Location, weights: str, averaged: str | None = None) -> JsonObject:
    """Describes a trained network.

    Args:
        settings: `model`, and `stem` and `image_size` or `input`; of a classifier `classes` and maybe `class_names`.
            Without classes it is a backbone, which gives features.
        folder: with the files of `Shape.files`.
        weights: file of the network's state dict.
        averaged: that of its averaged weights, or None.

    Returns:
        JSON-able: these, `outputs` (`logits` or `features`) and their dimension `dim`, of networks for images `mean`
        and `std` of the pixels in 0..255, and as `load` the lines that make the network and load its weights.

    Raises:
        UsageError: the network cannot be made here.
    """
    name, shape = settings["model"], shape_of(settings, folder)
    classes: int | None = settings.get("classes")
    network = shape.network(name, classes or _CLASSES)
    path, dim = None, classes
    if classes is None:
        path, classifier = classifier_of(name, network, _CLASSES)
        dim = classifier.in_features
    named = ("model", "stem", "image_size", "input", "features", "classes", "class_names")
    return {
        "format": 1 if shape.kind == IMAGE else FORMAT,
        **{key: settings[key] for key in named if settings.get(key)},
        "outputs": "features" if classes is None else "logits",
        "dim": dim,
        "weights": weights,
        **({} if averaged is None else {"averaged_weights": averaged}),
        **_PREPROCESS[shape.kind],
        "load": [*_made(settings, classes, network), *_changed(settings, network, path), *_loaded(weights)],
    }


def _made(settings: JsonObject, classes: int | None, network: nn.Module) -> list[str]:
    """Lines that make the network, as the package does."""
    name: str = settings["model"]
    scheme, _, rest = name.partition(":")
    image_size = settings.get("image_size")
    if isinstance(network, VectorNetwork):
        return _made_of_vectors(network, classes)
    if isinstance(network, TextNetwork):
        return _made_of_texts(settings["input"], network, classes)
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


def _made_of_vectors(network: VectorNetwork, classes: int | None) -> list[str]:
    """Lines that make a head on vectors."""
    dim, hidden, head = len(network.mean), "nn.Identity()", "nn.Identity()"
    width = network.head.in_features
    if isinstance(network.hidden, nn.Sequential):
        hidden = f"nn.Sequential(nn.Linear({dim}, {width}), nn.ReLU())"
    if classes is not None:
        head = f"nn.Linear({width}, {classes})"
    return [
        "from torch import nn, ones, zeros",
        "class Network(nn.Module):",
        "    def forward(self, vectors): return self.head(self.hidden((vectors - self.mean) / self.scale))",
        "network = Network()",
        f"network.hidden, network.head = {hidden}, {head}",
        f'network.register_buffer("mean", zeros({dim})); network.register_buffer("scale", ones(()))',
    ]


def _made_of_texts(said: JsonObject, network: TextNetwork, classes: int | None) -> list[str]:
    """Lines that make an encoder of the transformers library with a linear layer."""
    head = "nn.Identity()" if classes is None else f"nn.Linear({network.head.in_features}, {classes})"
    part = ".get_encoder()" if said["encoder"].get("is_encoder_decoder") else ""
    return [
        "import json, torch",
        "from torch import nn",
        "from transformers import AutoConfig, AutoModel",
        "class Network(nn.Module):",
        "    def forward(self, ids, mask):",
        "        hidden = self.encoder.network(input_ids=ids, attention_mask=mask).last_hidden_state",
        f"        return self.head({_POOLED[said['pooling']]})",
        "network, network_of = Network(), AutoConfig.for_model(**json.load(open('network.json'))['input']['encoder'])",
        f"network.encoder, network.head = nn.Module(), {head}",
        f"network.encoder.network = AutoModel.from_config(network_of){part}",
    ]


def _changed(settings: JsonObject, network: nn.Module, classifier: str | None) -> list[str]:
    """Lines that make its stem small and take its classifier off."""
    lines, name = [], settings["model"]
    found = stem_of(network, nn.Identity) if settings.get("stem") == "small" else None
    if found is not None:
        first, pool, layer = found
        channels = f"{layer.in_channels}, {layer.out_channels}, 3, padding=1, bias={layer.bias is not None}"
        lines += [f"{_of(first)} = torch.nn.Conv2d({channels})", f"{_of(pool)} = torch.nn.Identity()"]
    if classifier is not None and name != "small_cnn" and not isinstance(network, VectorNetwork | TextNetwork):
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
