"""Predictions as they come to a gate: parts with row_ids, put together a block of classes at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from coevo_ray.actors.protocols import PredictedPart, Predictions, Ranges
from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.core.gate.class_blocks import BLOCK_CELLS, class_ranges
from coevo_ray.errors import InputError


@dataclass(frozen=True, eq=False)
class _Held:
    """A part that is in memory as a whole."""

    ids: Int64Array
    values: Float32Array
    ranges: Ranges

    def row_ids(self) -> Int64Array:
        return self.ids

    def block(self, number: int) -> Float32Array:
        first, end = self.ranges[number]
        return self.values[:, first:end]


class GatheredPredictions:
    """Predictions of all rows of a gate, as `core.gate.class_blocks.ClassBlocks`.

    One block of all rows is in memory at a time, beside what the caller holds. Pickles: parts that are fetched are
    fetched where they are gone through.

    Args:
        parts: (row_ids int64[n], float32[n, C]), or parts that are fetched.
        names: int64[N], the row_id at each position of the gate.
        positions: row_ids -> their positions.
        classes: C.
        at_once: processes of a machine that go through them at the same time: each has a smaller block.

    Raises:
        InputError: shapes do not fit, a row is not the gate's, or a row is missing.
    """

    def __init__(
        self,
        parts: Sequence[Predictions | PredictedPart],
        names: Int64Array,
        positions: Callable[[Int64Array], Int64Array],
        classes: int,
        at_once: int = 1,
    ) -> None:
        ranges = class_ranges(len(names), classes, BLOCK_CELLS // at_once)
        self._parts = [_held(*part, classes, ranges) if isinstance(part, tuple) else part for part in parts]
        self._ranges = self._parts[0].ranges if self._parts else ranges
        if any(list(part.ranges) != list(self._ranges) for part in self._parts):
            raise InputError("parts of predictions with different blocks of classes", "split all of them alike")
        self._rows = len(names)
        self._positions = [_compact(positions(part.row_ids())) for part in self._parts]
        there = np.zeros(len(names), dtype=np.bool_)
        for places in self._positions:
            there[places] = True
        if not there.all():
            missing = names[~there]
            raise InputError(
                f"{len(missing)} of {len(names)} rows have no prediction, first {missing[:3].tolist()}",
                "predict every row that the gate was opened for",
            )

    def __iter__(self) -> Iterator[tuple[int, Float32Array]]:
        """Yields the first class of each block, and float32[N, w], which the next block overwrites."""
        widest = max(end - first for first, end in self._ranges)
        cells: Float32Array = np.empty(self._rows * widest, dtype=np.float32)
        for number, (first, end) in enumerate(self._ranges):
            block = cells[: self._rows * (end - first)].reshape(self._rows, end - first)
            for part, places in zip(self._parts, self._positions, strict=True):
                block[places] = part.block(number)
            yield first, block


def _compact(positions: Int64Array) -> Int64Array | slice:
    """The same positions, as a slice where they follow one another."""
    count = len(positions)
    if count and positions[-1] - positions[0] == count - 1 and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def _held(ids: Int64Array, values: Float32Array, classes: int, ranges: Ranges) -> _Held:
    if values.shape != (len(ids), classes):
        raise InputError(
            f"predictions {list(values.shape)} for {len(ids)} rows and {classes} classes",
            "give one distribution over the classes for each row",
        )
    return _Held(ids, values, ranges)
