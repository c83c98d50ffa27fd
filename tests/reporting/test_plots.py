"""Plots: what they leave out, what they say, and that they can live on one page."""

from __future__ import annotations

import re

import numpy as np
import pytest

from coevo_ray.reporting import plots, style
from coevo_ray.reporting.data import EncodePlots, GatePlots, PolicyPlot, PriorPlot, SaePlots, TrainPlots
from tests.reporting._example import Page

NAN = float("nan")


def coordinates(svg: str, colour: str) -> list[tuple[float, float]]:
    """The corners of the first line drawn in a colour."""
    path = re.search(rf'd="([^"]*)" [^>]*style="fill: none; stroke: var\(--{colour}\)', svg)
    assert path is not None
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path.group(1))]


def test_curve_goes_through_the_points_in_proportion() -> None:
    plot = plots.labels_curve(GatePlots([(100, 0.5), (200, 0.6), (400, 0.9)], full_accuracy=0.95))
    assert plot is not None
    (x0, y0), (x1, y1), (x2, y2) = coordinates(plot.svg, "series-0")
    assert (x1 - x0) / (x2 - x0) == pytest.approx(100 / 300, abs=1e-4)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.1 / 0.4, abs=1e-4)
    assert y2 < y0  # SVG's y goes down


def test_points_that_were_not_measured_are_left_out() -> None:
    plot = plots.labels_curve(GatePlots([(100, 0.5), (200, NAN), (300, None), (400, 0.9)]))
    assert plot is not None
    assert len(coordinates(plot.svg, "series-0")) == 2


@pytest.mark.parametrize(
    ("at", "stop"), [(None, "stop, 400 labels"), (250, "stop, 200 labels"), (200, "stop, 200 labels")]
)
def test_stop_is_marked(at: float | None, stop: str) -> None:
    plot = plots.labels_curve(GatePlots([(100, 0.5), (200, 0.6), (400, 0.9)], stopped_at=at))
    assert plot is not None
    assert stop in [entry.label for entry in plot.legend]


def test_frequencies_are_sorted_and_dead_factors_stated() -> None:
    frequencies = np.array([0.01, 0.0, 0.5, 0.1, NAN])
    plot = plots.frequencies(SaePlots(frequencies), 2)
    assert plot is not None
    heights = [y for _, y in coordinates(plot.svg, "series-0")]
    assert heights == sorted(heights) and len(heights) == 3
    step = np.diff(heights)
    assert step[1] / step[0] == pytest.approx(np.log(0.1 / 0.01) / np.log(0.5 / 0.1), abs=1e-3)
    assert "1 of 4 factors is dead" in plot.reading


def test_order_of_frequencies_does_not_matter() -> None:
    values = np.random.default_rng(0).random(50)
    assert plots.frequencies(SaePlots(values), 4) == plots.frequencies(SaePlots(values[::-1]), 4)


def test_many_factors_make_a_small_plot() -> None:
    plot = plots.frequencies(SaePlots(np.random.default_rng(0).random(65_536)), 32)
    assert plot is not None
    assert len(plot.svg) < 60_000


def test_low_start_is_cut_off_and_said_so() -> None:
    plot = plots.explained_variance(SaePlots(np.ones(3), [(1, -50.0), (2, 0.5), (3, 0.9)]))
    assert plot is not None
    assert "cut off" in plot.reading
    plain = plots.explained_variance(SaePlots(np.ones(3), [(1, 0.1), (2, 0.5), (3, 0.9)]))
    assert plain is not None
    assert "cut off" not in plain.reading


def test_accuracies_far_below_the_end_are_cut_off_and_said_so() -> None:
    plot = plots.policies_curve(TrainPlots([PolicyPlot("full", [(1, 0.1), (2, 0.9), (3, 0.95)])]))
    assert plot is not None
    assert "accuracies below 85\N{NO-BREAK SPACE}% are cut off" in plot.reading


def test_usage_says_how_often_rows_were_used() -> None:
    histograms = TrainPlots([PolicyPlot("a", usage_histogram={5: 10}), PolicyPlot("b", usage_histogram={0: 5, 4: 15})])
    plot = plots.usage(histograms)
    assert plot is not None
    assert "a 5 times; b 0 to 4 times, mean 3.0" in plot.svg


@pytest.mark.parametrize(
    "plot",
    [
        plots.uniformity(EncodePlots([PriorPlot("a", None, 0.5, 1, 1.0)])),
        plots.uniformity(EncodePlots([])),
        plots.alignment(EncodePlots([PriorPlot("a", -1.0, 1.0, 1, 1.0, reference=True)])),
        plots.frequencies(SaePlots(np.zeros(4)), 2),
        plots.frequencies(SaePlots(np.zeros(0)), None),
        plots.explained_variance(SaePlots(np.ones(4))),
        plots.labels_curve(GatePlots([])),
        plots.mean_gain(GatePlots([(1, 0.5)])),
        plots.policies_curve(TrainPlots([PolicyPlot("a")])),
        plots.usage(TrainPlots([PolicyPlot("a", usage_histogram={3: 0})])),
    ],
)
def test_nothing_measured_makes_no_plot(plot: plots.Plot | None) -> None:
    assert plot is None


def test_extreme_numbers_are_drawn() -> None:
    priors = [PriorPlot("a", 0.0, -3.0, 1, 1.0), PriorPlot("b" * 99, 0.5, NAN, 1, 1.0)]
    for plot in (plots.uniformity(EncodePlots(priors)), plots.alignment(EncodePlots(priors))):
        assert plot is not None
        assert Page(plot.svg).tags[0] == "svg"
    assert plots.frequencies(SaePlots(np.array([1.0])), 1) is not None
    assert plots.usage(TrainPlots([PolicyPlot("a", usage_histogram={0: 1, 300: 2})])) is not None


def test_series_differ_without_colour() -> None:
    looks = {(look["marker"], str(look["linestyle"])) for look in (style.line_style(slot, 1) for slot in range(8))}
    assert len(looks) == 8


def test_slots_are_stable_and_distinct() -> None:
    names = ["full", "full_budget", "static_random", "random", "rotation", "scored", "factors", "infobatch"]
    slots = plots.policy_slots(TrainPlots([PolicyPlot(name) for name in names]))
    assert (slots["factors"], slots["random"], slots["full"]) == (0, 1, 5)
    assert len(set(slots.values())) == len(names)


@pytest.mark.parametrize("pairs", [style.SERIES, (style.INK, style.MUTED)])
@pytest.mark.parametrize(("scheme", "page"), [(0, "#ffffff"), (1, "#14181d")])
def test_colours_have_contrast_on_their_page(pairs: tuple[tuple[str, str], ...], scheme: int, page: str) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for pair in pairs:
        low, high = sorted((luminance(pair[scheme]), luminance(page)))
        assert (high + 0.05) / (low + 0.05) >= 3.0, pair  # WCAG 1.4.11


def test_a_users_own_matplotlib_settings_change_nothing() -> None:
    import matplotlib

    data = GatePlots([(100, 0.5), (200, 0.6)])
    before = plots.labels_curve(data)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "none"}):
        assert plots.labels_curve(data) == before
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize(("at", "marked"), [(None, True), (200, True), (100, False)])
def test_gain_marks_the_stop_only_where_the_curve_ends_with_it(at: float | None, marked: bool) -> None:
    plot = plots.mean_gain(GatePlots([(100, 0.5), (200, 0.6)], mean_gain=[(0, 0.4), (1, 0.2)], stopped_at=at))
    assert plot is not None
    assert ("stop" in [entry.label for entry in plot.legend]) == marked
