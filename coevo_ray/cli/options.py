"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout at the end.")]
Out = Annotated[str, typer.Option("--out", help="Output folder: local path, s3:// or gs://.")]
PoolPath = Annotated[str, typer.Option("--pool", help="Folder of a pool made by ingest.")]
TargetsPath = Annotated[str, typer.Option("--targets", help="Folder of targets made by encode or merge.")]
PolicyOptions = Annotated[
    list[str] | None, typer.Option("--policy-option", help="Policy option NAME=VALUE; may be repeated.")
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        help="package.module:NAME that a folder may name: it is imported and run. May be repeated.",
    ),
]
# YAML 1.1, which PyYAML reads, takes 1e-3 for a text.
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def policy_options(texts: list[str] | None) -> JsonObject:
    """NAME=VALUE each, a value being what YAML makes of it: a number, true or false, null, a text.

    Raises:
        UsageError: one is not of that form, or a name comes twice.
    """
    import yaml

    options: JsonObject = {}
    for text in texts or []:
        name, equals, written = text.partition("=")
        try:
            value = float(written) if _EXPONENT.fullmatch(written) else yaml.safe_load(written)
        except yaml.YAMLError:
            value = {}
        if not (name.isidentifier() and equals and isinstance(value, str | int | float | None)):
            raise UsageError(f"--policy-option {text} is not NAME=VALUE", "write it as max_doubt=0.7, one each time")
        if name in ("class_power", "unbiased"):
            raise UsageError(f"{name} is not an option of a single policy", f"give --{name.replace('_', '-')} instead")
        if name in options:
            raise UsageError(f"--policy-option {name} is given twice", "leave one of them out")
        options[name] = value
    return options


def given_only(**options: Any) -> JsonObject:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def spelled(names: Iterable[str]) -> str:
    """Options as people write them; an argument is in capitals and stays."""
    return ", ".join(name if name.isupper() else "--" + name.replace("_", "-") for name in names)


def refuse_early(command: str, subcommand: str, names: Iterable[str]) -> None:
    """Refuses options of a command before one of its subcommands.

    Raises:
        UsageError: there are some.
    """
    if early := spelled(names):
        raise UsageError(f"{early} before {subcommand}", f"put the options after it: {command} {subcommand} ...")
