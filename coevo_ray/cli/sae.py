"""The command sae and those below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coevo_ray.cli.options import JsonFlag, Out, PoolPath, given
from coevo_ray.cli.show import show
from coevo_ray.errors import UsageError

if TYPE_CHECKING:
    from coevo_ray.store.row_table import RowTable


sae_app = typer.Typer(rich_markup_mode=None)


@sae_app.callback(invoke_without_command=True)
def sae(
    context: typer.Context,
    pool: Annotated[str | None, typer.Option(help="Folder of a pool, as ingest made it.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Folder of targets, as encode or merge made it; default: the pool's own vectors.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column with the vectors; default: the only one.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the result: local path, s3:// or gs://.")] = None,
    latents: Annotated[int | None, typer.Option(help="Number of factors. [512]")] = None,
    k: Annotated[int | None, typer.Option(help="Active factors of a row. [16]")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows. [40]")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit the sparse autoencoder and score every row; or, with a command, look at factors and carry models."""
    places = {"pool": pool, "out": out}
    settings = given(latents=latents, k=k, epochs=epochs)
    chosen = given(targets=targets, column=column)
    if context.invoked_subcommand is not None:
        early = [f"--{name}" for name in [*given(**places), *chosen, *settings, *(["json"] if as_json else [])]]
        if early:
            command = context.invoked_subcommand
            raise UsageError(f"{', '.join(early)} before {command}", f"put the options behind it: sae {command} ...")
        return
    missing = [f"--{name}" for name, value in places.items() if value is None]
    if missing:
        raise UsageError(f"sae without {', '.join(missing)}", "give --pool, --out and mostly --targets; see sae --help")
    from coevo_ray.app import api

    _show_scores(api.sae(settings, str(pool), targets, str(out), column), str(out), as_json)


@sae_app.command("score")
def sae_score(
    features: Annotated[str, typer.Option(help="Folder of targets, or of a pool with vectors.")],
    model: Annotated[str, typer.Option(help="Folder of a model, as sae or sae import made it.")],
    out: Out,
    column: Annotated[str | None, typer.Option(help="Column with the vectors; default: the only one.")] = None,
    rare_quantile: Annotated[float | None, typer.Option(help="Factors up to it are rare. [0.5]")] = None,
    actors: Annotated[int | None, typer.Option(help="Actors that encode side by side. [1]")] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs for each of them. [1]")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs for each of them. [0]")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score every row of any table with vectors, with a model that is there."""
    from coevo_ray.app import api

    compute = {"actors": 1, "cpus": 1, **given(actors=actors, cpus=cpus, gpus=gpus)}
    config = {**given(rare_quantile=rare_quantile), "compute": compute}
    _show_scores(api.sae_score(config, features, model, out, column), out, as_json)


def _show_scores(scores: RowTable, out: str, as_json: bool) -> None:
    from coevo_ray.store.factor_files import find_factors

    show({"scores": str(scores.location), "table": str(find_factors(out)), **scores.manifest.summary}, as_json)


@sae_app.command("show")
def sae_show(
    folder: Annotated[str, typer.Argument(help="Folder that sae or sae score made, or factors/ of a run.")],
    pool: PoolPath,
    out: Annotated[str, typer.Option("--out", help="The page, an .html file.")] = "factors.html",
    factors: Annotated[str, typer.Option(help="frequent, rare, all, or numbers such as 3,17.")] = "frequent",
    limit: Annotated[int, typer.Option(help="Most factors of a group.")] = 24,
    rows: Annotated[int, typer.Option(help="Most rows of each factor.")] = 12,
    as_json: JsonFlag = False,
) -> None:
    """Write an HTML page with the images or texts that activate chosen factors most."""
    from coevo_ray.app import api

    show(api.sae_show(folder, pool, out, choose=factors, limit=limit, rows=rows), as_json)


ModelFormat = Annotated[str, typer.Option("--format", help="saelens.")]


@sae_app.command("export")
def sae_export(
    model: Annotated[str, typer.Argument(help="Folder of a model.")],
    out: Out,
    format: ModelFormat = "saelens",
    as_json: JsonFlag = False,
) -> None:
    """Write a model in SAELens' format."""
    from coevo_ray.app import api

    show({"exported": api.sae_export(model, out, format), "format": format}, as_json)


@sae_app.command("import")
def sae_import(
    source: Annotated[str, typer.Argument(help="Folder with cfg.json and sae_weights.safetensors.")],
    out: Out,
    format: ModelFormat = "saelens",
    as_json: JsonFlag = False,
) -> None:
    """Make a model from one of SAELens, TopK architecture."""
    from coevo_ray.app import api

    show({"model": str(api.sae_import(source, out, format).location), "format": format}, as_json)
