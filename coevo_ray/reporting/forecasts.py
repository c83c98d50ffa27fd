"""Sentences about a gate's forecast, as `core.gate.readings.forecast` gives it."""

from __future__ import annotations

from coevo_ray.core.json import JsonObject
from coevo_ray.reporting.wording import count, decimal, percent


def accuracy_now(forecast: JsonObject) -> list[str]:
    """The present accuracy by the validation rows; nothing before one has a label."""
    if forecast["accuracy"] is None:
        return []
    low, middle, high = forecast["accuracy"]
    rows = count(forecast["validation_rows"], "validation row")
    return [
        f"Accuracy by {rows}: {percent(middle)}, with nine chances in ten between {percent(low)} and {percent(high)}."
    ]


def beside_held_out(forecast: JsonObject, accuracy: float) -> list[str]:
    """The present accuracy by the validation rows, where held-out rows measure it too; nothing before one has a label.

    Args:
        forecast: the gate's.
        accuracy: on the held-out rows, a share.
    """
    if forecast["accuracy"] is None:
        return []
    low, middle, high = forecast["accuracy"]
    rows = count(forecast["validation_rows"], "validation row")
    apart = "" if low <= accuracy <= high else ", which is further apart than nine of ten such samples are"
    return [
        f"The forecast starts from the accuracy by {rows}, {percent(middle)} (90 % interval {percent(low)} to "
        f"{percent(high)}), and not from that on the held-out rows, {percent(accuracy)}, which most gates do not have. "
        f"The two are samples of different rows{apart}."
    ]


def gain_to_come(forecast: JsonObject, ended: bool) -> list[str]:
    """Accuracy that all further labels would add, and the labels at which an open gate will find that too little."""
    low, middle, high = (decimal(100 * share, 1) for share in forecast["gain"])
    sentences = [
        f"By the gate's forecast all further labels would add {middle} points of accuracy (90 % interval {low} to "
        f"{high})."
    ]
    enough = forecast["tolerance_labels"]
    if not ended and enough is not None and enough > forecast["labels"]:
        sentences.append(f"It will find that too little at about {count(enough, 'label')}.")
    return sentences
