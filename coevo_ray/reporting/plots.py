"""The plots of a report: each takes the numbers of a stage and returns a `Plot`, or None where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from coevo_ray.reporting import style
from coevo_ray.reporting.data import EncodePlots, GatePlots, PolicyPlot, SaePlots, TrainPlots
from coevo_ray.reporting.drawing import LOWEST_SHARE, Points, compact, finite_points, lines, prior_bars
from coevo_ray.reporting.wording import count, decimal, finite, integer, percent


@dataclass(frozen=True)
class Legend:
    """One entry: a picture of the line and what it stands for."""

    swatch: Markup
    label: str


@dataclass(frozen=True)
class Plot:
    """A drawing with its heading, its legend and the sentence that says how to read it."""

    title: str
    svg: Markup
    reading: str
    legend: tuple[Legend, ...] = ()


def uniformity(plots: EncodePlots) -> Plot | None:
    """Uniformity V_k per prior, as bars."""
    values = [finite(p.uniformity) for p in plots.priors]
    if all(value is None for value in values):
        return None
    return Plot(
        "Uniformity per prior",
        prior_bars("uniformity", "uniformity", plots.priors, values, "uniformity (log mean, lower is better)", 0.0),
        "Lower is better: a longer bar to the left means that the prior spreads the rows more evenly.",
    )


def alignment(plots: EncodePlots) -> Plot | None:
    """Held-out R^2 of each prior's map to the latent or the reference; nothing where only a reference has a value."""
    values = [finite(p.alignment_r2) for p in plots.priors]
    if all(value is None or prior.reference for prior, value in zip(plots.priors, values, strict=True)):
        return None
    axis = "alignment R² (held-out rows, higher is better)"
    whole = "reference's" if any(prior.reference for prior in plots.priors) else "latent's"
    return Plot(
        "Alignment per prior",
        prior_bars("alignment", "alignment R²", plots.priors, values, axis, 1.0),
        f"Higher is better: 1 means that the prior's vectors match the {whole} exactly, 0 that they say no more "
        f"than the {whole} mean.",
    )


def frequencies(plots: SaePlots, active: float | None) -> Plot | None:
    """Factor frequencies p_j, sorted, on a log axis; `active` is the number k of active factors of a row."""
    values = np.sort(np.asarray(plots.factor_frequencies, dtype=np.float64).ravel())[::-1]
    values = values[np.isfinite(values)]
    alive = values[values > 0]
    if alive.size == 0:
        return None
    dead = values.size - alive.size
    shown = np.unique(np.geomspace(1, alive.size, 200).round().astype(int)) - 1
    shown = np.union1d(shown, np.linspace(0, alive.size - 1, min(alive.size, 200)).round().astype(int))
    with style.styled():
        figure, axes = style.new_axes()
        axes.plot(shown + 1, alive[shown] * 100, color=style.SERIES[0][0], marker="o" if alive.size == 1 else "")
        if active:
            axes.axhline(100 * active / values.size, color=style.MUTED[0], linewidth=1.4, linestyle=(0, (3, 3)))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
        axes.set_xlim(0, values.size + 1)
        axes.xaxis.set_major_formatter(FuncFormatter(compact))
        axes.set_xlabel("factors, most frequent first")
        axes.set_ylabel("rows with the factor (%)")
        label = (
            f"Line plot of the frequency of {count(alive.size, 'factor')}, sorted: from {percent(float(alive[0]), 2)} "
            f"of the rows down to {percent(float(alive[-1]), 3)}; {integer(dead)} of {integer(values.size)} are dead."
        )
        svg = style.inline_svg(figure, "frequencies", label)
    verb = "is" if dead == 1 else "are"
    never = f"{integer(dead)} of {count(values.size, 'factor')} {verb} dead (active in no row) and not drawn; "
    return Plot(
        "Factor frequencies",
        svg,
        "A flatter curve is better: the factors share the work. At the right are the rare factors. "
        + (never + "fewer is better." if dead else "No factor is dead."),
        _legend((style.plain_swatch(0), "factors"), (style.dashed_swatch(), "all used equally" if active else "")),
    )


def explained_variance(plots: SaePlots) -> Plot | None:
    """Explained variance while the sparse autoencoder is fitted."""
    points = finite_points(plots.explained_variance)
    if not points:
        return None
    svg = lines(
        "explained-variance",
        "Line plot of explained variance against samples seen",
        [("explained variance", 0, points)],
        ("samples seen by the fit", "explained variance (%)"),
    )
    cut = " Values below \N{MINUS SIGN}25 % are cut off." if min(y for _, y in points) < LOWEST_SHARE else ""
    return Plot(
        "Explained variance during the fit",
        svg,
        f"Higher is better; a curve that still climbs at its end would gain from more epochs.{cut}",
    )


def labels_curve(plots: GatePlots) -> Plot | None:
    """Accuracy against labels for the gate and for random labels, with all labels as a line and the stop marked."""
    gate, chance, first = finite_points(plots.gate), finite_points(plots.random), finite_points(plots.first)
    full = finite(plots.full_accuracy)
    if not gate and not chance and not first and not plots.forecast:
        return None
    stop = _stop(plots, gate)
    drawn = (("gate", 0, gate), ("random labels", 1, chance), (plots.first_name, 2, first))
    series = [(name, slot, data) for name, slot, data in drawn if data]
    svg = lines(
        "labels",
        "Line plot of accuracy against labels",
        series,
        ("labels", "accuracy (%)"),
        level=("all labels", full),
        stop=stop,
        band=("forecast", plots.forecast),
    )
    entries = [(style.line_swatch(slot), name) for name, slot, _ in series]
    if full is not None:
        entries.append((style.dashed_swatch(), "all labels"))
    if stop is not None:
        entries.append((style.ring_swatch(), f"stop, {count(stop[0], 'label')}"))
    if plots.forecast:
        entries.append((style.band_swatch(), "forecast, and its 90 % interval"))
    return Plot(
        "Labels against accuracy",
        svg,
        "Higher and further left is better: more accuracy for fewer labels. The accuracy axis does not start at 0.",
        _legend(*entries),
    )


