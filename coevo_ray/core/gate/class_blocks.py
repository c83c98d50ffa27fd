"""Class probabilities of many rows, a block of classes at a time (docs/design.md#gate-memory).

All that a gate takes from predictions is a function of single classes and of the largest ones, so float32[N, C] need
never be there at once: at ten million rows and a thousand classes it would take 40 GB.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, UInt16Array
from coevo_ray.core.gate.refusal import refuse
from coevo_ray.errors import InputError

BLOCK_CELLS = 1 << 29  # (row, class) cells of a block, 4 bytes each
_SUM_TOLERANCE = 1e-2


class ClassBlocks(Protocol):
    """Class probabilities of N rows; may be gone through more than once."""

    def __iter__(self) -> Iterator[tuple[int, Float32Array]]:
        """Yields the first class of each block, and float32[N, w] of it and the next w - 1 classes.

        Classes increase without gaps, from 0 to C. A block is valid until the next one is asked for.
        """
        ...


def class_ranges(rows: int, classes: int, cells: int = BLOCK_CELLS) -> list[tuple[int, int]]:
    """Cuts the classes into even ranges of at most `cells` (row, class) cells, but of two classes at least.

    Args:
        rows: N.
        classes: C, 2 or more.
        cells: most cells of a range.

    Returns:
        First class and end of each range. None has a single class: NumPy sums that one in another order than several.

    Examples:
        >>> class_ranges(rows=10, classes=7, cells=30)
        [(0, 2), (2, 4), (4, 7)]
    """
    width = max(2, cells // rows)
    count = min(-(-classes // width), classes // 2)
    bounds = [classes * i // count for i in range(count + 1)]
    return list(itertools.pairwise(bounds))


def checked(predictions: ClassBlocks, rows: int, classes: int) -> Iterator[tuple[int, Float32Array]]:
    """Yields the blocks whose shapes fit; what is in them is for `Sums`.

    Args:
        predictions: blocks of float32[N, w].
        rows: N.
        classes: C.

    Raises:
        InputError: they do not fit the rows and classes.
    """
    end = 0
    for first, values in predictions:
        end += values.shape[-1]
        fits = values.ndim == 2 and len(values) == rows and values.shape[1] >= 2 and values.dtype.kind == "f"
        if not fits or first + values.shape[1] != end:
            raise _misfit(f"{values.dtype}{list(values.shape)}", rows, classes)
        if end > classes:
            break
        yield first, values
    if end != classes:
        raise _misfit(f"of {end} classes", rows, classes)


def _misfit(have: str, rows: int, classes: int) -> InputError:
    return InputError(f"predictions {have}, need float{[rows, classes]}", "predict every row of the graph")


class Sums:
    """Tells which rows' probabilities are a distribution.

    Args:
        rows: n.
    """

    def __init__(self, rows: int) -> None:
        self._sums: Float64Array = np.zeros(rows)
        self._positive: BoolArray = np.ones(rows, dtype=np.bool_)

    def look(self, rows: slice, values: FloatArray) -> None:
        """Reads some rows' probabilities of some classes, float[m, w]."""
        self._sums[rows] += values.sum(axis=1, dtype=np.float64)
        self._positive[rows] &= values.min(axis=1) >= 0  # false for NaN too

    @property
    def sound(self) -> BoolArray:
        """bool[n], rows whose probabilities are 0 or more and sum up to 1."""
        sound: BoolArray = self._positive & (np.abs(self._sums - 1.0) <= _SUM_TOLERANCE)
        return sound


def check_sound(sound: BoolArray) -> None:
    """Refuses predictions of rows bool[N] that are no distributions.

    Raises:
        InputError: some are not.
    """
    refuse(~sound, np.arange(len(sound)), "have predictions that are no distribution (sum 1, none below 0)")


class Leaders:
    """The largest probability of each row over the blocks that were looked at, and the second largest.

    Args:
        rows: N.
        dtype: of the probabilities.
        second: whether the second largest is wanted.

    Attributes:
        best: uint16[N], class of the largest, the lowest of several.
        first: float[N], the largest; -inf before the first block.
        second: float[N], the second largest; None where it is not wanted.
    """

    def __init__(self, rows: int, dtype: type[np.floating], *, second: bool) -> None:
        self.best: UInt16Array = np.zeros(rows, dtype=np.uint16)
        self.first: FloatArray = np.full(rows, -np.inf, dtype=dtype)
        self.second: FloatArray | None = np.full(rows, -np.inf, dtype=dtype) if second else None

    def look(self, rows: slice, first_class: int, values: FloatArray) -> None:
        """Reads some rows' probabilities of some classes.

        Args:
            rows: n rows.
            first_class: the class of the first column.
            values: float[n, w], w of 2 or more; of classes after those looked at before.
        """
        place = values.argmax(axis=1)
        high, before = values[np.arange(len(values)), place], self.first[rows]
        if self.second is not None:
            low = np.partition(values, -2, axis=1)[:, -2]
            self.second[rows] = np.maximum(np.maximum(self.second[rows], low), np.minimum(before, high))
        better = high > before
        self.best[rows][better] = place[better] + first_class
        self.first[rows] = np.maximum(before, high)
