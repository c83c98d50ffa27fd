"""The command plan."""

from __future__ import annotations

from typing import Annotated

import typer

from coevo_ray.cli.options import JsonFlag, PolicyOptions, policy_options
from coevo_ray.cli.plan_view import show_plan
from coevo_ray.cli.show import show


def plan(
    policy: Annotated[
        str, typer.Option(help="full, full_budget, static_random, random, rotation, factors, scored or your own.")
    ],
    rows: Annotated[int | None, typer.Option(help="Rows of the training split, where no folder says so.")] = None,
    keep: Annotated[float, typer.Option(help="Kept share.")] = 0.5,
    keep_last: Annotated[float | None, typer.Option(help="Kept share of the last epoch; linear between.")] = None,
    full_tail: Annotated[float, typer.Option(help="Share of the epochs, at the end, on all rows.")] = 0.0,
    class_power: Annotated[
        float | None, typer.Option(help="Class quotas in proportion to size ** this, with --pool; 0 is equal.")
    ] = None,
    unbiased: Annotated[bool, typer.Option("--unbiased", help="Weigh rows by the inverse of their chance.")] = False,
    policy_option: PolicyOptions = None,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    pool: Annotated[str | None, typer.Option(help="Folder of a pool: its training rows with a label.")] = None,
    scores: Annotated[str | None, typer.Option(help="Folder of a score table, for factors and scored.")] = None,
    evidence: Annotated[
        str | None, typer.Option(help="Folder of evidence on labels and copies, evidence/ of a run, for factors.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Simulate which rows a policy would use, without training."""
    options = policy_options(policy_option)
    from coevo_ray.app import api

    result = api.plan(
        policy,
        rows=rows,
        keep=keep,
        epochs=epochs,
        seed=seed,
        scores=scores,
        keep_last=keep_last,
        full_tail=full_tail,
        class_power=class_power,
        unbiased=unbiased,
        policy_options=options,
        pool=pool,
        evidence=evidence,
    )
    if as_json:
        show(result, as_json)
    else:
        show_plan(result)
