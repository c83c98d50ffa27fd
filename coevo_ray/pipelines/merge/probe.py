"""Accuracy of targets by the pool's labels; for evaluation only."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.core.probes.probe import LinearProbe, cross_fitted_predictions, knn_accuracy
from coevo_ray.core.rows.hashing import choose_rows
from coevo_ray.errors import InputError
from coevo_ray.pipelines.merge.load_targets import Targets, load_targets
from coevo_ray.pool.stages import pool_for
from coevo_ray.store.location import ArtifactLike
from coevo_ray.store.row_table import vectors
from coevo_ray.training.from_targets.probes import NEIGHBOURS, ProbeRows

_PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)  # l2 of `LinearProbe`, strongest first
_FOLDS = 3
_TUNED_ROWS = 5_000
# Rows of a prior in a split, below which accuracies of its own say little.
_LEAST = 50


def probe(targets: ArtifactLike, pool: ArtifactLike, rows: int = 20_000, seed: int = 0) -> JsonObject:
    """Judges targets by the pool's labels: a linear head and neighbours, and heads of one prior on rows of another.

    Heads are fitted on labelled rows of the training split, their penalty by cross-validation there, and measured on
    the test split.

    Args:
        targets: targets, or their folder.
        pool: the pool of their rows, or its folder.
        rows: most rows of each split.
        seed: of the choice of rows and of the folds.

    Returns:
        `linear_probe`, `knn`: accuracies, 0 to 1; `l2`: the chosen penalty; `train_rows`, `test_rows`, `classes`;
        `priors`: names; `across`: for each prior whose rows a head was fitted on, the head's accuracy on the test rows
        of each prior, null where a prior has fewer than 50 rows in a split; `within`, `between`: their means on the
        diagonal and off it, null where there is none.

    Raises:
        InputError: the targets were not made from this pool, or a split has no labelled row or fewer than two classes.
    """
    opened = pool_for("probe", pool)
    table = load_targets(targets, opened, columns=())
    chosen = ProbeRows.choose(opened, table.row_ids, rows, seed)
    if chosen is None:
        raise InputError(
            f"{opened.location} has no labelled rows in both splits, or fewer than two classes",
            "give a pool with labels and a test split; without labels see the verdict on the targets' card",
        )
    (x, made), (x_test, made_test) = _read(table, chosen.train), _read(table, chosen.test)
    l2 = tuned_penalty(x, chosen.train_labels, chosen.classes, seed)
    head = LinearProbe.fit(x, chosen.train_labels, chosen.classes, l2)
    names = [prior["name"] for prior in table.card["priors"]]
    across: list[list[float | None]] = []
    for one in range(len(names)):
        mine = made == one
        if mine.sum() < _LEAST:
            across.append([None] * len(names))
            continue
        # By default one prior makes all rows: its head is there already.
        own = head if mine.all() else LinearProbe.fit(x[mine], chosen.train_labels[mine], chosen.classes, l2)
        theirs = [made_test == other for other in range(len(names))]
        across.append(
            [
                _accuracy(own, x_test[other], chosen.test_labels[other]) if other.sum() >= _LEAST else None
                for other in theirs
            ]
        )
    return {
        "linear_probe": _accuracy(head, x_test, chosen.test_labels),
        "knn": round(knn_accuracy(x, chosen.train_labels, x_test, chosen.test_labels, NEIGHBOURS), 4),
        "l2": l2,
        "train_rows": len(x),
        "test_rows": len(x_test),
        "classes": chosen.classes,
        "priors": names,
        "across": across,
        "within": _mean([across[i][i] for i in range(len(names))]),
        "between": _mean([across[i][j] for i in range(len(names)) for j in range(len(names)) if i != j]),
    }


def _read(table: Targets, row_ids: Int64Array) -> tuple[Float32Array, Int64Array]:
    """Targets float32[b, n] of some rows, and the prior of each."""
    read = table.read(row_ids)
    return vectors(read.column("target")), read.column("prior").to_numpy().astype(np.int64)


def tuned_penalty(x: Float32Array, y: Int64Array, classes: int, seed: int) -> float:
    """The penalty of the least cross-entropy on rows that each fit has not seen."""
    part = choose_rows(np.arange(len(x)), min(_TUNED_ROWS, len(x)), seed)
    x, y = x[part], y[part]
    every = np.ones(len(x), dtype=bool)
    losses = {}
    for l2 in _PENALTIES:
        predicted = cross_fitted_predictions(x, y, classes, _FOLDS, every, l2, seed)
        losses[l2] = -float(np.log(np.maximum(predicted[np.arange(len(y)), y], 1e-12)).mean())
    return min(losses, key=losses.__getitem__)


def _accuracy(head: LinearProbe, x: Float32Array, y: Int64Array) -> float:
    return round(float((head.predict_proba(x).argmax(axis=1) == y).mean()), 4)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None
