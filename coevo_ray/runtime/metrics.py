"""Sends a run's figures to `ray.util.metrics`, from where Prometheus scrapes them on every node.

Ray exports each 10 s (`RAY_metrics_report_interval_ms`) and puts `ray_` before the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from ray.util.metrics import Counter, Gauge, Histogram

from coevo_ray.telemetry import Metric


class RayMetrics:
    """A `telemetry.Receiver`; one for each connection to Ray. A figure that cannot be sent is left out."""

    def __init__(self) -> None:
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """See `telemetry.Receiver.record`."""
        with suppress(Exception):  # whatever Ray raises while it ends: a figure is no reason to stop work
            made = self._made.get(metric.name)
            if made is None:
                made = self._made[metric.name] = _made(metric)
            if isinstance(made, Counter):
                made.inc(value, tags=dict(tags))
            elif isinstance(made, Gauge):
                made.set(value, tags=dict(tags))
            else:
                made.observe(value, tags=dict(tags))


def _made(metric: Metric) -> Counter | Gauge | Histogram:
    if metric.kind == "counter":
        return Counter(metric.name, description=metric.text, tag_keys=metric.tags)
    if metric.kind == "gauge":
        return Gauge(metric.name, description=metric.text, tag_keys=metric.tags)
    return Histogram(metric.name, description=metric.text, boundaries=list(metric.bounds), tag_keys=metric.tags)
