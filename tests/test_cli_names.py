"""The names of the command line stay: none vanishes or changes its type, whatever is added.

`command_line.json` holds the names of version 0.1.0. To write it anew: `python -m tests.test_cli_names`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from pydantic import Field
from typer.main import get_command
from typer.testing import CliRunner

from coevo_ray.cli import app
from coevo_ray.cli.from_settings import options, plain_fields, settings, takes
from coevo_ray.cli.training import OBJECTIVES
from coevo_ray.config.base import Compute, Model
from coevo_ray.core.json import JsonObject

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
            found_command = command.get_command(context, name)
            load = getattr(found_command, "load", None)  # commands below the top are there at once
            add(found_command if load is None else load(), f"{path} {name}".strip())

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
        assert "--install-completion" not in parameters, command
        for name, parameter in parameters.items() if command in pinned else ():  # the others came later
            assert not parameter["required"] or pinned[command][name]["required"], f"{command} {name}"


def test_the_list_of_commands_says_what_the_commands_say() -> None:
    group = get_command(app)
    for name, stand_in in group.commands.items():  # type: ignore[attr-defined]
        assert " ".join(stand_in.load().help.split("\n\n")[0].split()) == stand_in.help, name


def test_the_list_of_commands_imports_neither_settings_nor_numbers() -> None:
    code = "import sys, coevo_ray.cli as c\ntry:\n    c.main(['--help'])\nfinally:\n    print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "retrieve" in done.stdout and done.returncode == 0, done.stderr
    assert not {"pydantic", "numpy", "ray", "torch", "coevo_ray.config"} & set(done.stdout.split())


def test_a_setting_of_a_whole_model_is_an_option_with_its_description_and_default() -> None:
    class Settings(Model):
        most_rows: int = Field(7, ge=1, description="Most rows.")
        colour: Literal["red", "blue"] | None = Field(None, description="A colour.")
        dry: bool = Field(False, description="Do nothing.")
        share: float = Field(description="A share.")
        names: tuple[str, ...] = Field((), description="Fits into no option.")
        compute: Compute = Compute(cpus=2)

    names = [*plain_fields(Settings), "compute.cpus", "compute.gpus"]
    taken: list[Any] = []

    @takes(*options(Settings, names))
    def command(*, given: JsonObject) -> None:
        """Do it."""
        taken.append(settings(Settings, names, given))

    made = typer.Typer(rich_markup_mode=None)
    made.command()(command)
    runner = CliRunner(env={"COLUMNS": "200"})
    text = runner.invoke(made, ["--help"]).output
    shown = (r"--most-rows .*Most rows\. \[7\]", r"--colour red\|blue +A colour\.\n", r"--dry / --no-dry .*\[off\]")
    for line in shown:
        assert re.search(line, text), (line, text)
    assert "names" not in text and "[2]" in text
    assert runner.invoke(made, []).exit_code == 2  # --share is required
    assert runner.invoke(made, ["--share", "0", "--most-rows", "many"]).exit_code == 2
    assert runner.invoke(made, ["--share", "0.5"]).exit_code == 0
    assert runner.invoke(made, ["--share", "0", "--no-dry", "--colour", "green", "--gpus", "1"]).exit_code == 0
    compute = {**Compute(cpus=2).model_dump(), "gpus": 1.0}
    assert taken == [{"share": 0.5}, {"share": 0.0, "dry": False, "colour": "green", "compute": compute}]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_takes_all_plain_settings_of_its_model(objective: str) -> None:
    made = OBJECTIVES[objective]
    here = command_line()["train"]
    for name in made.settings:
        assert f"--{name.replace('_', '-')}" in here, name
    assert {"learning_rate", "epochs", "momentum"} <= set(made.settings)


if __name__ == "__main__":
    PINNED.write_text(json.dumps(command_line(), indent=1) + "\n")
