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
    FIFTYONE = "fiftyone"


def export(
    artifact: Annotated[str, typer.Argument(help="Folder of an artifact: targets, labels, duplicates, a pool, ...")],
    out: Annotated[str | None, typer.Option(help="Output: a folder; for issues a .parquet or .csv file.")] = None,
    to: Annotated[
        Kind,
        typer.Option(
            help="lance: a Lance dataset; issues: label evidence as a table like cleanlab's; fiftyone: images with "
            "that evidence as FiftyOneImageClassificationDataset."
        ),
    ] = Kind.LANCE,
    push_to_hub: Annotated[
        str | None, typer.Option(help="OWNER/NAME of the Hugging Face Hub data set to upload to.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new data set public.")] = False,
    pool: Annotated[str | None, typer.Option(help="Pool of the evidence's rows; for fiftyone.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write an artifact for other tools: Lance, an issues table, FiftyOne, or a Hugging Face Hub data set."""
    from coevo_ray.app import api

    show(api.export(artifact, out, to.value, push_to_hub, public, pool), as_json)
