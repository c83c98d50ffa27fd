"""The command retrieve."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.from_settings import options, plain_fields, settings, takes
from coevo_ray.cli.options import JsonFlag, Out
from coevo_ray.cli.show import show_lines
from coevo_ray.config import RetrieveSettings
from coevo_ray.core.json import JsonObject

_SETTINGS = [*plain_fields(RetrieveSettings), "compute.cpus"]


@takes(*options(RetrieveSettings, _SETTINGS))
def retrieve(
    gate: Annotated[str, typer.Option(help="Folder of a gate made by gate open, or of a run.")],
    pool: Annotated[str, typer.Option(help="Folder of the open pool made by ingest; not the gate's own.")],
    targets: Annotated[str, typer.Option(help="Folder of the open pool's targets, in the gate's space.")],
    out: Out,
    copy_to: Annotated[
        str | None, typer.Option(help="Also write the chosen samples to this folder, as Parquet for ingest.")
    ] = None,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Find the rows of another pool to label next: those where the gate's gain remains."""
    from coevo_ray.app import api

    config = settings(RetrieveSettings, _SETTINGS, given)
    made = api.retrieve(gate, pool, targets, out, config, copy_to)
    copied = {} if copy_to is None else {"copied_to": copy_to}
    told = {"retrieved": str(made.location), **made.manifest.summary, **copied}
    show_lines(told, closing.of_retrieved(told), as_json)
