"""Commands that make and judge targets: encode, merge, probe."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli import closing
from coevo_ray.cli.from_settings import option, options, plain_fields, settings, takes
from coevo_ray.cli.options import JsonFlag, Out, PoolPath, TargetsPath
from coevo_ray.cli.show import show, show_lines
from coevo_ray.config import EncodeConfig, MergeConfig, make_config
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError

_COMPUTE = [f"compute.{name}" for name in ("gpus", "cpus", "actors", "max_actors", "batch_rows")]
_ENCODE = [*plain_fields(EncodeConfig), *_COMPUTE]
_MERGE = plain_fields(MergeConfig)


@takes(option("shared", EncodeConfig.model_fields["shared"], kind=str), *options(EncodeConfig, _ENCODE))
def encode(
    pool: PoolPath,
    prior: Annotated[list[str], typer.Option("--prior", help="scheme:model[@pixels]; once per participant.")],
    out: Out,
    part: Annotated[str | None, typer.Option(help="WHICH/PARTS, from 0: encode only this part of the pool.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="Share of the pool; once per --prior.")] = None,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Encode disjoint parts of a pool with prior models and align them into targets.

    With one --prior and a pool as --shared, or with --part, OUT is this participant's contribution, for `merge`.
    """
    content = settings(EncodeConfig, _ENCODE, given) | {"priors": _priors(prior, weight), "part": _part(part)}
    if "shared" in given:
        content["shared"] = _number_or_text(given["shared"])
    config = make_config(EncodeConfig, content, "encode")
    from coevo_ray.app import api

    made = api.contribute(config, pool, out) if config.alone else api.encode(config, pool, out)
    told = {made.manifest.kind: str(made.location), **made.manifest.summary}
    show_lines(told, closing.of_targets(pool, told), as_json)


def _priors(texts: list[str], weights: list[float] | None) -> list[JsonObject]:
    priors = [prior_settings(text) for text in texts]
    if not weights:
        return priors
    if len(weights) != len(priors):
        raise UsageError(f"{len(weights)} --weight for {len(priors)} --prior", "give one for each, in their order")
    return [{**prior, "weight": weight} for prior, weight in zip(priors, weights, strict=True)]


def prior_settings(text: str) -> JsonObject:
    """The settings of `--prior SCHEME:MODEL[@SIZE]`.

    Raises:
        UsageError: the size is no number.
    """
    name, at, pixels = text.rpartition("@")
    if not at or (not pixels.isdigit() and "/" in name):  # of a repository of the Hub it is a revision
        return {"name": text, "input_size": None}
    if not pixels.isdigit():
        raise UsageError(f"--prior {text}: {pixels!r} is not a number of pixels", "write it as scheme:model@64")
    return {"name": name, "input_size": int(pixels)}


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    which, _, parts = text.partition("/")
    if not (which.isdigit() and parts.isdigit()):
        raise UsageError(f"--part {text} is not WHICH/PARTS", "write 0/3, 1/3 and 2/3 for three participants")
    return int(which), int(parts)


@takes(*options(MergeConfig, _MERGE))
def merge(
    contributions: Annotated[list[str], typer.Argument(help="Folders of contributions, or of `encode` with several.")],
    out: Out,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Align contributions of several participants into one target table.

    Existing targets are extended if further contributions follow those they were made from.
    """
    from coevo_ray.app import api

    targets = api.merge(contributions, out, settings(MergeConfig, _MERGE, given))
    told = {"targets": str(targets.location), **targets.manifest.summary}
    show_lines(told, closing.of_targets("", told), as_json)


def probe(
    targets: TargetsPath,
    pool: PoolPath,
    rows: Annotated[int, typer.Option(min=1, help="Maximum rows per split.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of rows and of the folds.")] = 0,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Judge targets by the pool's labels; for evaluation only.

    A linear head and neighbours, fitted on the training split and measured on the test split; and heads of one prior's
    rows on those of another.
    """
    from coevo_ray.app import api

    show(api.probe(targets, pool, rows, seed), as_json)
