"""Accuracy of a head as labels come: one method, one pool, one seed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.labels.data import Ids, LabelPool
from benchmarks.labels.method import Labelled, Method
from benchmarks.labels.methods import make_method
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.errors import UsageError


def rounds(
    pool: LabelPool, method: Method, counts: Sequence[int], decay_rows: float
) -> Iterator[tuple[Labelled, float]]:
    """Labels rows as a method chooses them, and fits the head after each round.

    Args:
        pool: the pool.
        method: of that pool.
        counts: labels after each round.
        decay_rows: the head's weight decay times labels.

    Yields:
        What is labelled, and the seconds that choosing the round's rows took.
    """
    rows: Ids = np.zeros(0, dtype=np.int64)
    now = None
    for count in counts:
        started = time.perf_counter()
        new = method.first(count) if now is None else method.choose(now, count - len(rows))
        seconds = time.perf_counter() - started
        assert len(np.unique(new)) == count - len(rows) and not np.isin(new, rows).any()
        rows = np.concatenate([rows, new])
        decay = decay_rows / count
        probe = LinearProbe.fit(pool.features[rows], pool.labels[rows], pool.classes, decay)
        now = Labelled(rows, pool.labels[rows], counts[0], decay, probe, probe.predict_proba(pool.features))
        yield now, seconds


def curve(pool: LabelPool, name: str, seed: int, counts: Sequence[int], decay_rows: float) -> dict[str, Any]:
    """What a method's choices are worth.

    Args:
        pool, counts, decay_rows: see `rounds`.
        name: see `make_method`.
        seed: of the method.

    Returns:
        `counts`; `accuracy` for each; `seconds`, with the head; `choosing_seconds` of them.
    """
    method = make_method(name, pool, seed)  # before the clock starts, for some import a library
    started, choosing, accuracy = time.perf_counter(), 0.0, []
    for now, seconds in rounds(pool, method, counts, decay_rows):
        choosing += seconds
        accuracy.append(accuracy_of(pool, now.probe))
    seconds = time.perf_counter() - started
    return {"counts": list(counts), "accuracy": accuracy, "seconds": seconds, "choosing_seconds": choosing}


def accuracy_of(pool: LabelPool, probe: LinearProbe) -> float:
    """Share of the pool's test rows that a head classifies rightly."""
    return float((probe.predict_proba(pool.test_features).argmax(axis=1) == pool.test_labels).mean())


def on_all_labels(pool: LabelPool, decay_rows: float) -> dict[str, float]:
    """`accuracy` of the head on all labels; `seconds` of its fit."""
    started = time.perf_counter()
    probe = LinearProbe.fit(pool.features, pool.labels, pool.classes, decay_rows / len(pool.labels))
    return {"accuracy": accuracy_of(pool, probe), "seconds": time.perf_counter() - started}


def area(counts: Sequence[int], accuracies: Sequence[float]) -> float:
    """Area under accuracy over log labels, as a mean accuracy."""
    x = [math.log(count) for count in counts]
    pairs = range(len(x) - 1)
    total = sum((x[i + 1] - x[i]) * (accuracies[i + 1] + accuracies[i]) / 2 for i in pairs)
    return total / (x[-1] - x[0])


def counts_of(pool: LabelPool, shares: Sequence[float]) -> list[int]:
    """Labels at each share of a pool's rows.

    Raises:
        UsageError: the pool is too small for as many rounds.
    """
    counts = [max(2 * pool.classes, round(share * len(pool.labels))) for share in shares]
    if any(a >= b for a, b in pairwise(counts)):
        raise UsageError(f"{len(pool.labels)} rows for labels {counts}", "give more rows")
    return counts
