"""The command retrieve."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli.options import JsonFlag, Out, given
from coevo_ray.cli.show import show


def retrieve(
    gate: Annotated[str, typer.Option(help="Folder of a gate, as gate open made it, or of a run.")],
    pool: Annotated[str, typer.Option(help="Folder of the open pool, as ingest made it; not the gate's own.")],
    targets: Annotated[str, typer.Option(help="Folder of the open pool's targets, in the space of the gate's.")],
    budget: Annotated[int, typer.Option(help="Rows wanted.")],
    out: Out,
    copy_to: Annotated[
        str | None, typer.Option(help="Also write the chosen samples to this folder, as Parquet that ingest takes.")
    ] = None,
    gain: Annotated[
        str | None, typer.Option(help="What an open row is worth: classifier, anchors, or auto. [auto]")
    ] = None,
    anchors: Annotated[
        int | None, typer.Option(help="Unlabelled rows of the gate with the most gain, so many. [4096]")
    ] = None,
    near: Annotated[
        float | None,
        typer.Option(help="Power of the similarity to the nearest of them. [0: left out; with anchors' gain 0.25]"),
    ] = None,
    same: Annotated[float | None, typer.Option(help="Rows more similar than this are copies. [0.95]")] = None,
    stray: Annotated[
        float | None,
        typer.Option(help="So are those whose nearest stands out as for this share of the gate's own rows. [0.02]"),
    ] = None,
    apart: Annotated[
        float | None, typer.Option(help="Chosen rows are no more similar while there are others. [0.65]")
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs that each task reserves. [1]")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find the rows of another pool that lie where the gate's gain remains: those to label next, when it has enough."""
    from coevo_ray.app import api

    compute = None if cpus is None else {"cpus": cpus}
    chosen = {"gain": gain, "anchors": anchors, "near": near}
    copies = {"same": same, "stray": stray, "apart": apart}
    settings = given(budget=budget, **chosen, **copies, compute=compute)
    made = api.retrieve(gate, pool, targets, out, settings, copy_to)
    copied = {} if copy_to is None else {"copied_to": copy_to}
    show({"retrieved": str(made.location), **made.manifest.summary, **copied}, as_json)
