"""JSON of files that others may have written: whatever is in them, it is read or refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError

# Nothing of ours is a tenth as deep; whoever walks over what was read may recurse.
_MOST_DEPTH = 100
_REMEDY = "the file is damaged or none of ours: restore it, or delete its folder and run the command again"


def parse_json(data: bytes, origin: object) -> Any:
    """Reads JSON in UTF-8. Of a repeated key the last value counts; NaN and Infinity are numbers.

    Args:
        data: content of the file.
        origin: the file, for errors.

    Raises:
        InputError: it is not UTF-8, is no JSON, or nests deeper than 100 levels.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise _too_deep(origin) from None
    except ValueError as error:
        raise InputError(f"{origin} is not JSON: {error}", _REMEDY) from error
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
        if depth > _MOST_DEPTH:
            raise _too_deep(origin)
    return value


def object_of(value: Any, origin: object, needs: Mapping[str, type] | None = None) -> JsonObject:
    """Checks that JSON is an object with some fields.

    Args:
        value: as `parse_json` returned it.
        origin: the file, for errors.
        needs: name -> type of the fields that it must have.

    Raises:
        InputError: it is no object, or a field is missing or of another type.
    """
    if not isinstance(value, dict):
        raise InputError(f"{origin} holds a JSON {type(value).__name__}, need an object", _REMEDY)
    for name, kind in (needs or {}).items():
        have = value.get(name)
        if not isinstance(have, kind) or (kind is int and isinstance(have, bool)):
            found = type(have).__name__ if name in value else "missing"
            raise InputError(f"{name} in {origin} is {found}, need {kind.__name__}", _REMEDY)
    return value


def _inside(value: Any) -> list[Any]:
    """The containers in a container."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in inner if isinstance(each, dict | list)]


def _too_deep(origin: object) -> InputError:
    return InputError(f"{origin} nests deeper than {_MOST_DEPTH} levels", _REMEDY)


def json_bytes(value: Any) -> bytes:
    """JSON as files of ours have it: indented, keys in the order given.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
