"""Commands that decide about rows: plan, gate."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli.options import JsonFlag, Out, PoolPath, TargetsPath
from coevo_ray.cli.show import show


def plan(
    rows: Annotated[int, typer.Option(help="Rows of the training split.")],
    policy: Annotated[str, typer.Option(help="full, full_budget, static_random, random, rotation or factors.")],
    keep: Annotated[float, typer.Option(help="Kept share.")] = 0.5,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    scores: Annotated[str | None, typer.Option(help="Folder of a score table, for factors and scored.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Simulate which rows a policy would use, without training."""
    from coevo_ray import commands

    show(commands.plan(rows, policy, keep=keep, epochs=epochs, seed=seed, scores=scores), as_json)


def gate(pool: PoolPath, targets: TargetsPath, out: Out, as_json: JsonFlag = False) -> None:
    """Ask for labels until the gate stops by itself."""
    from coevo_ray import commands

    labels = commands.gate({}, pool, targets, out)
    show({"labels_table": str(labels.location), **labels.manifest.summary}, as_json)
