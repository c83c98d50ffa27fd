"""Shapes of samples from the settings of a trained network."""

from __future__ import annotations

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location
from coevo_ray.training.inputs.base import Shape
from coevo_ray.training.inputs.images import ImageShape
from coevo_ray.training.inputs.texts import TextShape
from coevo_ray.training.inputs.vectors import VectorShape


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
