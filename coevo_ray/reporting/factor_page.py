"""The factor sheet as a page: cards of factors, and how frequent factors are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from coevo_ray._version import __version__
from coevo_ray.core.arrays import Float64Array
from coevo_ray.core.factors.table import FactorTable
from coevo_ray.reporting import style
from coevo_ray.reporting.plots import Plot
from coevo_ray.reporting.templates import page_template
from coevo_ray.reporting.tiles import Showing, Tile
from coevo_ray.reporting.wording import count, decimal, integer, percent
from coevo_ray.reporting.write import Headline

_BINS = 24


@dataclass(frozen=True)
class FactorCard:
    """A factor: its number, frequency, rows, mean value, and examples as (value, tile), largest value first."""

    factor: int
    frequency: float
    rows: int
    mean_value: float
    examples: tuple[tuple[float, Tile], ...]


@dataclass(frozen=True)
class FactorSheet:
    """Content of a sheet.

    Attributes:
        factors, pool: where they are, in words.
        showing: the way its samples are shown.
        choice: "frequent", "rare", "all" or numbers, as asked for.
        table: the whole factor table.
        cards: the chosen factors, in their order.
    """

    factors: str
    pool: str
    showing: Showing
    choice: str
    table: FactorTable
    cards: tuple[FactorCard, ...]


def render_sheet(sheet: FactorSheet) -> str:
    """The sheet as the text of a self-contained HTML page; the same data give the same text."""
    template = page_template("factor_sheet.html.j2", percent=_share, decimal=decimal, rows=lambda n: count(n, "row"))
    return template.render(
        sheet=sheet,
        version=__version__,
        css=style.page_css(),
        headlines=_headlines(sheet),
        plot=frequency_histogram(sheet.table.frequencies),
        chosen=_chosen(sheet),
    )


def _share(value: float) -> str:
    """A frequency with as many digits as a rare factor needs."""
    return percent(value, 1 if value >= 0.01 else 3)


def _headlines(sheet: FactorSheet) -> list[Headline]:
    counts, rows = sheet.table.counts, sheet.table.rows
    alive = counts[counts > 0]
    median = float(np.median(alive)) / rows if alive.size else None
    return [
        Headline("Factors", integer(alive.size), f"are active in some row, of {integer(counts.size)}."),
        Headline(
            "Rows", integer(rows), f"were scored, each made of {decimal(counts.sum() / rows, 1)} factors on average."
        ),
        Headline("Median frequency", percent(median, 2), "of the rows have the factor in the middle of the order."),
    ]


def _chosen(sheet: FactorSheet) -> str:
    shown, alive = len(sheet.cards), int((sheet.table.counts > 0).sum())
    orders = {"frequent": "most frequent first", "rare": "rarest first", "all": "by number"}
    if sheet.choice not in orders:
        return f"{count(shown, 'factor')}, as asked for."
    of = f"{integer(shown)} of {integer(alive)}" if shown < alive else "All"
    return f"{of} factors that are active in some row, {orders[sheet.choice]}."


def frequency_histogram(frequencies: Float64Array) -> Plot | None:
    """Histogram of the living factors' frequency, on a logarithmic axis; None if all are dead.

    Args:
        frequencies: float64[m], shares of rows.
    """
    alive = frequencies[frequencies > 0]
    if alive.size == 0:
        return None
    low, high = float(alive.min()), float(alive.max())
    edges = np.geomspace(low / 1.02, high * 1.02, min(_BINS, max(1, alive.size)) + 1)
    counts, _ = np.histogram(alive, edges)
    with style.styled():
        figure, axes = style.new_axes(2.7)
        axes.bar(edges[:-1] * 100, counts, np.diff(edges) * 100, align="edge", color=style.SERIES[0][0], linewidth=0)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("rows with the factor (%)")
        axes.set_ylabel("factors")
        label = (
            f"Histogram of the frequencies of {count(alive.size, 'factor')}, from {percent(low, 3)} to "
            f"{percent(high, 1)} of the rows."
        )
        svg = style.inline_svg(figure, "frequencies", label)
    dead = int((frequencies == 0).sum())
    never = f"; {count(dead, 'dead factor')} (active in no row) not drawn" if dead else ""
    return Plot(
        "How frequent factors are",
        svg,
        f"At the left are the rare factors, which count for diversity, at the right those that many rows have{never}. "
        "A narrow heap is better: the factors share the work.",
    )
