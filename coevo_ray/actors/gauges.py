"""The selection's figures as gauges of Ray, which Prometheus reads on every node."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

_WHAT = {
    "kept_share": "Share of the candidates that the latest selected epoch takes.",
    "never_used_share": "Share of the candidates that no committed epoch used.",
    "usage_spread": "Most minus least committed uses of a candidate.",
    "selection_seconds": "Seconds that the latest selection of an epoch took, journal included.",
}


class SelectionGauges:
    """Gauges `coevo_selection_NAME` (Ray puts `ray_` before) with the tags run and policy.

    Args:
        run: identity of the run.
        policy: name of its policy.
    """

    def __init__(self, run: str, policy: str) -> None:
        self._tags = {"run": run, "policy": policy}
        self._gauges = {
            name: Gauge(f"coevo_selection_{name}", description=what, tag_keys=("run", "policy"))
            for name, what in _WHAT.items()
        }

    def publish(self, figures: Mapping[str, float]) -> None:
        """Sets the gauges to `SelectionService.figures()`."""
        for name, gauge in self._gauges.items():
            gauge.set(figures[name], tags=self._tags)
