"""Refusal of rows that a gate cannot take."""

from __future__ import annotations

from coevo_ray.core.arrays import BoolArray, IntArray
from coevo_ray.errors import InputError


def refuse(wrong: BoolArray, rows: IntArray, what: str) -> None:
    """Raises an InputError that counts the wrong rows and names the first; nothing when none is wrong.

    Args:
        wrong: bool[n].
        rows: int[n].
        what: what is wrong with them, after "N of n rows".

    Raises:
        InputError: a row is wrong.
    """
    if wrong.any():
        first = rows[wrong][:5].tolist()
        raise InputError(f"{int(wrong.sum())} of {len(rows)} rows {what}, first rows {first}", "correct those rows")
