"""The head on the gate's labels and its pseudo-labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.labels.curve import accuracy_of, rounds
from benchmarks.labels.data import Ids, LabelPool
from benchmarks.labels.methods import Gate
from coevo_ray.core.gate import readings
from coevo_ray.core.probes.probe import LinearProbe

LEAST = (0.8, 0.9, 0.95)


def semi_curve(pool: LabelPool, seed: int, counts: Sequence[int], decay_rows: float) -> dict[str, Any]:
    """Labels rows as the gate chooses them, and fits the head with and without its pseudo-labels.

    A pseudo-label weighs as much as it is sure. The gate's predictions are calibrated, as `coevo-ray gate` makes them.

    Returns:
        `accuracy` of the head on labels alone; least probability -> `accuracy` with pseudo-labels, their `share` of the
        rows without a label and how many are right (`precision`), each for every count; `seconds`.
    """
    started = time.perf_counter()
    gate = Gate(pool, seed, calibrated=True)
    alone: list[float] = []
    of_least: dict[str, dict[str, list[float]]] = {
        str(least): {"accuracy": [], "share": [], "precision": []} for least in LEAST
    }
    for now, _ in rounds(pool, gate, counts, decay_rows):
        alone.append(accuracy_of(pool, now.probe))
        gate.learn(now)
        for least in LEAST:
            found = with_pseudo_labels(pool, gate, now.rows, least, decay_rows)
            for key, values in of_least[str(least)].items():
                values.append(found[key])
    return {"accuracy": alone, "with_pseudo_labels": of_least, "seconds": time.perf_counter() - started}


def with_pseudo_labels(pool: LabelPool, gate: Gate, rows: Ids, least: float, decay_rows: float) -> dict[str, float]:
    """`accuracy` of the head on labels and pseudo-labels, `share` and `precision` of the latter."""
    extra, classes, sure, _ = readings.pseudo_labels(gate.gate.inner, least)
    labels = np.concatenate([pool.labels[rows], classes])
    weights = np.concatenate([np.ones(len(rows), dtype=np.float32), sure])
    features = pool.features[np.concatenate([rows, extra])]
    probe = LinearProbe.fit(features, labels, pool.classes, decay_rows / float(weights.sum()), weights)
    right = classes == pool.labels[extra]
    return {
        "accuracy": accuracy_of(pool, probe),
        "share": len(extra) / max(1, len(pool.labels) - len(rows)),
        "precision": float(right.mean()) if len(right) else 1.0,
    }
