"""The battery's part on the stop: its figures on made rounds against doing it by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.battery import stop
from benchmarks.battery.stop import Round
from coevo_ray.core.gate.forecast import Forecast, Measured, Usual, potential

TOTAL, ROWS = 900, 1000


def rounds_of(kappa: float, end: float, stops_at: int = 300) -> list[Round]:
    """A gate of accuracy end - kappa M, whose mean gain falls in proportion to the rows left."""
    found, panel = [], list[Measured]()
    for labels in range(50, 650, 50):
        told = round(0.9 * labels)
        left = potential(told / TOTAL, 0.5 * (1 - told / TOTAL))
        right = np.arange(100) < 100 * (end - kappa * left)
        panel = [*panel, Measured(told, left, right)]
        reason = "tolerance" if labels >= stops_at else None
        found.append(Round(labels, told, end - kappa * left, end - kappa * left / 2, reason, panel, TOTAL))
    return [*found, Round(ROWS, TOTAL, end, end, "exhausted", [], TOTAL)]


def test_what_is_usual_is_found_again() -> None:
    usual = stop.usual_of([rounds_of(0.2, 0.9), rounds_of(0.2, 0.8), rounds_of(0.4, 0.95)])
    assert usual.kappa == pytest.approx(0.2, rel=1e-6) and usual.later == pytest.approx(1.0, rel=1e-6)
    assert usual.spread == pytest.approx(np.std([math.log(0.2), math.log(0.2), math.log(0.4)]), rel=1e-6)


def test_a_forecast_is_judged_at_the_first_round_with_its_share() -> None:
    runs = [rounds_of(0.2, 0.9), rounds_of(0.1, 0.8)]
    for share, index in ((0.1, 1), (0.3, 5)):
        found = stop._judged(runs, share, Usual())
        for seed, rounds in enumerate(runs):
            at = rounds[index]
            gain = Forecast.of(at.measured, TOTAL).gain(TOTAL)
            assert found["came"][seed] == pytest.approx(rounds[-1].accuracy - at.accuracy)
            assert (found["low"][seed], found["middle"][seed], found["high"][seed]) == tuple(gain)
            assert found["held"][seed] == (gain.low <= found["came"][seed] <= gain.high)
    assert sum(stop._judged(runs, 0.1, Usual(kappa=3.0, spread=0.05))["held"]) == 0  # far off, and sure of it


def test_the_end_is_the_first_round_that_stops() -> None:
    table = stop._ends([rounds_of(0.2, 0.9), rounds_of(0.2, 0.9, stops_at=400)])
    assert table["share"]["values"] == [0.3, 0.4] and table["stopped_by"] == ["tolerance", "tolerance"]
    at = rounds_of(0.2, 0.9)[5]
    assert table["lost"]["values"][0] == pytest.approx(0.9 - at.accuracy, abs=1e-4)  # as cells round
    assert table["at_0.3"]["values"] == pytest.approx([at.everything] * 2, abs=1e-4)


def test_shares_that_held_are_over_all_pools_and_seeds() -> None:
    cell = {"held": [True, False], "level_held": [True, True]}
    other = {"held": [True, True], "level_held": [False, False]}
    shares = [str(share) for share in stop.SHARES]
    found = stop.held({"a": {"clean": dict.fromkeys(shares, cell)}, "b": {"clean": dict.fromkeys(shares, other)}})
    assert found == {"held": dict.fromkeys(shares, 0.75), "level_held": dict.fromkeys(shares, 0.5)}
