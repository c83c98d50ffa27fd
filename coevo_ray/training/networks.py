"""Trained networks for other programs: a plain torch module, its preprocessing and its card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.pool.images import resized, upright_rgb
from coevo_ray.store.artifact import FileEntry, load_manifest, write_blob
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.training.feed.images import decode_square
from coevo_ray.training.loop.weights import AVERAGED, CARD, WEIGHTS, packed
from coevo_ray.training.models import make_backbone, make_model
from coevo_ray.training.network_card import FORMAT, make_card

NETWORK, NETWORK_AVERAGED, NETWORK_CARD = "network.safetensors", "network_ema.safetensors", "network.json"
_BACKBONE = "backbone."  # of the weights of a network that was trained on targets


@dataclass(frozen=True)
class Preprocess:
    """Makes a network's input of an image, as in the network's training; pickles, for DataLoader's workers.

    Attributes:
        size: pixels of the square input.
        mean, std: of each channel's pixels, in 0..255.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image | bytes) -> torch.Tensor:
        """Scales an image's shorter side to the size, crops its centre and normalises its pixels.

        Args:
            image: of Pillow, in any mode, or encoded bytes (JPEG, PNG, ...).

        Returns:
            float32[3, size, size].

        Raises:
            InputError: the image cannot be decoded.
        """
        if isinstance(image, bytes):
            pixels = decode_square(image, self.size)
        else:
            pixels = resized(upright_rgb(image), self.size).transpose(2, 0, 1)
        mean, std = (np.array(each, np.float32)[:, None, None] for each in (self.mean, self.std))
        return torch.from_numpy(np.ascontiguousarray((pixels - mean) / std, np.float32))


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, free of this package.

    Attributes:
        module: in evaluation mode; images float32[b, 3, s, s] -> logits float32[b, classes] of a classifier, features
            float32[b, d] of a network that was trained on targets. Of torchvision or timm, if its model is.
        preprocess: image of Pillow, or encoded bytes -> float32[3, s, s].
        card: content of `network.json`: `model`, `image_size`, `outputs`, `dim`, `classes`, ...
    """

    module: nn.Module
    preprocess: Preprocess
    card: JsonObject


def load_network(network: ArtifactLike, *, average: bool = False) -> Network:
    """Loads a trained network.

    Args:
        network: what `train_targets`, `train_supervised` or `train_semi_supervised` returned, or its folder; or a
            folder with its `network.json` and the weights that this names, and nothing else.
        average: take the averaged weights (`ema`).

    Raises:
        InputError: there is no trained network here, its files are damaged, or it has no averaged weights.
        UsageError: its model is not known on this machine.
    """
    folder = Location.parse(network)
    card = read_card(folder)
    name, size = card["model"], card["image_size"]
    if card["outputs"] == "features":
        module, _ = make_backbone(name, size, card["stem"])
    else:
        module = make_model(name, card["classes"], stem=card["stem"], image_size=size)
    put_weights(module, read_network_weights(folder, card, average=average), folder)
    return Network(module.eval(), Preprocess(size, tuple(card["mean"]), tuple(card["std"])), card)


def write_network_files(folder: Location, state: dict[str, Any], settings: JsonObject) -> list[FileEntry]:
    """Writes `network.json`, and for a network that was trained on targets its backbone's weights.

    A classifier's weights are plain already: the card names their file.

    Args:
        folder: the training's output, with its weights.
        state: the checkpoint's state, with `model` and maybe `average`.
        settings: as in `make_card`.

    Raises:
        StoppedError: the store refused.
    """
    averaged = "average" in state
    files, names = [], (WEIGHTS, AVERAGED if averaged else None)
    if "classes" not in settings:
        names = (NETWORK, NETWORK_AVERAGED if averaged else None)
        files.append(write_blob(folder, NETWORK, packed(_backbone_of(state["model"]))))
        if averaged:
            average = _backbone_of(state["average"], f"module.{_BACKBONE}")
            files.append(write_blob(folder, NETWORK_AVERAGED, packed(average)))
    card = json.dumps(make_card(settings, *names), indent=2)
    return [*files, write_blob(folder, NETWORK_CARD, card.encode())]


def read_card(folder: Location) -> JsonObject:
    """The card of a trained network; for one that was trained before there were cards, what it would say.

    Raises:
        InputError: there is no trained network here, or its card is of a newer format.
    """
    file = folder.child(NETWORK_CARD)
    card: JsonObject
    if not file.is_file():
        load_manifest(folder, "model")
        averaged = AVERAGED if folder.child(AVERAGED).is_file() else None
        card = make_card(folder.child(CARD).read_json(), WEIGHTS, averaged)
        return {name: value for name, value in card.items() if name != "load"}
    card = file.read_json()
    if card.get("format", 0) > FORMAT:
        raise InputError(f"{file} has format {card['format']}, this package reads up to {FORMAT}", "upgrade coevo-ray")
    return card


def read_network_weights(folder: Location, card: JsonObject, *, average: bool = False) -> dict[str, torch.Tensor]:
    """State dict of a trained network, by its card.

    Raises:
        InputError: it is not there, or damaged.
    """
    name = card.get("averaged_weights" if average else "weights")
    if name is None:
        raise InputError(f"the network at {folder} has no averaged weights", "train with ema set, or take the others")
    file = folder.child(name)
    try:
        weights = load_safetensors(file.read_bytes())
    except SafetensorError as error:
        raise InputError(f"cannot read {file}: {error}", "copy it again, or train again into another folder") from error
    # Cards made for older folders name the weights of backbone and head together.
    return _backbone_of(weights) if card["outputs"] == "features" and name in (WEIGHTS, AVERAGED) else weights


def put_weights(module: nn.Module, weights: dict[str, torch.Tensor], origin: Location, without: str = "") -> None:
    """Loads weights into a network, all of it but maybe one part.

    Args:
        module: takes them.
        weights: state dict; may hold more.
        origin: of the weights, for errors.
        without: path of a part that stays as it is.

    Raises:
        InputError: a weight is missing, or of another shape.
    """
    own = {k: v for k, v in module.state_dict().items() if not (without and k.startswith(f"{without}."))}
    for name, tensor in own.items():
        have = tuple(weights[name].shape) if name in weights else None
        if have != tuple(tensor.shape):
            raise InputError(
                f"the network at {origin} has {name} {list(have) if have is not None else 'not'}, need "
                f"{list(tensor.shape)}",
                "give a network of the same model, stem and image_size, made by the same version of its library",
            )
    module.load_state_dict({name: weights[name] for name in own}, strict=False)


def _backbone_of(weights: dict[str, torch.Tensor], prefix: str = _BACKBONE) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
