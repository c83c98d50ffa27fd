"""The gate's stop (docs/design.md#gate-stop): relative to the pool and the start, never by an absolute sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from coevo_ray.core.gate.config import GateConfig
from coevo_ray.core.gate.forecast import Forecast

_BACK = 3  # the slope is taken since there were so many times fewer labels

StopReason = Literal["gain", "tolerance", "cost", "validation", "max_labels", "max_rounds", "exhausted"]


def stop_terms(config: GateConfig) -> list[float | None]:
    """The settings that a stop follows from: one that was noted under others does not count."""
    terms = [config.max_labels, config.max_rounds, config.relative_gain, config.loss_tolerance, config.loss_rounds]
    if config.validated_share > 0:  # states of version 0.1.0 have the former ones alone
        terms += [config.accuracy_tolerance, config.cost_per_label, config.worth_per_point]
    return terms


def stop_reason(
    config: GateConfig,
    *,
    candidates: int,
    worthwhile: int,
    labelled: int,
    rounds: int,
    mean_gain: float | None,
    first_gain: float | None,
    measured: Sequence[tuple[float, float]],
    forecast: Forecast | None,
) -> StopReason | None:
    """The first rule that says stop, or None.

    Args:
        config: the limits.
        candidates: rows that may be asked about, labelled ones included.
        worthwhile: candidates, labelled ones included, without the near-duplicates of labelled ones.
        labelled: labels so far.
        rounds: closed rounds.
        mean_gain: mean gain of the unlabelled candidates now; None before the first predictions.
        first_gain: the same when rows were first requested by gain; None before that.
        measured: labels and the cross-entropy measured with them, in the order of rounds.
        forecast: of further labels; None where no rows are kept for validation.
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
    if config.validated_share > 0:
        return None if forecast is None else _by_forecast(config, forecast)
    left = loss_left(measured, worthwhile, config.loss_rounds)
    return "validation" if left is not None and left < config.loss_tolerance else None


def _by_forecast(config: GateConfig, forecast: Forecast) -> StopReason | None:
    """By what further labels are worth: all of them, and those of the next round."""
    if forecast.gain(forecast.total).middle < config.accuracy_tolerance:
        return "tolerance"
    if config.cost_per_label is None or config.worth_per_point is None:
        return None
    taught = min(round((1.0 - config.validated_share) * config.round_size), forecast.total - forecast.labels)
    points = 100.0 * forecast.gain(forecast.labels + taught).middle
    # Labels are worth less and less: where the next round does not pay, none after it does.
    return "cost" if points * config.worth_per_point < config.cost_per_label * config.round_size else None


def loss_left(measured: Sequence[tuple[float, float]], candidates: int, rounds: int) -> float | None:
    """The cross-entropy that labelling every candidate would still remove, at the latest rate.

    The slope of the loss against log(labels), by least squares, times log(candidates / labels). It is taken over the
    latest rounds, and further back over all since there were a third of the labels: over the latest few alone the gate
    stopped anywhere between 38 and 59 % of CIFAR-10's labels, so between 50 and 54 %. Curves flatten, so it is an upper
    estimate. Cross-entropy on a slice of random labels is far smoother than accuracy there: on 2 500 rows of CIFAR-10
    it fell in each of 27 rounds, while accuracy went up and down by half a point.

    Args:
        measured: labels and loss, in the order of rounds.
        candidates: rows that may be labelled.
        rounds: how many of the latest steps count at least.

    Returns:
        Nats; None where fewer rounds were measured, or none brought labels.
    """
    if len(measured) <= rounds:
        return None
    lately = sum(_BACK * labels >= measured[-1][0] for labels, _ in measured)
    window = measured[-max(lately, rounds + 1) :]
    labels, losses = (np.array(column, dtype=np.float64) for column in zip(*window, strict=True))
    x = np.log(labels)
    spread = ((x - x.mean()) ** 2).sum()
    if spread == 0:
        return None
    slope = ((x - x.mean()) * (losses - losses.mean())).sum() / spread
    return float(-slope * np.log(candidates / labels[-1]))
