"""Drawing: lines, and bars per prior, in the common style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from coevo_ray.reporting import style
from coevo_ray.reporting.data import Curve, PriorPlot
from coevo_ray.reporting.wording import decimal, finite, integer, percent

Points = list[tuple[float, float]]
LOWEST_SHARE = -0.25  # shares below this are cut off, so that one bad start does not flatten the rest


def finite_points(curve: Curve) -> Points:
    """The points of a curve that were measured."""
    pairs = ((finite(x), finite(y)) for x, y in curve)
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def compact(value: float, _: object = None) -> str:
    """An axis number: 1500 -> 1,500, 20000 -> 20k, 2500000 -> 2.5M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):g}{unit}"
    return f"{value:,g}"


def _described(series: Iterable[tuple[str, int, Points]], scale: float) -> str:
    """The first and last point of each line in words."""
    parts = []
    for name, _, points in series:
        first, last = (percent(y) if scale == 100 else decimal(y, 3) for y in (points[0][1], points[-1][1]))
        parts.append(f"{name} from {first} at {integer(points[0][0])} to {last} at {integer(points[-1][0])}")
    return "; ".join(parts)


def lines(
    name: str,
    what: str,
    series: Sequence[tuple[str, int, Points]],
    labels: tuple[str, str],
    *,
    level: tuple[str, float | None] = ("", None),
    stop: tuple[float, float] | None = None,
    band: tuple[str, Sequence[tuple[float, float, float, float]]] = ("", ()),
    scale: float = 100.0,
    floor: float = LOWEST_SHARE,
) -> Markup:
    """Lines of (x, y * scale); optionally a horizontal level, a ring at the stop, a band (x, low, middle, high)."""
    with style.styled():
        figure, axes = style.new_axes()
        if band[1]:
            x, low, middle, high = zip(*band[1], strict=True)
            colour = style.SERIES[0][0]
            edges = ([y * scale for y in low], [y * scale for y in high])
            axes.fill_between(x, *edges, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, [y * scale for y in middle], color=colour, linewidth=1.4, linestyle=(0, (1, 2)))
        for _, slot, points in series:
            axes.plot([x for x, _ in points], [y * scale for _, y in points], **style.line_style(slot, len(points)))
        text = f"{what}: {_described(series, scale)}"
        if level[1] is not None:
            axes.axhline(level[1] * scale, color=style.MUTED[0], linewidth=1.4, linestyle=(0, (3, 3)))
            text += f"; {level[0]} {percent(level[1])}"
        if stop is not None:
            ring: dict[str, Any] = {
                "markersize": 12,
                "markerfacecolor": "none",
                "markeredgewidth": 1.6,
                "linestyle": "none",
            }
            axes.plot([stop[0]], [stop[1] * scale], marker="o", markeredgecolor=style.INK[0], **ring)
            text += f"; stop at {integer(stop[0])}"
        if band[1]:
            last = band[1][-1]
            between = f"{percent(last[2])} ({percent(last[1])} to {percent(last[3])})"
            text += f"; {band[0]} {between} at {integer(last[0])}"
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(compact))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if scale == 100.0:
            _share_axis(axes, 100 * floor)
        return style.inline_svg(figure, name, f"{text}.")


def _share_axis(axes: Axes, floor: float) -> None:
    """Keeps an axis of shares in per cent between `floor` and 100."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, floor), min(max(high, floor + 1), 102))


def prior_bars(
    name: str, what: str, priors: Sequence[PriorPlot], values: list[float | None], axis: str, end: float
) -> Markup:
    """Horizontal bars from 0, each under its prior's name and value; the axis reaches at least from 0 to `end`."""
    known = [value for value in values if value is not None]
    with style.styled():
        figure, axes = style.new_axes(0.8 + 0.58 * len(priors))
        for row, (prior, value) in enumerate(zip(priors, values, strict=True)):
            slot = 0 if prior.reference else 5
            axes.plot([0, 0], [-row - 0.2, -row + 0.2], color=style.MUTED[0], linewidth=1)
            if value is not None:
                axes.barh(-row, value, height=0.3, color=style.SERIES[slot][0])
            at: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "bottom"}
            note = " (reference)" if prior.reference else ""
            axes.text(0.01, 0.21 - row, style.drawable(prior.name, 32) + note, ha="left", **at)
            axes.text(0.99, 0.21 - row, style.value_text(value), ha="right", **at)
        low, high = min(0.0, *known), max(0.0, end, *known)
        axes.set_xlim(low, high if high > low else low + 1.0)
        axes.set_ylim(-len(priors) + 0.7, 0.65)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.set_xlabel(axis)
        axes.spines["left"].set_visible(False)
        texts = [f"{p.name} {decimal(v) if v is not None else 'none'}" for p, v in zip(priors, values, strict=True)]
        return style.inline_svg(figure, name, f"Bar plot of {what} per prior: {'; '.join(texts)}.")
