"""The names of the command line stay: none vanishes or changes its type, whatever is added.

`command_line.json` holds the names of version 0.1.0. To write it anew: `python -m tests.test_cli_names`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from coevo_ray.cli import app

PINNED = Path(__file__).parent / "command_line.json"
# Names of types, by typer's own classes and by those of the click that older ones bring.
_TYPES = {"text": "str", "integer": "int", "boolean": "bool", "path": "Path"}


def _type(parameter: Any) -> str:
    descriptor = getattr(parameter, "type_descriptor", None)
    if descriptor is None:
        return str(_TYPES.get(parameter.type.name, parameter.type.name))
    annotation = descriptor.annotation
    [inner] = getattr(annotation, "__args__", None) or [annotation]
    return str(inner.__name__)


def _described(parameter: Any) -> dict[str, Any]:
    return {
        "spellings": [*parameter.opts, *parameter.secondary_opts],
        "type": _type(parameter),
        "required": parameter.required,
        "many": parameter.multiple or parameter.nargs == -1,
        "flag": bool(getattr(parameter, "is_flag", False)),
        "argument": parameter.param_type_name == "argument",
    }


def command_line() -> dict[str, dict[str, dict[str, Any]]]:
    """Every command -> its options and arguments, by their first spelling."""
    found: dict[str, dict[str, dict[str, Any]]] = {}

    def add(command: Any, path: str) -> None:
        described = [_described(parameter) for parameter in command.params]
        found[path] = {parameter["spellings"][0]: parameter for parameter in described}
        context = typer.Context(command)
        for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
            add(command.get_command(context, name), f"{path} {name}".strip())

    add(get_command(app), "")
    return found


def test_no_name_vanishes_or_changes_its_type() -> None:
    pinned, here = json.loads(PINNED.read_text()), command_line()
    assert pinned.keys() <= here.keys()
    for command, parameters in pinned.items():
        assert parameters.keys() <= here[command].keys(), command
        for name, pin in parameters.items():
            have = here[command][name]
            assert set(pin["spellings"]) <= set(have["spellings"]), f"{command} {name}"
            assert {**have, "spellings": 0} == {**pin, "spellings": 0}, f"{command} {name}"


def test_nothing_that_could_be_left_out_became_required() -> None:
    pinned = json.loads(PINNED.read_text())
    for command, parameters in command_line().items():
        for name, parameter in parameters.items():
            assert not parameter["required"] or pinned[command][name]["required"], f"{command} {name}"


if __name__ == "__main__":
    PINNED.write_text(json.dumps(command_line(), indent=1) + "\n")
