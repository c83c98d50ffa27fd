"""Tables of labels, whose rows and classes must be those of the pool that they are used with."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import Arrays, BoolArray, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import TRAIN, Pool
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import Manifest, load_manifest
from coevo_ray.store.opening import open_table
from coevo_ray.store.row_table import RowTable

PSEUDO = "pseudo_labels"


@runtime_checkable
class LabelTable(Protocol):
    """A table with `row_id int64` and `label int64`, by row: an artifact, or the labels of an open gate so far."""

    @property
    def location(self) -> Location:
        """Its folder, or that of the gate."""

    @property
    def manifest(self) -> Manifest:
        """Origin of the labels; its `inputs` name the pool."""

    def scan(self, columns: list[str]) -> pa.Table:
        """Reads some columns of all rows in row_id order."""


def open_labels(labels: LabelTable | ArtifactLike, pool: Pool) -> LabelTable:
    """Opens a label table of this pool.

    Raises:
        InputError: it is not there, of another kind, or of another pool.
    """
    table: LabelTable
    if isinstance(labels, LabelTable) and not isinstance(labels, RowTable):
        table = labels  # the labels of an open gate so far
    else:
        table = open_table(labels, "labels")
    _check_pool(table, pool)
    return table


def open_pseudo_labels(labels: ArtifactLike, pool: Pool) -> RowTable:
    """Opens a table of pseudo-labels of this pool: of that kind itself, or in the folder of a gate's labels.

    Raises:
        InputError: it is not there, of another kind, or of another pool.
    """
    place = Location.parse(labels)
    if load_manifest(place).kind == "labels":
        place = place.child(PSEUDO)
    table = RowTable(place, PSEUDO)
    _check_pool(table, pool)
    return table


def _check_pool(table: LabelTable, pool: Pool) -> None:
    """A table that names no pool must at least fit, which is seen when it is read."""
    made_from = table.manifest.inputs.get("pool")
    if made_from not in (None, pool.manifest.identity):
        raise InputError(
            f"the {name_of(table)} at {table.location} are of the pool {str(made_from)[:12]}, not of the one at "
            f"{pool.location} ({pool.manifest.identity[:12]})",
            "give the pool that was labelled; one that has grown since needs labels of its own",
        )


def read_labels(table: LabelTable, pool: Pool, columns: list[str]) -> tuple[Int64Array, Arrays]:
    """Reads a table of labels and checks it against the pool.

    Args:
        table: the labels.
        pool: its rows, splits and classes.
        columns: `label`, and further columns.

    Returns:
        int64[n] row_ids, increasing, and the columns by name.

    Raises:
        InputError: it names a row or a class that is not there, or a held-out row.
    """
    read = table.scan(["row_id", *columns])
    ids: Int64Array = read.column("row_id").to_numpy()
    found = {name: read.column(name).to_numpy() for name in columns}
    where = f"the {name_of(table)} at {table.location}"
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


def rows_there(table: RowTable, rows: int) -> BoolArray:
    """Tests which rows of a pool a table has.

    Args:
        table: its row_ids are the pool's.
        rows: of the pool.

    Returns:
        bool[rows].
    """
    there = np.zeros(rows, dtype=np.bool_)
    there[table.row_ids()] = True
    return there


def name_of(table: LabelTable) -> str:
    """Returns the name of such tables in errors."""
    return "pseudo-labels" if table.manifest.kind == PSEUDO else table.manifest.kind
