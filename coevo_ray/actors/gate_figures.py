"""Publishes a gate's figures; without a receiver nothing is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.core.arrays import IntArray
from coevo_ray.core.gate import readings
from coevo_ray.core.json import JsonObject
from coevo_ray.telemetry import (
    GATE_ACCURACY,
    GATE_DECISIONS,
    GATE_FORECAST,
    GATE_GAIN,
    GATE_LABELS,
    GATE_NEXT_GAIN,
    GATE_REQUESTS,
    GATE_ROUNDS,
    GATE_STOPPED,
    is_received,
    record,
)

if TYPE_CHECKING:
    from coevo_ray.core.gate.gate import AnnotationGate


def publish_counts(gate: AnnotationGate) -> None:
    """Publishes labels, open requests and rounds."""
    if is_received():
        record(GATE_LABELS, gate.labelled_rows)
        record(GATE_REQUESTS, gate.outstanding)
        record(GATE_ROUNDS, gate.rounds)


def publish_learned(gate: AnnotationGate, learned: JsonObject) -> None:
    """Publishes what changes with the model.

    Args:
        gate: the gate, with the model's predictions.
        learned: the last entry of its history.
    """
    if not is_received():
        return
    record(GATE_GAIN, gate.mean_gain)
    record(GATE_ACCURACY, learned.get("accuracy"))
    record(GATE_STOPPED, float(gate.stopped_by is not None))
    forecast = readings.forecast(gate.inner) or {}
    for metric, name in ((GATE_FORECAST, "gain"), (GATE_NEXT_GAIN, "next_gain")):
        quantiles = forecast.get(name)
        record(metric, None if quantiles is None else quantiles[1])


def publish_decisions(action: IntArray) -> None:
    """Counts decisions on arriving rows.

    Args:
        action: int8[b], as in `core.gate.online.Decisions`.
    """
    if not is_received():
        return
    from coevo_ray.core.gate.online import ACTIONS  # loads torch, which commands that only look at a gate do without

    for place, count in enumerate(np.bincount(action, minlength=len(ACTIONS))):
        record(GATE_DECISIONS, int(count), action=ACTIONS[place])
