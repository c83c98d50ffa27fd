"""Readings of a gate's state: predictions, copied labels, pseudo-labels, gains.

Functions of a `GateState`; rows are positions in the graph.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from coevo_ray.core.gate.forecast import Interval
from coevo_ray.core.gate.state import UNASKED, GateState
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError


def predictions(state: GateState, positions: Int64Array) -> tuple[Int64Array, Float32Array]:
    """Class and probability of each row; a labelled row's own label, with 1.

    Args:
        state: the gate's.
        positions: int64[n].

    Returns:
        int64[n] and float32[n]; -1 and NaN for rows without a label before the first predictions.
    """
    told = state.predicted | state.beliefs.labelled[positions]
    chance = 1.0 / state.config.classes
    sure = state.beliefs.confidence[positions] * (1.0 - chance) + chance  # undoes the correction for chance
    best = np.where(told, state.beliefs.best[positions].astype(np.int64), -1)
    return best, np.where(told, sure, np.nan).astype(np.float32)


def labels(state: GateState) -> tuple[Int64Array, Int64Array, Int32Array]:
    """Accepted labels: positions int64[L], labels int64[L], rounds int32[L], in the order of the answers."""
    best = state.beliefs.best[state.labelled].astype(np.int64)
    return state.labelled.copy(), best, state.label_rounds.copy()


def rounds_of(state: GateState, positions: Int64Array) -> Int32Array:
    """The round that requested each row of int64[n], int32[n]; -1 where none did, or the row has no label yet."""
    rounds = np.full(state.graph.rows, UNASKED, dtype=np.int32)
    rounds[state.labelled] = state.label_rounds
    return rounds[positions]


def copied_labels(state: GateState) -> tuple[Int64Array, Int64Array]:
    """Unlabelled candidates that are near-duplicates of labelled rows which all have the same label.

    On CIFAR-10 with near-copies every such label was right, and full-data accuracy came with a third of the labels that
    it takes without them.

    Returns:
        Positions int64[n], increasing, and labels int64[n].
    """
    labels = state.beliefs.copied_labels()
    positions = np.flatnonzero((labels >= 0) & state.candidates)
    return positions, labels[positions]


def groups(state: GateState, positions: Int64Array) -> Int64Array:
    """A number for each row, int64[n], equal for near-duplicates; rows that arrived later are alone.

    Args:
        state: the gate's.
        positions: int64[n].
    """
    group = np.arange(len(state.candidates))
    if (known := state.beliefs.group) is not None:
        group[: len(known)] = known
    return group[positions]


class PseudoLabelled(NamedTuple):
    """Rows without a label whose class is sure.

    Attributes:
        positions: int64[n], increasing.
        labels: int64[n].
        confidence: float32[n], the probability of the class.
        shared: bool[n], rows that have the label of a near-duplicate which somebody labelled.
    """

    positions: Int64Array
    labels: Int64Array
    confidence: Float32Array
    shared: BoolArray


def pseudo_labels(state: GateState, least: float) -> PseudoLabelled:
    """Unlabelled candidates whose class is sure; near-duplicates of labelled rows have that label.

    The confidence of a shared label is what `Agreement` within groups shows of such labels, and no more than the model
    leaves to it where the model believes in another class.

    Args:
        state: the gate's.
        least: smallest probability of the class, fused from model and neighbours.

    Returns:
        The rows.

    Raises:
        InputError: there are no predictions yet, or `least` is no probability.
    """
    if not state.predicted or not 0 <= least <= 1:
        raise InputError(
            f"pseudo-labels of probability {least}" + ("" if state.predicted else " before there are predictions"),
            "label a round first" if 0 <= least <= 1 else "give a number from 0 to 1",
        )
    positions, labels, probability = state.beliefs.believed()
    copies, copied = copied_labels(state)
    place = np.searchsorted(positions, copies)
    if (least_shared := state.config.shared_confidence) is not None:
        probability[place] = np.maximum(probability[place], least_shared)
    else:
        left = np.where(labels[place] == copied, np.float32(1.0), 1.0 - probability[place])
        probability[place] = np.minimum(np.float32(state.beliefs.agreement().precision), left)
    labels[place] = copied
    shared = np.zeros(len(positions), dtype=np.bool_)
    shared[place] = True
    free = state.candidates[positions] & (probability >= np.float32(least))
    return PseudoLabelled(positions[free], labels[free], probability[free], shared[free])


def gains(state: GateState) -> tuple[Int64Array, Float32Array]:
    """Unlabelled candidates, int64[n], increasing, and the expected gain of a label of each, float32[n].

    Raises:
        InputError: there are no predictions yet.
    """
    if not state.predicted:
        raise InputError("the gate has no gains before its first predictions", "label its first round, then next")
    positions = state.unlabelled()
    return positions, state.beliefs.gain[positions]


def validated(state: GateState) -> tuple[Int64Array, Int64Array]:
    """Labels of the validation rows, and the classes that the latest predictions say, int64[v]; empty before any."""
    rows = state.reserved[state.validating]
    if not state.said:
        return rows[:0], rows[:0]
    said = state.said[max(state.said)][state.validating]
    return state.beliefs.best[rows].astype(np.int64), said.astype(np.int64)


_CURVE_POINTS = 24


def forecast(state: GateState, *, curve: bool = False) -> JsonObject | None:
    """The forecast of further labels, for people; None before the first predictions, or without validation rows.

    Args:
        state: the gate's.
        curve: also give points of the learning curve to come.

    Returns:
        `validation_rows`; `labels` so far; `accuracy` of now, and with `all_labels` (null where no validation row has a
        label); `gain`, what all further labels add, and `next_gain`, what the next round adds; each as 5 %, 50 % and
        95 % quantiles, shares of rows. `tolerance_labels`: how many labels there will be when all others add less than
        the tolerance; null where it is 0. With `curve`: `curve`, [labels, 5 %, 50 %, 95 %] from now to all.
    """
    found = state.forecast()
    if found is None:
        return None

    def total(told: int) -> int:
        """All labels when the model has learned from so many: those for validation come with them."""
        share = state.config.validated_share
        more = min(round((told - found.labels) * share / (1.0 - share)), len(state.reserved_left()))
        return len(state.labelled) + told - found.labels + more

    def listed(interval: Interval | None) -> list[float] | None:
        return None if interval is None else [round(value, 6) for value in interval]

    following = min(found.labels + round((1.0 - state.config.validated_share) * state.config.round_size), found.total)
    tolerance = state.config.accuracy_tolerance
    content: JsonObject = {
        "validation_rows": found.validation_rows,
        "labels": len(state.labelled),
        "accuracy": listed(found.accuracy_at(found.labels)),
        "all_labels": listed(found.accuracy_at(found.total)),
        "gain": listed(found.gain(found.total)),
        "next_gain": listed(found.gain(following)),
        "tolerance_labels": total(found.labels_until(tolerance)) if tolerance > 0 else None,
    }
    if curve:
        points = np.unique(np.geomspace(found.labels, found.total, _CURVE_POINTS).round().astype(np.int64))
        points = np.clip(points, found.labels, found.total)
        content["curve"] = [[total(int(n)), *(listed(found.accuracy_at(int(n))) or [])] for n in points]
    return content
