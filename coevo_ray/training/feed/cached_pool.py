"""Rows of a table that are read again and again: kept in memory where they are few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import Int64Array
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable

HELD_BYTES = 256 << 20  # what a feed's window may take


class HeldRows(RowTable):
    """A table some of whose rows are read once, if they are small enough.

    A few labelled rows lie all over the pool: read by row group, each pass over them would read the pool.

    Args:
        location: the table's folder.
        row_ids: int64[n], increasing: the rows that will be read.
        column: the column that will be read.
        most: bytes that they may take; otherwise they are read from the store each time.
        kind: of the table.

    Raises:
        InputError: there is no such table here, or it lacks a row or the column.
    """

    def __init__(
        self, location: Location, row_ids: Int64Array, column: str, most: int = HELD_BYTES, kind: str = "pool"
    ) -> None:
        super().__init__(location, kind)
        self._arguments = (location, row_ids, column, most, kind)
        self._row_ids, self._column = row_ids, column
        self._rows: pa.Table | None = None
        if sum(file.bytes for file in self.files) / len(self) * len(row_ids) <= most:
            self._rows = super().read(row_ids, [column])

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self._arguments)

    def read(self, row_ids: Int64Array, columns: list[str]) -> pa.Table:
        """As `RowTable.read`."""
        if self._rows is None or set(columns) != {self._column}:
            return super().read(row_ids, columns)
        return self._rows.take(np.searchsorted(self._row_ids, row_ids))

    def block_starts(self) -> Int64Array:
        """As `RowTable.block_starts`; rows in memory are one block, and so shuffled all together."""
        return super().block_starts() if self._rows is None else np.zeros(1, dtype=np.int64)
