"""The labels of the objective `semi_supervised`: a pool's own or a gate's, and pseudo-labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import TRAIN, Pool
from coevo_ray.progress import say
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.label_tables import LabelTable, name_of, read_labels, rows_there
from coevo_ray.training.semi_supervised.step import SemiRows


def gather_rows(
    pool: Pool,
    labels: LabelTable | None,
    pseudo: LabelTable | None,
    weight: str,
    readable: RowTable | None = None,
) -> SemiRows:
    """Gathers the rows to train on and their labels.

    Args:
        pool: splits and labels; those of rows that `labels` leaves out serve figures alone.
        labels: label table; None for the pool's own labels.
        pseudo: pseudo-labels; where a row has a label too, that one counts.
        weight: "confidence" or "one": weight of a row with a pseudo-label.
        readable: table of the rows that can be taken, such as the targets that the network learns on; None for all.

    Raises:
        InputError: a table names a row or a class that is not there or a held-out row, a confidence is not in (0, 1],
            no training row has a label, or all have the same.
    """
    known = pool.labels()
    use = np.where(pool.splits() == TRAIN, known, -1)
    weights = np.ones(len(pool), dtype=np.float32)
    if labels is not None:
        ids, found = read_labels(labels, pool, ["label"])
        use = np.full(len(pool), -1, dtype=np.int64)
        use[ids] = found["label"]
    train = pool.train_ids()
    if readable is not None:
        there = rows_there(readable, len(pool))
        train, known = train[there[train]], np.where(there, known, -1)
    rows = SemiRows(use, weights, train, known, pool.classes)
    rows.check()  # pseudo-labels alone are not enough: they are somebody's predictions
    if pseudo is not None:
        ids, found = read_labels(pseudo, pool, ["label", "confidence"])
        _check_confidence(pseudo, ids, found["confidence"])
        new = use[ids] < 0
        rows = replace(rows, pseudo_labelled=int(new.sum()))
        use[ids[new]] = found["label"][new]
        if weight == "confidence":
            weights[ids[new]] = found["confidence"][new]
        if not new.all():
            say(f"train semi_supervised: {int((~new).sum())} pseudo-labels are of labelled rows, whose labels count")
    return rows


def _check_confidence(table: LabelTable, ids: Int64Array, confidence: Float32Array) -> None:
    bad = ~((confidence > 0) & (confidence <= 1))
    if bad.any():
        raise InputError(
            f"the {name_of(table)} at {table.location}: row {ids[bad][0]} has confidence {confidence[bad][0]}, need "
            "more than 0 and at most 1",
            "export the pseudo-labels again",
        )
