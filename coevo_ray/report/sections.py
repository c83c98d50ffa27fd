"""The sections of a report, in the order of the flow: sentences, plots and a table for each stage."""

from __future__ import annotations

from dataclasses import dataclass

from coevo_ray.report import plots
from coevo_ray.report.data import PolicyPlot, ReportData, TrainPlots
from coevo_ray.report.wording import (
    against,
    chance,
    count,
    decimal,
    duration,
    finite,
    integer,
    listing,
    lookup,
    number,
    percent,
)

STOPS = {
    "gain": "the gain that it still expected per unlabelled row fell below its threshold",
    "relative_gain": "the gain that it still expected per unlabelled row fell below its threshold",
    "accuracy": "more labels no longer raised the measured accuracy",
    "marginal_accuracy": "more labels no longer raised the measured accuracy",
    "budget": "its label budget was spent",
    "max_label_fraction": "its label budget was spent",
    "rounds": "it reached the highest number of rounds allowed",
    "max_rounds": "it reached the highest number of rounds allowed",
    "exhausted": "no row without a label was left",
    "pool": "no row without a label was left",
}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is words, the others are numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """One stage of the flow."""

    anchor: str
    title: str
    sentences: tuple[str, ...]
    plots: tuple[plots.Plot, ...]
    table: Table


def sections(data: ReportData) -> list[Section]:
    """The stages that were run, in the order of the flow."""
    made = (pool(data), encode(data), sae(data), gate(data), train(data))
    return [section for section in made if section is not None]


def pool(data: ReportData) -> Section | None:
    """What came in."""
    if lookup(data.summary, "pool") is None:
        return None
    rows, rejected = number(data.summary, "pool", "rows"), number(data.summary, "pool", "rejected")
    sentences = []
    if rows is not None and rejected is not None:
        outcome = "none was rejected" if rejected == 0 else f"{count(rejected, 'more row')} rejected"
        sentences.append(f"The pool holds {count(rows, 'row')}; {outcome.replace('rows rejected', 'rows were rejected')}.")
    sentences.append("Test rows are held out: nothing is trained on them, all accuracies are measured on them.")
    keys = ("rows", "train_rows", "test_rows", "classes", "rejected")
    names = ("rows", "training rows", "test rows", "classes", "rejected rows")
    cells = tuple((name, integer(number(data.summary, "pool", key))) for key, name in zip(keys, names, strict=True))
    return Section("pool", "Pool", tuple(sentences), (), Table(("measure", "value"), cells))
