"""Settings of networks in files that anybody may have written: `model.json` and `network.json`.

A name in them is not imported: a network of a user's module is made only where the caller names it too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coevo_ray.config.pool import VECTOR
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.checked import read_checked
from coevo_ray.store.json_text import object_of, parse_json
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import Manifest
from coevo_ray.training.loop.weights import CARD
from coevo_ray.training.models import is_users

_MADE = {"model": str, "image_size": int}
_KNOWN = ("model", "input", "features", "image_size", "stem", "classes", "class_names", "head", "dim")
# The network is shown one image of this size; nothing that is trained here sees a tenth of it.
_MOST_PIXELS = 16_384


def trusted(name: str, origin: object, trust: Collection[str]) -> str:
    """Checks the name of a network that a file gives, before it is imported.

    Args:
        name: as in `make_model`.
        origin: the file, for errors.
        trust: networks of users' modules that the caller names, `package.module:function` each.

    Returns:
        The name.

    Raises:
        UsageError: it is of a user's module, and the caller does not name it.
    """
    if is_users(name) and name not in trust:
        shown = name if name.isprintable() and len(name) < 200 else ascii(name)[:200]
        raise UsageError(
            f"{origin} names the network {shown}, whose module would be imported and run",
            f"if you trust that module on this machine, say so: --trust {shown}, or in Python trust=({shown!r},)",
        )
    return name


def read_made(folder: Location, manifest: Manifest, needs: Mapping[str, type] | None = None) -> JsonObject:
    """Reads `model.json`: the settings that a network was made with; it is not made, see `check_made`.

    Args:
        folder: of a training.
        manifest: its manifest.
        needs: name -> type of the settings that there must be besides `model` and `image_size`.

    Raises:
        InputError: it is damaged.
    """
    file = folder.child(CARD)
    said = object_of(parse_json(read_checked(folder, manifest, CARD), file), file, needs or {})
    made = {name: value for name, value in said.items() if name in _KNOWN}
    object_of(made, file, made_types(made))
    return made if "input" in made else {"stem": "standard", **made}


def made_types(made: JsonObject) -> dict[str, type]:
    """Names and types of the settings that there must be: those of networks for images name no input."""
    return {"model": str, "input": dict} if "input" in made else _MADE


def check_made(made: JsonObject, origin: object, trust: Collection[str]) -> None:
    """Checks the settings that a network is made with.

    Args:
        made: `model`, and `image_size` and `stem` or `input`; maybe `classes` and `dim`.
        origin: their file, for errors.
        trust: as in `trusted`.

    Raises:
        InputError: one of them is of another type or out of its bounds.
        UsageError: they name a network of a user's module that the caller does not name.
    """
    counts = {n: int for n in ("classes", "dim") if made.get(n) is not None}
    object_of(made, origin, {**made_types(made), **({} if "input" in made else {"stem": str}), **counts})
    sizes = {name: made[name] for name in ("image_size", "classes", "dim") if made.get(name) is not None}
    sizes |= input_sizes(made.get("input", {}), origin)
    if wrong := {n: v for n, v in sizes.items() if v < 1 or (n == "image_size" and v > _MOST_PIXELS)}:
        raise InputError(
            f"{origin} has {wrong}; sizes are 1 or more, image_size at most {_MOST_PIXELS}",
            "the file is damaged: restore it, or train again into another folder",
        )
    trusted(made["model"], origin, trust)


def input_sizes(said: JsonObject, origin: object) -> dict[str, int]:
    """The sizes of vectors that a network takes, by name; empty for other samples.

    Raises:
        InputError: one is missing, or is no number.
    """
    if said.get("kind") != VECTOR:
        return {}
    object_of(said, origin, {"dim": int})
    return {"input.dim": said["dim"]}


def check_outputs(outputs: int, size: int, origin: object) -> None:
    """Checks outputs that a file states against the bytes of the weights, before memory is taken for them.

    Args:
        outputs: classes, or the targets' dimension.
        size: bytes of the weights' file.
        origin: the file, for errors.

    Raises:
        InputError: the weights cannot have that many.
    """
    if outputs > size:
        raise InputError(
            f"{origin} states {outputs} outputs, its weights are {size} bytes", "the files are not of one network"
        )
