"""The command sae and those below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.from_settings import options, plain_fields, settings, takes
from coevo_ray.cli.options import JsonFlag, Out, PoolPath, given_only, refuse_early, spelled
from coevo_ray.cli.show import show, show_lines
from coevo_ray.config import SaeConfig
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError

if TYPE_CHECKING:
    from coevo_ray.store.row_table import RowTable

sae_app = typer.Typer(add_completion=False, rich_markup_mode=None)
_FIT = plain_fields(SaeConfig)
_SCORE = ("rare_quantile", "compute.actors", "compute.cpus", "compute.gpus")


@sae_app.callback(invoke_without_command=True)
@takes(*options(SaeConfig, _FIT))
def sae(
    context: typer.Context,
    pool: Annotated[str | None, typer.Option(help="Folder of a pool made by ingest.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Folder of targets made by encode or merge; default: the pool's own vectors.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column with the vectors; default: the only one.")] = None,
    out: Annotated[str | None, typer.Option(help="Output folder: local path, s3:// or gs://.")] = None,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Fit the sparse autoencoder and score every row; or, with a subcommand, show factors and convert models."""
    if context.invoked_subcommand is not None:
        others = given_only(pool=pool, out=out, targets=targets, column=column)
        refuse_early("sae", context.invoked_subcommand, [*others, *given, *(["json"] if as_json else [])])
        return
    if pool is None or out is None:
        missing = [name for name, value in (("pool", pool), ("out", out)) if value is None]
        raise UsageError(f"sae without {spelled(missing)}", "give --pool, --out and usually --targets; see sae --help")
    from coevo_ray.app import api

    _show_scores(api.sae(settings(SaeConfig, _FIT, given), pool, targets, out, column), out, as_json)


@sae_app.command("score")
@takes(*options(SaeConfig, _SCORE))
def sae_score(
    features: Annotated[str, typer.Option(help="Folder of targets, or of a pool with vectors.")],
    model: Annotated[str, typer.Option(help="Folder of a model made by sae or sae import.")],
    out: Out,
    column: Annotated[str | None, typer.Option(help="Column with the vectors; default: the only one.")] = None,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Score every row of any table with vectors, with an existing model."""
    from coevo_ray.app import api

    _show_scores(api.sae_score(settings(SaeConfig, _SCORE, given), features, model, out, column), out, as_json)


def _show_scores(scores: RowTable, out: str, as_json: bool) -> None:
    from coevo_ray.store.factor_files import find_factors
    from coevo_ray.store.layout import FactorLayout
    from coevo_ray.store.location import Location
    from coevo_ray.store.manifest import MANIFEST, load_manifest

    told = {"scores": str(scores.location), "table": str(find_factors(out)), **scores.manifest.summary}
    model = FactorLayout.of(Location.parse(out)).model
    fitted = load_manifest(model).summary if model.child(MANIFEST).is_file() else None
    show_lines(told, closing.of_factors(told, fitted), as_json)


@sae_app.command("show")
def sae_show(
    folder: Annotated[str, typer.Argument(help="Folder made by sae or sae score, or of a run.")],
    pool: PoolPath,
    out: Annotated[str, typer.Option("--out", help="Output .html file.")] = "factors.html",
    factors: Annotated[str, typer.Option(help="frequent, rare, all, or numbers such as 3,17.")] = "frequent",
    limit: Annotated[int, typer.Option(help="Maximum factors per group.")] = 24,
    rows: Annotated[int, typer.Option(help="Maximum rows per factor.")] = 12,
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
    """Import a SAELens model of TopK architecture."""
    from coevo_ray.app import api

    show({"model": str(api.sae_import(source, out, format).location), "format": format}, as_json)
