"""Commands that make targets: encode, merge."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coevo_ray.cli.options import JsonFlag, Out, PoolPath
from coevo_ray.cli.show import show
from coevo_ray.errors import UsageError


def encode(
    pool: PoolPath,
    prior: Annotated[list[str], typer.Option("--prior", help="scheme:model[@pixels]; give it once per participant.")],
    out: Out,
    shared: Annotated[str, typer.Option(help="Shared set: share below 1, rows, or a pool's folder.")] = "0.1",
    part: Annotated[str | None, typer.Option(help="WHICH/PARTS from 0: encode one part of the pool alone.")] = None,
    dim: Annotated[int, typer.Option(help="Dimension of the targets.")] = 128,
    weight: Annotated[list[float] | None, typer.Option(help="Share of the pool, once for each --prior.")] = None,
    reference: Annotated[str | None, typer.Option(help="Reference prior; default: lowest uniformity.")] = None,
    alignment: Annotated[str, typer.Option(help="ridge, procrustes or none.")] = "ridge",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    compile_priors: Annotated[bool, typer.Option("--compile", help="Compile the priors; for long jobs.")] = False,
    gpus: Annotated[float, typer.Option(help="GPUs for each actor.")] = 0,
    cpus: Annotated[float, typer.Option(help="CPUs for each actor; it also sets its threads.")] = 0.5,
    actors: Annotated[int | None, typer.Option(help="Actors for each prior; default: all there is room for.")] = None,
    batch_rows: Annotated[int, typer.Option(help="Rows of a forward pass.")] = 64,
    shard_rows: Annotated[int | None, typer.Option(help="Rows of a shard, the unit of resume.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of projection, shared set and assignment.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Encode disjoint parts of a pool with prior models and align them into targets.

    With one --prior and a pool as --shared, or with --part, OUT is this participant's contribution, for `merge`.
    """
    from coevo_ray.app import api
    from coevo_ray.config import EncodeConfig, make_config

    priors = [_prior(text) for text in prior]
    if weight:
        if len(weight) != len(prior):
            raise UsageError(f"{len(weight)} --weight for {len(prior)} --prior", "give one for each, in their order")
        priors = [{**p, "weight": w} for p, w in zip(priors, weight, strict=True)]
    settings = {
        "priors": priors,
        "dim": dim,
        "shared": _number_or_text(shared),
        "part": _part(part),
        "reference": reference,
        "alignment": alignment,
        "precision": precision,
        "compile": compile_priors,
        "shard_rows": shard_rows,
        "seed": seed,
        "compute": {"gpus": gpus, "cpus": cpus, "actors": actors, "batch_rows": batch_rows},
    }
    config = make_config(EncodeConfig, settings, "encode")
    made = api.contribute(config, pool, out) if config.alone else api.encode(config, pool, out)
    show({made.manifest.kind: str(made.location), **made.manifest.summary}, as_json)


def _prior(text: str) -> dict[str, Any]:
    name, at, pixels = text.rpartition("@")
    if not at:
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


def merge(
    contributions: Annotated[list[str], typer.Argument(help="Folders of contributions, or of `encode` with several.")],
    out: Out,
    reference: Annotated[str | None, typer.Option(help="Reference prior; default: lowest uniformity.")] = None,
    alignment: Annotated[str, typer.Option(help="ridge, procrustes or none.")] = "ridge",
    allow_overlap: Annotated[bool, typer.Option("--allow-overlap", help="Take a doubled row from the first.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the shared rows that are held out.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Align contributions of several participants into one target table.

    Targets that are there are extended when further contributions follow those that they were made of.
    """
    from coevo_ray.app import api

    config = {"reference": reference, "alignment": alignment, "allow_overlap": allow_overlap, "seed": seed}
    targets = api.merge(contributions, out, config)
    show({"targets": str(targets.location), **targets.manifest.summary}, as_json)
