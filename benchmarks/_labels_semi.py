"""The head on the gate's labels and its pseudo-labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._labels_curve import accuracy_of
from benchmarks._labels_data import LabelPool
from benchmarks._labels_methods import Gate, Labelled
from coevo_ray.core.probe import LinearProbe

LEAST = (0.8, 0.9, 0.95)


def semi_curve(pool: LabelPool, seed: int, counts: Sequence[int], decay_rows: float) -> dict[str, Any]:
    """Labels rows as the gate chooses them, and fits the head with and without its pseudo-labels.

    A pseudo-label weighs as much as it is sure. The gate's predictions are calibrated, as `coevo-ray gate` makes them.

    Returns:
        `accuracy` of the head on labels alone; least probability -> `accuracy` with pseudo-labels, their `share` of the
        rows without a label and how many are right (`precision`), each for every count; `seconds`.
    """
    started = time.perf_counter()
    gate, now = Gate(pool, seed, calibrated=True), None
    rows = gate.first(counts[0])
    alone: list[float] = []
    of_least: dict[str, dict[str, list[float]]] = {
        str(least): {"accuracy": [], "share": [], "precision": []} for least in LEAST
    }
    for count in counts:
        if now is not None:
            rows = np.concatenate([rows, gate.choose(now, count - len(rows))])
        decay = decay_rows / count
        probe = LinearProbe.fit(pool.features[rows], pool.labels[rows], pool.classes, decay)
        now = Labelled(rows, pool.labels[rows], counts[0], decay, probe, probe.predict_proba(pool.features))
        alone.append(accuracy_of(pool, probe))
        gate.learn(now)
        for least in LEAST:
            found, part = with_pseudo_labels(pool, gate, rows, least, decay_rows), of_least[str(least)]
            for key, values in part.items():
                values.append(found[key])
    return {"accuracy": alone, "with_pseudo_labels": of_least, "seconds": time.perf_counter() - started}


def with_pseudo_labels(
    pool: LabelPool, gate: Gate, rows: np.ndarray[Any, np.dtype[np.int64]], least: float, decay_rows: float
) -> dict[str, float]:
    """`accuracy` of the head on labels and pseudo-labels, `share` and `precision` of the latter."""
    extra, classes, sure = gate.gate.pseudo_labels(least)
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
