"""The command start."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.from_settings import options, plain_fields, settings, takes
from coevo_ray.cli.options import JsonFlag
from coevo_ray.cli.show import show_lines
from coevo_ray.config import Source
from coevo_ray.core.json import JsonObject

_OF_SOURCE = plain_fields(Source, without=("uri", "key_prefix", "split"))


@takes(*options(Source, _OF_SOURCE))
def start(
    data: Annotated[str, typer.Argument(help="Folder or file: images, .txt, Parquet, CSV, JSON Lines, tars or .npy.")],
    out: Annotated[str, typer.Option("--out", help="Folder of the run: local path, s3:// or gs://.")] = "coevo-run",
    *,
    file: Annotated[str | None, typer.Option(help="Run file to write; default: the name of --out with .yaml.")] = None,
    go: Annotated[bool, typer.Option("--go", help="Run up to the first label requests.")] = False,
    classes: Annotated[str | None, typer.Option(help="Class names, separated by commas; default: the data's.")] = None,
    budget: Annotated[int | None, typer.Option(help="Maximum labels to ask for.")] = None,
    prior: Annotated[
        list[str] | None, typer.Option(help="Prior scheme:model instead of the installed ones; may be repeated.")
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(
            metavar="file_drop|label_column",
            help="Who answers: people, through files in a folder, or the data's own labels. [labels if all rows have "
            "one]",
        ),
    ] = None,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Inspect data, propose a run and write its file; with --go run up to the first label requests."""
    names = [name.strip() for name in (classes or "").split(",") if name.strip()]
    from coevo_ray.app import api

    made = api.start(
        data,
        out,
        file,
        go=go,
        classes=names,
        budget=budget,
        priors=prior or (),
        ask=ask or "",
        source=settings(Source, _OF_SOURCE, given),
    )
    show_lines(made, _lines(made), as_json)


def _lines(made: JsonObject) -> list[str]:
    """Lines about the result and the next step."""
    run = f"coevo-ray run {made['file']}"
    requests = made.get("requests")
    if requests is not None:
        return [
            f"{requests['requested']} rows wait for labels at {requests['where']} (see README.txt there)",
            f"next: label them, then {run}",
        ]
    if "report" in made:
        again = "to ask people instead, start again with --ask file_drop and another --out"
        return [*closing.of_run(made), f"next: open the report; {again}"]
    return [f"run file: {made['file']}", f"next: look at it, then {run}"]
