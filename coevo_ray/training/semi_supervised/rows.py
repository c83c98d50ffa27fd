"""The labels of the objective `semi_supervised`: a pool's own or a gate's, and pseudo-labels."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from coevo_ray.core.arrays import Arrays, Float32Array, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import TRAIN, Pool
from coevo_ray.progress import say
from coevo_ray.store.artifact import load_manifest
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.semi_supervised.step import SemiRows

PSEUDO = "pseudo_labels"
Table = RowTable | str | os.PathLike[str]


def open_labels(labels: Table, pool: Pool) -> RowTable:
    """Opens a label table of this pool.

    Raises:
        InputError: it is not there, of another kind, or of another pool.
    """
    table = labels if isinstance(labels, RowTable) else RowTable(Location.parse(labels), "labels")
    _check_pool(table, pool)
    return table


def open_pseudo_labels(labels: Table, pool: Pool) -> RowTable:
    """Opens a table of pseudo-labels of this pool: of that kind itself, or in the folder of a gate's labels.

    Raises:
        InputError: it is not there, of another kind, or of another pool.
    """
    if isinstance(labels, RowTable):
        table = labels
    else:
        place = Location.parse(labels)
        if load_manifest(place).kind == "labels":
            place = place.child(PSEUDO)
        table = RowTable(place, PSEUDO)
    _check_pool(table, pool)
    return table


def _check_pool(table: RowTable, pool: Pool) -> None:
    """A table that names no pool must at least fit, which is seen when it is read."""
    made_from = table.manifest.inputs.get("pool")
    if made_from not in (None, pool.manifest.identity):
        raise InputError(
            f"the {_name(table)} at {table.location} are of the pool {str(made_from)[:12]}, not of the one at "
            f"{pool.location} ({pool.manifest.identity[:12]})",
            "give the pool that was labelled; one that has grown since needs labels of its own",
        )


def gather_rows(pool: Pool, labels: RowTable | None, pseudo: RowTable | None, weight: str) -> SemiRows:
    """Gathers the rows to train on and their labels.

    Args:
        pool: splits and labels; those of rows that `labels` leaves out serve figures alone.
        labels: label table; None for the pool's own labels.
        pseudo: pseudo-labels; where a row has a label too, that one counts.
        weight: "confidence" or "one": weight of a row with a pseudo-label.

    Raises:
        InputError: a table names a row or a class that is not there or a held-out row, a confidence is not in (0, 1],
            no training row has a label, or all have the same.
    """
    known = pool.labels()
    use = np.where(pool.splits() == TRAIN, known, -1)
    weights = np.ones(len(pool), dtype=np.float32)
    if labels is not None:
        ids, found = _read(labels, pool, ["label"])
        use = np.full(len(pool), -1, dtype=np.int64)
        use[ids] = found["label"]
    rows = SemiRows(use, weights, pool.train_ids(), known, pool.classes)
    rows.check()  # pseudo-labels alone are not enough: they are somebody's predictions
    if pseudo is not None:
        ids, found = _read(pseudo, pool, ["label", "confidence"])
        _check_confidence(pseudo, ids, found["confidence"])
        new = use[ids] < 0
        rows = replace(rows, pseudo_labelled=int(new.sum()))
        use[ids[new]] = found["label"][new]
        if weight == "confidence":
            weights[ids[new]] = found["confidence"][new]
        if not new.all():
            say(f"train semi_supervised: {int((~new).sum())} pseudo-labels are of labelled rows, whose labels count")
    return rows


def _read(table: RowTable, pool: Pool, columns: list[str]) -> tuple[Int64Array, Arrays]:
    """row_ids and columns, checked against the pool."""
    read = table.scan(["row_id", *columns])
    ids: Int64Array = read.column("row_id").to_numpy()
    found = {name: read.column(name).to_numpy() for name in columns}
    where = f"the {_name(table)} at {table.location}"
    if len(ids) and not 0 <= ids[0] <= ids[-1] < len(pool):
        raise InputError(
            f"{where} are of rows {ids[0]} to {ids[-1]}, the pool {pool.location} has {len(pool)}",
            "give labels of this pool",
        )
    held_out = ids[pool.splits()[ids] != TRAIN]
    if len(held_out):
        raise InputError(
            f"{where} name {len(held_out)} held-out rows, the first is {held_out[0]}",
            "leave them out: they are there to judge the network",
        )
    bad = ~((found["label"] >= 0) & (found["label"] < pool.classes))  # NaN, for null, is bad too
    if bad.any():
        raise InputError(
            f"{where}: row {ids[bad][0]} has label {found['label'][bad][0]}, the pool has {pool.classes} classes "
            f"(0 to {pool.classes - 1})",
            "give labels of this pool, or ingest it with classes set",
        )
    return ids, found


def _check_confidence(table: RowTable, ids: Int64Array, confidence: Float32Array) -> None:
    bad = ~((confidence > 0) & (confidence <= 1))
    if bad.any():
        raise InputError(
            f"the {_name(table)} at {table.location}: row {ids[bad][0]} has confidence {confidence[bad][0]}, need "
            "more than 0 and at most 1",
            "export the pseudo-labels again",
        )


def _name(table: RowTable) -> str:
    return "pseudo-labels" if table.manifest.kind == PSEUDO else table.manifest.kind
