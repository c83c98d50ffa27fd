"""The gate with its own stop rule, as `coevo-ray gate` runs it, on arrays and without Ray."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.labels.curve import accuracy_of, on_all_labels
from benchmarks.labels.data import LabelPool
from benchmarks.labels.method import first_rows
from coevo_ray.config import GateSettings
from coevo_ray.core.gate import readings
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.probes.light_classifier import fit_light_classifier
from coevo_ray.core.probes.probe import LinearProbe

NEAR_FULL = 0.002  # accuracy that may be missing to full accuracy


def run_to_stop(pool: LabelPool, seed: int) -> dict[str, Any]:
    """Labels rows until the gate stops.

    Returns:
        `share` of the pool's rows that got a label; `stopped_by`; `rounds`; `accuracy`, `full_accuracy` of the same
        head on all labels, `random_accuracy` on as many random ones; `enough_share`, at which accuracy was first within
        0.2 points of full accuracy on the way, or None; `seconds`.
    """
    started = time.perf_counter()
    settings, count = GateSettings(seed=seed), len(pool.features)
    gate = AnnotationGate(settings.rule_for(count, pool.classes), pool.graph, np.ones(count, dtype=bool))
    asked = gate.request_seed(settings.seed_rows(count, pool.classes))
    settled: tuple[float | None, int] = (None, 0)
    way: list[tuple[float, float]] = []
    while len(asked.positions) > 0:
        gate.submit(asked.positions, pool.labels[asked.positions])
        rows, labels, rounds = gate.labels()
        order = np.argsort(rows)
        untold = gate.is_validating(rows[order])
        validation, order = order[untold], order[~untold]
        kept = settled if len(order) < 2 * settled[1] else (None, len(order))  # as GateSession.learn
        copies, copied = readings.copied_labels(gate.inner)
        fitted = fit_light_classifier(
            pool.features[rows[order]],
            labels[order],
            rounds[order] == 0,
            pool.classes,
            copies=(pool.features[copies], copied),
            groups=readings.groups(gate.inner, rows[order]),
            l2=settings.l2,
            decay_rows=kept[0],
            calibrate=settings.calibrate,
            seed=settings.seed,
            validation=(pool.features[rows[validation]], labels[validation]) if len(gate.inner.reserved) else None,
        )
        settled = (fitted.decay_rows, kept[1])
        gate.update_predictions(fitted(pool.features))
        if fitted.validation_loss is not None:
            gate.note_loss(gate.rounds - 1, fitted.validation_loss)
        way.append((len(rows) / count, accuracy_of(pool, fitted.probe)))
        asked = gate.request()
    decay_rows = settings.l2 * len(rows) if settings.l2 is not None else fitted.decay_rows
    full = on_all_labels(pool, decay_rows)["accuracy"]
    chance = first_rows(pool, seed, len(rows))
    random = LinearProbe.fit(pool.features[chance], pool.labels[chance], pool.classes, decay_rows / len(rows))
    return {
        "share": way[-1][0],
        "stopped_by": gate.stopped_by,
        "rounds": gate.rounds,
        "accuracy": way[-1][1],
        "full_accuracy": full,
        "random_accuracy": accuracy_of(pool, random),
        "enough_share": next((share for share, accuracy in way if accuracy >= full - NEAR_FULL), None),
        "seconds": time.perf_counter() - started,
    }