def mean_gain(plots: GatePlots) -> Plot | None:
    """Mean gain of the rows without a label, per round."""
    points = finite_points(plots.mean_gain)
    if not points:
        return None
    gate = finite_points(plots.gate)
    ended = plots.ended and _stop(plots, gate) == (gate[-1] if gate else None)
    svg = lines(
        "gain",
        "Line plot of mean gain against rounds",
        [("mean gain", 0, points)],
        ("round", "mean gain per unlabelled row"),
        stop=points[-1] if ended else None,
        scale=1.0,
    )
    return Plot(
        "Expected gain per round",
        svg,
        "Lower means that less can be gained by asking: the gate expects this much confidence from one more label.",
        _legend((style.line_swatch(0), "mean gain"), (style.ring_swatch(), "stop" if ended else "")),
    )


def policies_curve(plots: TrainPlots) -> Plot | None:
    """Accuracy against samples seen, one line for each policy."""
    slots = policy_slots(plots)
    series = [(p.name, slots[p.name], finite_points(p.accuracy_by_samples)) for p in plots.policies]
    series = [entry for entry in series if entry[2]]
    if not series:
        return None
    floor = _floor([points for _, _, points in series])
    svg = lines(
        "policies",
        "Line plot of test accuracy against samples seen",
        series,
        ("samples seen", "test accuracy (%)"),
        floor=floor,
    )
    cut = min(y for _, _, points in series for _, y in points) < floor
    axis = f"accuracies below {percent(floor, 0)} are cut off" if cut else "the accuracy axis does not start at 0"
    return Plot(
        "Accuracy against samples seen",
        svg,
        "Higher and further left is better: more accuracy for fewer samples. A line ends where its training ended; "
        f"{axis}.",
        _legend(*((style.line_swatch(slot), name) for name, slot, _ in series)),
    )


def usage(plots: TrainPlots) -> Plot | None:
    """Histograms of row usage, one small one per policy."""
    slots = policy_slots(plots)
    shown = [(p, histogram) for p in plots.policies if (histogram := _histogram(p))]
    if not shown:
        return None
    highest = max(max(histogram) for _, histogram in shown)
    texts = []
    with style.styled():
        figure = style.new_figure(0.62 + 0.86 * len(shown))
        grid = figure.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, (policy, histogram) in zip(grid, shown, strict=True):
            rows = sum(histogram.values())
            spread = _used(histogram)
            axes.bar(
                list(histogram),
                [100 * n / rows for n in histogram.values()],
                width=0.8 if highest < 40 else 1.0,
                color=style.SERIES[slots[policy.name] % len(style.SERIES)][0],
            )
            axes.set_title(style.drawable(policy.name, 24), loc="left")
            axes.set_title(spread, loc="right", fontsize=9.5, color=style.MUTED[0])
            axes.set_ylim(0, 100)
            axes.set_yticks([0, 50, 100])
            texts.append(f"{policy.name} {spread}")
        grid[-1].set_xlim(-0.6, highest + 0.6)
        grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[-1].set_xlabel("times that a row was used")
        figure.supylabel("rows (%)", fontsize=10.5)
        svg = style.inline_svg(figure, "usage", f"Histograms of how often rows were used: {'; '.join(texts)}.")
    return Plot(
        "How often rows were used",
        svg,
        "At the same kept share a narrower histogram is better: the rows take turns. A bar at 0 is rows that no epoch "
        "used.",
    )


def policy_slots(plots: TrainPlots) -> dict[str, int]:
    """The colour slot of each policy: the run's own, full and random always have the same."""
    fixed = {plots.own: 0, plots.full: 5, "random": 1}
    free = [2, 3, 4, 6, 7, *range(8, 8 + len(plots.policies))]
    slots: dict[str, int] = {}
    for policy in plots.policies:
        if policy.name not in slots:
            slots[policy.name] = fixed[policy.name] if policy.name in fixed else free.pop(0)
    return slots


def _used(histogram: Mapping[int, int]) -> str:
    used = [times for times, rows in histogram.items() if rows]
    low, high = min(used), max(used)
    mean = sum(times * rows for times, rows in histogram.items()) / sum(histogram.values())
    return count(low, "time") if low == high else f"{low} to {high} times, mean {decimal(mean, 1)}"


def _histogram(policy: PolicyPlot) -> dict[int, int]:
    return {int(times): int(rows) for times, rows in sorted(policy.usage_histogram.items()) if rows > 0}


def _floor(curves: list[Points]) -> float:
    """Start of the accuracy axis, chosen so that the first epochs do not flatten the differences at the end."""
    ends = [points[-1][1] for points in curves]
    best = max(y for points in curves for _, y in points)
    return math.floor(20 * max(best - 4 * (best - min(ends)) - 0.1, 0)) / 20


def _stop(plots: GatePlots, gate: Points) -> tuple[float, float] | None:
    """The gate's stopping point: the last one that is not beyond `stopped_at`; None while it goes on."""
    if not plots.ended:
        return None
    limit = finite(plots.stopped_at)
    before = [point for point in gate if limit is None or point[0] <= limit]
    return before[-1] if before else None


def _legend(*entries: tuple[Markup, str]) -> tuple[Legend, ...]:
    return tuple(Legend(swatch, label) for swatch, label in entries if label)
