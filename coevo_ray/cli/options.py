"""What the commands' options share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout at the end.")]
Out = Annotated[str, typer.Option("--out", help="Folder of the result: local path, s3:// or gs://.")]
PoolPath = Annotated[str, typer.Option("--pool", help="Folder of a pool, as ingest made it.")]
TargetsPath = Annotated[str, typer.Option("--targets", help="Folder of targets, as encode or merge made it.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others are left to the settings' own defaults."""
    return {name: value for name, value in options.items() if value is not None}
