"""The forecast of further labels: its formulas against plain sums, and whether its intervals hold on made curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.gate.forecast import Forecast, Measured, Usual, potential
from coevo_ray.errors import UsageError

TOTAL = 4000


def measured_at(counts: list[int], kappa: float, rows: int, seed: int, final: float = 0.9) -> list[Measured]:
    """Rounds of a gate whose accuracy is final - kappa M, with a mean gain that falls in proportion to rows left."""
    random = np.random.default_rng(seed)
    level = random.random(rows)  # a row is right once the accuracy has reached its level
    found = []
    for labels in counts:
        left = potential(labels / TOTAL, 0.6 * (1 - labels / TOTAL))
        found.append(Measured(labels, left, level < final - kappa * left))
    return found


def test_potential_is_the_integral_of_a_gain_that_falls_with_the_rows_left() -> None:
    labels, gain = 400, 0.5
    points = np.linspace(math.log(labels), math.log(TOTAL), 200_001)
    falling = gain * (1 - np.exp(points) / TOTAL) / (1 - labels / TOTAL)
    step = points[1] - points[0]
    integral = float(((falling[1:] + falling[:-1]) / 2).sum() * step)
    assert potential(labels / TOTAL, gain) == pytest.approx(integral, rel=1e-6)
    assert potential(1.0, gain) == 0.0


@given(kappa=st.floats(0.05, 0.5), seed=st.integers(0, 99))
def test_many_rows_tell_kappa_whatever_is_usual(kappa: float, seed: int) -> None:
    """With the spread of the usual at nothing, the forecast is what the made curve does."""
    rounds = measured_at([200, 320, 440, 560, 680, 800], kappa, 20_000, seed, final=0.95)
    sharp = Usual(kappa=0.2, spread=3.0, later=1.0, factor=0.02, points=1e-6)
    forecast = Forecast.of(rounds, TOTAL, sharp)
    for labels in (800, 1500, TOTAL):
        came = kappa * (rounds[-1].potential - potential(labels / TOTAL, 0.6 * (1 - labels / TOTAL)))
        assert forecast.gain(labels).middle == pytest.approx(came, rel=0.12, abs=2e-3)


def test_without_validation_rows_the_usual_decides() -> None:
    rounds = measured_at([200, 320], 0.4, 0, 0)
    forecast = Forecast.of(rounds, TOTAL)
    assert forecast.accuracy is None and forecast.accuracy_at(TOTAL) is None
    assert forecast.gain(TOTAL).middle == pytest.approx(Usual().kappa * rounds[-1].potential, rel=0.05)


def test_nine_of_ten_intervals_hold_where_the_usual_is_right() -> None:
    """Kappas as usual; a few hundred runs of sixty validation rows each."""
    held, runs, usual = [], 300, Usual()
    random = np.random.default_rng(5)
    for seed in range(runs):
        kappa = usual.kappa * math.exp(usual.spread * random.standard_normal())
        rounds = measured_at([200, 320, 440, 560], min(kappa / usual.later, 0.6), 60, seed, final=0.97)
        forecast = Forecast.of(rounds, TOTAL)
        came = min(kappa, 0.6 * usual.later) * math.exp(usual.factor * random.standard_normal()) * rounds[-1].potential
        gain = forecast.gain(TOTAL)
        held.append(gain.low <= came + usual.points * random.standard_normal() <= gain.high)
    assert 0.85 <= np.mean(held) <= 0.97


def test_an_interval_narrows_as_rows_and_rounds_come() -> None:
    def width(counts: list[int], rows: int) -> float:
        gain = Forecast.of(measured_at(counts, 0.15, rows, 3), TOTAL).gain(TOTAL)
        return gain.high - gain.low

    assert width([200, 320, 440, 560], 4000) < width([200, 320, 440, 560], 40) < width([200, 320], 40)
    assert width([200, 3000], 400) < 0.1 * width([200, 320], 400)


@given(
    counts=st.lists(st.integers(10, TOTAL - 1), min_size=1, max_size=6, unique=True).map(sorted),
    rows=st.integers(0, 30),
    seed=st.integers(0, 9),
)
def test_more_labels_never_foretell_less(counts: list[int], rows: int, seed: int) -> None:
    forecast = Forecast.of(measured_at(counts, 0.2, rows, seed), TOTAL)
    now = counts[-1]
    assert tuple(forecast.gain(now)) == (0.0, 0.0, 0.0)
    middles = [forecast.gain(n).middle for n in np.unique(np.linspace(now, TOTAL, 5).astype(int))]
    assert middles == sorted(middles)
    interval = forecast.gain(TOTAL)
    assert interval.low <= interval.middle <= interval.high
    if (level := forecast.accuracy_at(TOTAL)) is not None:
        assert 0 <= level.low <= level.middle <= level.high <= 1


@given(left=st.floats(0.001, 0.2))
def test_labels_until_is_the_first_number_that_leaves_less(left: float) -> None:
    rounds = measured_at([200, 320, 440], 0.2, 50, 1)
    forecast = Forecast.of(rounds, TOTAL)
    found = forecast.labels_until(left)
    middle = np.interp(0.5, np.cumsum(forecast.weight) - forecast.weight / 2, forecast.kappa)

    def remaining(labels: int) -> float:
        return float(middle) * potential(labels / TOTAL, forecast.scale * (1 - labels / TOTAL))

    plain = next((n for n in range(forecast.labels, TOTAL) if remaining(n) < left), TOTAL)
    assert found == plain


def test_what_cannot_be_foretold_is_refused() -> None:
    with pytest.raises(UsageError, match="learned nothing"):
        Forecast.of([], TOTAL)
    forecast = Forecast.of(measured_at([200, 320], 0.2, 5, 0), TOTAL)
    for labels in (319, TOTAL + 1):
        with pytest.raises(UsageError, match="ask for 320 to 4000"):
            forecast.gain(labels)
        with pytest.raises(UsageError, match="ask for 320 to 4000"):
            forecast.accuracy_at(labels)
