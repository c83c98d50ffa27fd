"""Shapes of samples from the settings of a trained network."""

from __future__ import annotations

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.priors.hf import parameters_of
from coevo_ray.store.json_text import object_of
from coevo_ray.store.location import Location
from coevo_ray.training.inputs.base import Shape
from coevo_ray.training.inputs.images import ImageShape
from coevo_ray.training.inputs.texts import TextShape
from coevo_ray.training.inputs.vectors import VectorShape


def check_size(made: JsonObject, size: int, origin: object) -> None:
    """Checks an encoder that a file describes against the bytes of its weights, before memory is taken for it.

    Args:
        made: settings of a network, as `model.json` or `network.json` has them.
        size: bytes of the weights' file.
        origin: the file, for errors.

    Raises:
        InputError: the weights cannot be those of the encoder, or it is unknown.
    """
    said = made.get("input", {})
    if said.get("kind") != "text":
        return
    object_of(said, origin, {"encoder": dict})
    found = numbers_of(said["encoder"])
    # Numbers first: a model of a billion layers would take hours to be counted.
    counted = max(found, default=0) if max(found, default=0) > size else parameters_of(said["encoder"], origin)
    if counted > size:
        raise InputError(
            f"{origin} describes an encoder with {counted} weights or more, its weights are {size} bytes",
            "the files are not of one network",
        )


def numbers_of(value: object) -> list[int]:
    """The whole numbers in settings, at any depth."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [number for part in parts for number in numbers_of(part)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


def shape_of(made: JsonObject, folder: Location) -> Shape:
    """The shape that `Shape.settings` describes.

    Args:
        made: settings of a network, as `model.json` or `network.json` has them.
        folder: of the training.

    Raises:
        InputError: samples of that kind are unknown to this version, or a file of theirs is missing.
    """
    said = made.get("input")
    if said is None:
        return ImageShape(made["image_size"], made["stem"])
    if said["kind"] == "vector":
        return VectorShape(said["dim"])
    if said["kind"] == "text":
        return TextShape.of_settings(said, folder)
    raise InputError(f"the network at {folder} is for {ascii(said['kind'])[:40]}", "install the version that made it")
