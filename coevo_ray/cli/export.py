"""The command export."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from coevo_ray.cli.options import JsonFlag
from coevo_ray.cli.show import show


class Kind(str, Enum):
    """Forms of `--to`."""

    LANCE = "lance"
    ISSUES = "issues"


def export(
    artifact: Annotated[str, typer.Argument(help="Folder of an artifact: targets, labels, duplicates, a pool, ...")],
    out: Annotated[str | None, typer.Option(help="The result: a folder, of issues a .parquet or .csv file.")] = None,
    to: Annotated[
        Kind, typer.Option(help="lance: a Lance dataset; issues: evidence on labels as cleanlab's table of issues.")
    ] = Kind.LANCE,
    push_to_hub: Annotated[
        str | None, typer.Option(help="OWNER/NAME of a data set of the Hugging Face Hub that takes the files.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="A data set that is made there is public.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write an artifact for other tools: Lance, a table of issues, or a data set of the Hugging Face Hub."""
    from coevo_ray.app import api

    show(api.export(artifact, out, to.value, push_to_hub, public), as_json)
