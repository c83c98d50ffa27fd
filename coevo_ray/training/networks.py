"""Trained networks for other programs: a plain torch module, its preprocessing and its card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.pool.images import resized, upright_rgb
from coevo_ray.store.checked import read_checked
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.inside import inside
from coevo_ray.store.json_text import object_of
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import MANIFEST, FileEntry, load_manifest
from coevo_ray.training.feed.images import decode_square
from coevo_ray.training.inputs.base import backbone_for
from coevo_ray.training.inputs.shapes import check_size, shape_of
from coevo_ray.training.inputs.texts import TextShape, TokensOf
from coevo_ray.training.loop.weights import AVERAGED, CARD, WEIGHTS, packed
from coevo_ray.training.model_files import check_made, check_outputs, input_sizes, read_made
from coevo_ray.training.network_card import FORMAT, make_card

NETWORK, NETWORK_AVERAGED, NETWORK_CARD = "network.safetensors", "network_ema.safetensors", "network.json"
_TRAIN_AGAIN = "copy it again, or train again into another folder"
_CARD = {"format": int, "model": str, "outputs": str, "weights": str}
_IMAGE_CARD = {"image_size": int, "stem": str, "mean": list, "std": list}
_BACKBONE = "backbone."  # of the weights of a network that was trained on targets


@dataclass(frozen=True)
class Preprocess:
    """Makes a network's input from an image, as in its training; pickles, for DataLoader's workers.

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


@dataclass(frozen=True)
class VectorPreprocess:
    """Makes a network's input from a vector; pickles. Networks centre and scale vectors themselves.

    Attributes:
        dim: numbers of a vector.
    """

    dim: int

    def __call__(self, vector: ArrayLike) -> torch.Tensor:
        """The vector as float32[dim].

        Raises:
            InputError: it has another number of dimensions or numbers, or is not finite.
        """
        made = torch.from_numpy(np.array(vector, np.float32))
        if made.shape != (self.dim,):
            raise InputError(f"a vector has shape {list(made.shape)}, need [{self.dim}]", "give one vector at a time")
        if not made.isfinite().all():
            raise InputError("a vector is not finite", "leave such rows out")
        return made


