"""The page of commands, from the command line itself."""

from __future__ import annotations

from typing import Any

from typer.main import get_command

from coevo_ray.cli import app
from coevo_ray.cli.on_demand import COMMANDS
from website.markdown import cell

_INTRODUCTION = """# Commands

Made from the command line at build time; `--help` of each command says the same. With `--json` one JSON object is the
only thing on stdout. [Exit codes](exit-codes.md) and [settings](settings.md) have pages of their own.

| command | does |
|---|---|
"""


def page() -> str:
    """The page, as Markdown."""
    group: Any = get_command(app)
    listed = "".join(f"| [`{name}`](#{name}) | {cell(line)} |\n" for name, (_, line) in COMMANDS.items())
    return _INTRODUCTION + listed + "".join(_command(group, name) for name in COMMANDS)


def _command(group: Any, name: str) -> str:
    command = group.commands[name].load()
    text = _one(command, [name])
    for sub in getattr(command, "commands", {}):
        text += _one(command.commands[sub], [name, sub])
    return text


def _one(command: Any, names: list[str]) -> str:
    context = command.make_context(names[-1], [], resilient_parsing=True)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name != "argument"]
    usage = " ".join(["coevo-ray", *names, *command.collect_usage_pieces(context)])
    anchor = "-".join(names)
    head = f"{'#' * (len(names) + 1)} `{' '.join(names)}` {{ #{anchor} }}"
    text = f"\n{head}\n\n{command.help or ''}\n\n```text\n{usage}\n```\n"
    records = [each.get_help_record(context) for each in [*arguments, *options]]
    rows = [_row(*record) for record in records if record and "--help" not in record[0]]
    return text + ("\n| option | value | meaning |\n|---|---|---|\n" + "".join(rows) if rows else "")


def _row(spelling: str, meaning: str) -> str:
    """A line of the table: the option, what it takes, what it means."""
    names, _, value = spelling.partition(" ") if " / " not in spelling else (spelling, "", "")
    told = ", ".join(f"`{each}`" for each in value.split("|")) if value else ""
    return f"| `{names}` | {told} | {cell(meaning)} |\n"
