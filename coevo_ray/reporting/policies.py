"""The trainings of a run as rows: the summary's figures where it has them, else those of the plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coevo_ray.reporting.data import PolicyPlot, ReportData, TrainPlots
from coevo_ray.reporting.wording import finite, lookup, number


@dataclass(frozen=True)
class PolicyRow:
    """One training; `own` marks the policy that the headline is about, `full` the one with all rows."""

    name: str
    own: bool
    full: bool
    kept_share: float | None
    accuracy: float | None
    samples: float | None
    seconds: float | None


def policy_rows(data: ReportData) -> list[PolicyRow]:
    """One row for each policy, in the plots' order, then those that only the summary has."""
    plots = data.train if data.train is not None else TrainPlots(())
    drawn = {policy.name: policy for policy in plots.policies}
    listed = lookup(data.summary, "train")
    names = [*drawn, *(name for name in (listed if isinstance(listed, Mapping) else {}) if name not in drawn)]
    return [_row(data, name, drawn.get(name, PolicyPlot(name)), plots) for name in names]


def headline_row(rows: list[PolicyRow]) -> PolicyRow | None:
    """The run's own policy, or else the first one that does not use all rows, or else the first."""
    return next((r for r in rows if r.own), next((r for r in rows if not r.full), rows[0] if rows else None))


def _row(data: ReportData, name: str, plot: PolicyPlot, plots: TrainPlots) -> PolicyRow:
    def figure(key: str, other: float | None) -> float | None:
        summarised = number(data.summary, "train", name, key)
        return finite(other) if summarised is None else summarised

    return PolicyRow(
        name=name,
        own=name == plots.own,
        full=name == plots.full,
        kept_share=finite(plot.kept_share),
        accuracy=figure("accuracy", plot.accuracy),
        samples=figure("samples", plot.samples),
        seconds=figure("seconds", plot.seconds),
    )