@dataclass(frozen=True)
class TextPreprocess:
    """Makes a network's input from texts; pickles.

    Attributes:
        tokenize: texts -> tokens.
    """

    tokenize: TokensOf

    def __call__(self, texts: str | list[str]) -> torch.Tensor:
        """Tokens int32[l] of a text, or int32[b, l] of several, -1 behind shorter ones."""
        made = torch.from_numpy(self.tokenize([texts] if isinstance(texts, str) else texts))
        return made[0] if isinstance(texts, str) else made


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network; one for images does not depend on this package.

    Attributes:
        module: in evaluation mode; images float32[b, 3, s, s], vectors float32[b, d] or tokens int32[b, l] -> logits
            float32[b, classes] of a classifier, features float32[b, d] of a network that was trained on targets. Of
            torchvision or timm, if its model is.
        preprocess: image of Pillow, or encoded bytes -> float32[3, s, s]; or vector -> float32[d]; or text -> int32[l].
        card: content of `network.json`: `model`, `image_size` or `input`, `outputs`, `dim`, `classes`, ...
    """

    module: nn.Module
    preprocess: Preprocess | VectorPreprocess | TextPreprocess
    card: JsonObject


def load_network(network: ArtifactLike, *, average: bool = False, trust: Sequence[str] = ()) -> Network:
    """Loads a trained network.

    Args:
        network: the result of `train_targets`, `train_supervised` or `train_semi_supervised`, or its folder; or a
            folder with only its `network.json` and the weights named there.
        average: take the averaged weights (`ema`).
        trust: `package.module:function` of your modules whose networks may be made: a folder alone never makes this
            package import a module.

    Raises:
        InputError: there is no trained network here, its files are damaged, or it has no averaged weights.
        UsageError: its model is not known on this machine, or of a module that `trust` does not name.
    """
    folder = Location.parse(network)
    card = read_card(folder, trust)
    weights = read_network_weights(folder, card, average=average)
    shape = shape_of(card, folder)
    if card["outputs"] == "features":
        module, _ = backbone_for(shape, card["model"])
    else:
        module = shape.network(card["model"], card["classes"])
    put_weights(module, weights, folder)
    if isinstance(shape, TextShape):
        return Network(module.eval(), TextPreprocess(shape.tokenize), card)
    if shape.kind == "vector":
        return Network(module.eval(), VectorPreprocess(card["input"]["dim"]), card)
    return Network(module.eval(), Preprocess(card["image_size"], tuple(card["mean"]), tuple(card["std"])), card)


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
    card = json.dumps(make_card(settings, folder, *names), indent=2)
    return [*files, write_blob(folder, NETWORK_CARD, card.encode())]


def read_card(folder: Location, trust: Sequence[str] = ()) -> JsonObject:
    """The card of a trained network; for one that was trained before there were cards, what it would say.

    Args:
        folder: as in `load_network`.
        trust: as in `load_network`.

    Raises:
        InputError: there is no trained network here, or its card is damaged or of a newer format.
        UsageError: it names a network of a module that `trust` does not name.
    """
    said, weights = read_settings(folder), folder.child(WEIGHTS)
    is_card = "format" in said
    origin = folder.child(NETWORK_CARD if is_card else CARD)
    check_made(said, origin, trust)
    if is_card:
        weights = folder.child(said["weights"])
    check_size(said, weights.size(), origin)
    for size in (said.get("classes") or 1, *input_sizes(said.get("input", {}), origin).values()):
        check_outputs(size, weights.size(), origin)
    if is_card:
        return said
    averaged = AVERAGED if folder.child(AVERAGED).is_file() else None
    return {name: value for name, value in make_card(said, folder, WEIGHTS, averaged).items() if name != "load"}


def read_settings(folder: Location) -> JsonObject:
    """The settings of a trained network, without making it: its card, or `model.json` where there is none.

    Raises:
        InputError: there is no trained network here, or its card is damaged or of a newer format.
    """
    file = folder.child(NETWORK_CARD)
    if not file.is_file():
        return read_made(folder, load_manifest(folder, "model"))
    card = object_of(file.read_json(), file, _CARD)
    if card["format"] > FORMAT:
        raise InputError(f"{file} has format {card['format']}, this package reads up to {FORMAT}", "upgrade coevo-ray")
    _check_card(card, file)
    return card


def _check_card(card: JsonObject, file: Location) -> None:
    """Checks what the card says besides the network itself: names of files, and numbers of the preprocessing."""
    for name in ("weights", "averaged_weights"):
        if card.get(name) is not None:
            inside(card[name], file)
    if "input" not in card:
        object_of(card, file, _IMAGE_CARD)
    for name in ("mean", "std") if "input" not in card else ():
        if len(card[name]) != 3 or not all(isinstance(v, int | float) and math.isfinite(v) for v in card[name]):
            raise InputError(f"{file} has {name} {ascii(card[name])[:80]}, need three numbers", _TRAIN_AGAIN)
    if card["outputs"] not in ("features", "logits") or (card["outputs"] == "logits" and "classes" not in card):
        raise InputError(f"{file} says neither features nor logits with their classes", _TRAIN_AGAIN)


def read_network_weights(folder: Location, card: JsonObject, *, average: bool = False) -> dict[str, torch.Tensor]:
    """State dict of a trained network, by its card.

    Raises:
        InputError: it is not there, or damaged.
    """
    name = card.get("averaged_weights" if average else "weights")
    if name is None:
        raise InputError(f"the network at {folder} has no averaged weights", "train with ema set, or take the others")
    file = folder.child(inside(name, folder.child(NETWORK_CARD)))
    # Whoever is handed a network may have no more than card and weights.
    alone = not folder.child(MANIFEST).is_file()
    data = file.read_bytes() if alone else read_checked(folder, load_manifest(folder, "model"), name)
    try:
        weights = load_safetensors(data)
    except SafetensorError as error:
        raise InputError(f"cannot read {file}: {error}", _TRAIN_AGAIN) from error
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
                "give a network of the same model for the same samples, made by the same version of its library",
            )
    module.load_state_dict({name: weights[name] for name in own}, strict=False)


def _backbone_of(weights: dict[str, torch.Tensor], prefix: str = _BACKBONE) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
