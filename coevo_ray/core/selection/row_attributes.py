"""Attributes of the rows of a pool, each an array of N in the narrowest dtype that holds its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from coevo_ray.core.arrays import AnyArray, Arrays, BoolArray, Int64Array
from coevo_ray.core.rows.chunks import map_chunks
from coevo_ray.errors import InputError

# Name -> whether it is a float, and the value of rows that never got one.
_KINDS: dict[str, tuple[bool, int]] = {
    "representativeness": (True, 0),
    "diversity": (True, 0),
    "factor": (False, -1),
    "label": (False, -1),
    "doubt": (True, 0),
    "irreducible": (True, 0),
    "copies": (False, 1),
    "copy": (False, 0),
}
_INTEGERS = (np.int8, np.int16, np.int32, np.int64)


class RowAttributes:
    """Named arrays of N: floats as float16, integers in the narrowest dtype that holds them.

    Args:
        rows: N.
        names: attributes to keep; others are checked and dropped.

    Attributes:
        arrays: name -> float16[N] or int[N], of the attributes that were set.
    """

    def __init__(self, rows: int, names: frozenset[str]) -> None:
        self._rows, self._names = rows, names
        self.arrays: Arrays = {}

    def set(self, columns: Mapping[str, AnyArray], row_ids: Int64Array | None = None) -> None:
        """Sets attributes of all rows, or of some; an array of all rows in the stored dtype is kept without a copy.

        Args:
            columns: name -> float[n] or int[n].
            row_ids: int64[n], distinct; None for all rows. Rows without a value get 0, or -1 for factor and label.

        Raises:
            InputError: a length is wrong, a row is outside the pool, or a float is not finite; nothing is set.
        """
        self.check(columns, row_ids)
        for name in self._names & columns.keys():
            values = _compact(columns[name], floats=_KINDS[name][0])
            self.arrays[name] = values if row_ids is None else self._merged(name, row_ids, values)

    def check(self, columns: Mapping[str, AnyArray], row_ids: Int64Array | None = None) -> None:
        """Checks the arguments of `set`: name -> float[n] or int[n], and row_ids int64[n].

        Raises:
            InputError: a length is wrong, a row is outside the pool, or a float is not finite.
        """
        rows = self._rows if row_ids is None else len(row_ids)
        if row_ids is not None and rows and not 0 <= row_ids.min() <= row_ids.max() < self._rows:
            raise InputError(f"rows {row_ids.min()} to {row_ids.max()} of {self._rows}", "check the row_ids")
        for name, values in columns.items():
            if len(values) != rows:
                raise InputError(f"{len(values)} values of {name} for {rows} rows", "give one for each row")
            if _KINDS[name][0] and (wrong := _not_finite(values)):
                raise InputError(f"{name} of {wrong} rows is not finite", "score those rows again")

    def _merged(self, name: str, row_ids: Int64Array, values: AnyArray) -> AnyArray:
        # A new array: the present one may be the caller's.
        old = self.arrays.get(name)
        if old is None:
            old = np.full(self._rows, _KINDS[name][1], dtype=values.dtype)
        merged = old.astype(np.promote_types(old.dtype, values.dtype))
        merged[row_ids] = values
        return merged


def count_flagged(rows: int, flags_of: Callable[[slice], BoolArray]) -> int:
    """Counts the rows, out of N = `rows`, for which a function of a slice of them, called in threads, gives True."""
    return sum(map_chunks(rows, lambda chunk: int(np.count_nonzero(flags_of(chunk.slice)))))


def _not_finite(values: AnyArray) -> int:
    return count_flagged(len(values), lambda at: ~np.isfinite(values[at]))


def _compact(values: AnyArray, *, floats: bool) -> AnyArray:
    if floats:
        return values.astype(np.float16, copy=False)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    narrowest = next(kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return values.astype(narrowest, copy=False)
