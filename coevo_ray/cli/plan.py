"""The command plan, and how a simulated trajectory is shown: figures, the histogram of usage, a table by epoch."""

from __future__ import annotations

import math
from typing import Annotated

import typer
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from coevo_ray.cli.from_settings import options, takes
from coevo_ray.cli.options import JsonFlag, PolicyOptions, policy_options
from coevo_ray.cli.show import show
from coevo_ray.config import TrainConfig
from coevo_ray.core.json import JsonObject

_SETTINGS = ("keep", "keep_last", "full_tail", "class_power", "unbiased", "epochs", "seed")
_MOST_LINES = 20  # of the histogram and of the table
_BAR = 32
_COLUMNS = {
    "kept": "rows kept",
    "never_used_by_epoch": "never used",
    "factors_covered": "factors covered",
    "factors_covered_at_random": "by random rows",
    "factors_covered_so_far": "so far",
    "largest_weight": "largest weight",
}


@takes(*options(TrainConfig, _SETTINGS))
def plan(
    policy: Annotated[
        str,
        typer.Option(
            help="full, full_budget, static_random, random, rotation, factors, scored or your own; for policies that "
            "use losses, only the numbers of rows are shown."
        ),
    ],
    rows: Annotated[int | None, typer.Option(help="Rows of the training split, if no folder is given.")] = None,
    policy_option: PolicyOptions = None,
    pool: Annotated[
        str | None, typer.Option(help="Folder of a pool: its training rows with a label; class quotas need it.")
    ] = None,
    scores: Annotated[str | None, typer.Option(help="Folder of a score table, for factors and scored.")] = None,
    evidence: Annotated[
        str | None, typer.Option(help="Folder of a training's evidence on labels and copies, for factors.")
    ] = None,
    *,
    as_json: JsonFlag = False,
    given: JsonObject,
) -> None:
    """Simulate which rows a policy would use, without training."""
    own = policy_options(policy_option)
    from coevo_ray.app import api

    result = api.plan(policy, rows=rows, policy_options=own, pool=pool, scores=scores, evidence=evidence, **given)
    if as_json:
        show(result, as_json)
    else:
        _show_plan(result)


def _show_plan(result: JsonObject) -> None:
    """Prints a simulated trajectory; of many epochs some, evenly, with the first and the last."""
    console = Console(highlight=False)
    rows, samples = result["rows"], result["samples"]
    console.print(f"{result['policy']}: {rows:,} rows, {result['epochs']} epochs", markup=False)
    visits = f"{samples:,} samples, {samples / rows:.3g} for each row"
    if "usage" in result:
        unused = _share(result["never_used_share"])
        console.print(f"{visits}; never used: {unused} of the rows", markup=False)
        console.print()
        console.print(_histogram(result["usage"], rows))
    else:
        console.print(f"{visits}; which rows depends on losses, which only a training knows", markup=False)
    console.print()
    console.print(_by_epoch(result))
    if result["epochs"] > _MOST_LINES:
        console.print(f"{_MOST_LINES} of {result['epochs']} epochs; --json has all of them", markup=False)


def _histogram(usage: dict[str, int], rows: int) -> Table:
    """Rows by how often they were used; many different counts in ranges of equal width."""
    counts = {int(count): number for count, number in usage.items()}
    least, most = min(counts), max(counts)
    width = math.ceil((most - least + 1) / _MOST_LINES)
    table = Table(box=None, pad_edge=False)
    table.add_column("used", justify="right")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    numbers = [
        (start, sum(number for count, number in counts.items() if start <= count < start + width))
        for start in range(least, most + 1, width)
    ]
    largest = max(number for _, number in numbers)
    for start, number in numbers:
        name = f"{start}" if width == 1 else f"{start}-{start + width - 1}"
        # A full bar of its own length: a part of a longer one would show the rest of it on terminals with colours.
        length = round(_BAR * number / largest)
        bar = ProgressBar(1, 1, width=length, finished_style="cyan") if length else ""
        table.add_row(f"{name} x", f"{number:,}", _share(number / rows), bar)
    return table


def _by_epoch(result: JsonObject) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("epoch", justify="right")
    shown = {name: title for name, title in _COLUMNS.items() if name in result}
    for title in shown.values():
        table.add_column(title, justify="right")
    for epoch in _some(result["epochs"]):
        table.add_row(str(epoch), *(_cell(name, result[name][epoch]) for name in shown))
    return table


def _some(epochs: int) -> list[int]:
    if epochs <= _MOST_LINES:
        return list(range(epochs))
    return [round(i * (epochs - 1) / (_MOST_LINES - 1)) for i in range(_MOST_LINES)]


def _cell(name: str, value: float) -> str:
    if name == "kept":
        return f"{value:,}"
    return f"{value:.4g}" if name == "largest_weight" else _share(value)


def _share(value: float) -> str:
    return "<0.1%" if 0 < value < 0.0005 else f"{value:.1%}" if value else "0%"
