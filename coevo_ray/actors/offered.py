"""Rows that arrived after the gate was opened, and what was decided of them."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Arrays, BoolArray, Float16Array, Int64Array
from coevo_ray.errors import InputError


class Offered:
    """Offered rows in the order in which they came; unusable ones are remembered too, but were not taken in."""

    def __init__(self) -> None:
        self._place: dict[int, int] = {}  # row_id -> place in the columns
        self._position: dict[int, int] = {}  # row_id -> row of the gate
        self._parts: list[Arrays] = []
        self._columns: Arrays | None = None

    def __len__(self) -> int:
        return len(self._place)

    @property
    def last_id(self) -> int:
        """The largest row_id; -1 where nothing came."""
        return max(self._place, default=-1)

    def new(self, row_ids: Int64Array) -> BoolArray:
        """Tests which rows are new, bool[b].

        Raises:
            InputError: a row is named twice.
        """
        if row_ids.ndim != 1 or row_ids.dtype.kind not in "iu" or len(np.unique(row_ids)) < len(row_ids):
            raise InputError(
                f"offered row_ids {row_ids.dtype}{list(row_ids.shape)} that are not distinct integers",
                "give each row one of its own",
            )
        return np.array([row not in self._place for row in row_ids.tolist()], dtype=np.bool_)

    def add(
        self,
        row_ids: Int64Array,
        features: Float16Array,
        decisions: Arrays,
        taken: BoolArray,
        *,
        first: int,
    ) -> None:
        """Appends rows.

        Args:
            row_ids: int64[b].
            features: float16[b, d].
            decisions: arrays of `core.gate_online.Decisions`.
            taken: bool[b], which joined the gate.
            first: rows that the gate had before any came.
        """
        for row in row_ids.tolist():
            self._place[row] = len(self._place)
        for row in row_ids[taken].tolist():
            self._position[row] = first + len(self._position)
        self._parts.append({"row_id": row_ids, "features": features, "taken": taken, **decisions})
        self._columns = None

    def positions(self, row_ids: Int64Array) -> Int64Array:
        """Rows of the gate, int64[n]; -1 for those that did not join it."""
        if not self._position:
            return np.full(len(row_ids), -1, dtype=np.int64)
        return np.array([self._position.get(row, -1) for row in row_ids.tolist()], dtype=np.int64)

    def decisions(self, row_ids: Int64Array) -> Arrays:
        """Decisions about rows that came, in the order given."""
        places = np.array([self._place[row] for row in row_ids.tolist()], dtype=np.int64)
        columns = self.columns()
        names = ("action", "reason", "gain", "label", "confidence")
        return {name: columns[name][places] for name in names if name in columns}

    def taken(self) -> Arrays:
        """`row_id` and `features` of the rows that joined the gate, by row of the gate."""
        columns = self.columns()
        if not columns:
            return {"row_id": np.zeros(0, dtype=np.int64), "features": np.zeros((0, 0), dtype=np.float16)}
        return {name: columns[name][columns["taken"]] for name in ("row_id", "features")}

    def taken_ids(self) -> Int64Array:
        """row_ids of the rows that joined the gate, by row of the gate."""
        return np.fromiter(self._position, dtype=np.int64, count=len(self._position))

    def columns(self) -> Arrays:
        """All columns, for a snapshot; empty where nothing came."""
        if self._columns is None:
            names = self._parts[0].keys() if self._parts else ()
            self._columns = {name: np.concatenate([part[name] for part in self._parts]) for name in names}
            self._parts = [self._columns] if names else []
        return self._columns
