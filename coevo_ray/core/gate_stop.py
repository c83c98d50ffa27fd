"""When the annotation gate stops (DESIGN 5.4): relative to the pool and the start, never by an absolute sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from coevo_ray.core.gate_config import GateConfig

StopReason = Literal["gain", "accuracy", "max_labels", "max_rounds", "exhausted"]


def stop_reason(
    config: GateConfig,
    *,
    candidates: int,
    labelled: int,
    rounds: int,
    mean_gain: float | None,
    first_gain: float | None,
    accuracies: Sequence[float],
) -> StopReason | None:
    """The first rule that says stop, or None.

    Args:
        config: the limits.
        candidates: rows that may be asked about, labelled ones included.
        labelled: labels so far.
        rounds: closed rounds.
        mean_gain: mean gain of the unlabelled candidates now; None before the first predictions.
        first_gain: the same when rows were first requested by gain; None before that.
        accuracies: measured accuracies in the order of rounds.
    """
    if labelled >= candidates:
        return "exhausted"
    if config.max_labels is not None and labelled >= config.max_labels:
        return "max_labels"
    if config.max_rounds is not None and rounds >= config.max_rounds:
        return "max_rounds"
    if first_gain is None or mean_gain is None:
        return None
    if mean_gain < config.relative_gain * first_gain or (mean_gain == 0 and config.relative_gain > 0):
        return "gain"
    # Accuracy is measured on few rows: it may end the run only where the gain speaks for that too.
    halved = mean_gain <= 0.5 * first_gain
    settled = accuracy_settled(accuracies, config.accuracy_patience, config.accuracy_tolerance)
    return "accuracy" if halved and settled else None


def accuracy_settled(accuracies: Sequence[float], patience: int, tolerance: float) -> bool:
    """Whether the last `patience` measurements brought no improvement over the best before them.

    The best is raised only by an improvement of more than the tolerance, so that many small steps add up to one.

    Args:
        accuracies: in the order of rounds.
        patience: rounds.
        tolerance: improvements up to it do not count.
    """
    best, waited = -np.inf, 0
    for accuracy in accuracies:
        if accuracy > best + tolerance:
            best, waited = accuracy, 0
        else:
            waited += 1
    return waited >= patience
