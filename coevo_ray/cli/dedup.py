"""The command dedup."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.from_settings import options, plain_fields, settings, takes
from coevo_ray.cli.options import JsonFlag, Out, PoolPath
from coevo_ray.cli.show import show_lines
from coevo_ray.config import DedupConfig
from coevo_ray.core.json import JsonObject

_SETTINGS = [*plain_fields(DedupConfig), "compute.cpus"]


@takes(*options(DedupConfig, _SETTINGS))
def dedup(
    pool: PoolPath,
    targets: Annotated[str, typer.Option(help="Folder of the pool's targets made by encode or merge.")],
    out: Out,
    groups: Annotated[int, typer.Option(help="Maximum groups on the page.")] = 60,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Find copies in a pool and between its splits: a table, a file of rows to drop, a page."""
    from coevo_ray.app import api
    from coevo_ray.reporting.duplicates import DROPPED, PAGE

    made = api.dedup(pool, targets, out, settings(DedupConfig, _SETTINGS, given), groups)
    place = made.location
    files = {"page": str(place.child(PAGE)), "dropped_file": str(place.child(DROPPED))}
    told = {"duplicates_at": str(place), **files, **made.manifest.summary}
    show_lines(told, closing.of_copies(told), as_json)
