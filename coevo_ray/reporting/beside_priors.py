"""Targets beside each prior alone: the figures in a run's summary, and what a report says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coevo_ray.reporting.wording import against, chance, finite, listing, lookup, number, percent


def beside_priors(summary: Mapping[str, Any]) -> tuple[float, dict[str, float]] | None:
    """Accuracy of a linear classifier on the targets, and on each prior's own features; None if not measured."""
    found = lookup(summary, "encode", "beside_priors", "alone")
    targets = number(summary, "encode", "beside_priors", "targets")
    named = found if isinstance(found, Mapping) else {}
    alone = {str(name): value for name, each in named.items() if (value := finite(each)) is not None}
    return (targets, alone) if targets is not None and alone else None


def beside_priors_sentences(summary: Mapping[str, Any]) -> list[str]:
    """The comparison in words; empty if not measured."""
    measured = beside_priors(summary)
    if measured is None:
        return []
    targets, alone = measured
    each = listing([f"{name} {percent(accuracy)}" for name, accuracy in alone.items()])
    return [
        f"With all training labels a linear classifier on the targets learns {percent(targets)} accuracy, "
        f"{against(targets, max(alone.values()))} on the best prior's own features ({each}).",
        chance(number(summary, "pool", "test_rows"), targets) or "",
    ]
