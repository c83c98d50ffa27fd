"""Rows of length 1 for cosine similarity, computed on access where features are float16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float16Array, Float32Array, Float64Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.graph.rows import Rows
from coevo_ray.core.rows.chunks import Chunk, each_chunk, map_chunks
from coevo_ray.errors import InputError

_SHOWN = 5
_LENGTH_ROWS = 4096  # converted to float32 at a time


def unit_rows(features: FloatArray) -> Float32Array:
    """Scales rows of float[N, d] to length 1: float32[N, d].

    Raises:
        InputError: features are not a matrix of numbers, or rows are zero or not finite.

    Examples:
        >>> unit_rows(np.array([[3.0, 4.0]])).round(6).tolist() == np.float32([[0.6, 0.8]]).tolist()
        True
    """
    check_shape(features)
    largest = np.abs(features).max(axis=1, initial=0)  # dividing by it first keeps squares from over- or underflowing
    refuse_rows(~np.isfinite(largest) | (largest == 0))
    unit: Float32Array = (features / largest[:, None]).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit


def check_shape(features: FloatArray) -> None:
    """Checks that features are a matrix of numbers, float[N, d] or int[N, d].

    Raises:
        InputError: they are not.
    """
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise InputError(
            f"features of shape {features.shape} and type {features.dtype}", "give numbers of shape [N, d]"
        )


def refuse_rows(bad: BoolArray, names: Int64Array | None = None) -> None:
    """Raises an error if there are rows without a direction.

    Args:
        bad: bool[N], rows that are zero or not finite.
        names: int64[N], row_ids for the message; None for positions.

    Raises:
        InputError: a row is bad; the message has their number and the first of them.
    """
    BadRows.of(bad, names).refuse()


class BadRows(NamedTuple):
    """Rows without a direction, zero or not finite, counted; of several ranges of rows, the sum.

    Attributes:
        rows: number of all rows.
        bad: number of those without a direction.
        first: the first of them, row_ids or positions.
    """

    rows: int = 0
    bad: int = 0
    first: tuple[int, ...] = ()

    @classmethod
    def of(cls, bad: BoolArray, names: Int64Array | None = None) -> BadRows:
        """Counts the marked rows.

        Args:
            bad: bool[n].
            names: int64[n], their row_ids; None for positions.
        """
        first = (np.flatnonzero(bad) if names is None else names[bad])[:_SHOWN]
        return cls(len(bad), int(bad.sum()), tuple(first.tolist()))

    def and_those(self, of: BadRows) -> BadRows:
        """Adds those of the next range."""
        return BadRows(self.rows + of.rows, self.bad + of.bad, (self.first + of.first)[:_SHOWN])

    def refuse(self) -> None:
        """Raises an error if there are any.

        Raises:
            InputError: there are; the message has their number and the first of them.
        """
        if self.bad:
            raise InputError(
                f"{self.bad} of {self.rows} feature rows are zero or not finite, first rows {list(self.first)}",
                "are all samples the same? Then there is nothing to compare; otherwise see encode"
                if self.bad == self.rows
                else "reject those rows before building the graph",
            )


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Rows of length 1, computed when read, so that float16 features are the only copy in memory.

    A row is (float32(raw) - mean) * scale. Its bits do not depend on the rows that are read with it.

    Attributes:
        raw: float16[N, d] features, or float32[N, d] unit rows.
        scale: float32[N], 1 / length of each row less the mean; None if rows have length 1 already.
        mean: float32[d], subtracted from each row; None subtracts nothing.
    """

    raw: FloatArray
    scale: Float32Array | None = None
    mean: Float32Array | None = None

    @classmethod
    def of(
        cls,
        features: FloatArray,
        *,
        centre: bool = False,
        names: Int64Array | None = None,
    ) -> UnitRows:
        """Makes unit rows of features; float16 is not copied, other dtypes are copied once, as float32.

        Args:
            features: float[N, d], not changed; do not change float16 features while the result is in use.
            centre: subtract the features' mean from each row first.
            names: int64[N], row_ids for error messages; None for positions.

        Raises:
            InputError: features are not a matrix of numbers, or rows are zero (less the mean) or not finite.
        """
        check_shape(features)
        if features.dtype != np.float16:
            if centre:
                features = features - mean_row(features)
            return cls(unit_rows(features))
        mean = mean_row(features, names) if centre else None
        scale, bad = scales(features, mean)
        refuse_rows(bad, names)
        return cls(features, scale, mean)

    @classmethod
    def about(cls, features: Float16Array, mean: Float32Array) -> tuple[UnitRows, BoolArray]:
        """Makes unit rows about a given mean; rows without a direction become zero and are marked.

        Args:
            features: float16[N, d]; copied if a row is unusable.
            mean: float32[d], subtracted from each row.

        Returns:
            The rows, and bool[N], True for usable ones: finite, and neither zero nor equal to the mean.
        """
        check_shape(features)
        finite = np.isfinite(features).all(axis=1)
        usable = finite & (features != 0).any(axis=1)
        if not usable.all():
            features = features.copy()
            features[~usable] = 0
        parts = map_chunks(len(features), lambda c: _lengths(features[c.slice], mean))
        with np.errstate(divide="ignore"):
            scale = (1.0 / np.concatenate([np.zeros(0), *parts])).astype(np.float32)
        usable &= np.isfinite(scale)
        scale[~usable] = 0
        return cls(features, scale, mean), usable

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def dim(self) -> int:
        """Number of values per row d."""
        return int(self.raw.shape[1])

    def read(self, which: slice | IntArray) -> Float32Array:
        """Reads some rows as float32[n, d]; do not write to the result, which may be a view."""
        rows = self.raw[which]
        if self.scale is None:
            return rows
        rows = single(rows)
        if self.mean is not None:
            rows -= self.mean
        rows *= self.scale[which][..., None]
        return rows

    def sorted_by(self, order: IntArray) -> UnitRows:
        """Copies the rows in another order, int[n] positions."""
        raw = np.empty((len(order), self.dim), dtype=self.raw.dtype)

        def fill(chunk: Chunk) -> None:
            raw[chunk.slice] = self.raw[order[chunk.slice]]

        each_chunk(len(order), fill)
        return UnitRows(raw, None if self.scale is None else self.scale[order], self.mean)


@dataclass(frozen=True, eq=False)
class RowsInOrder:
    """Rows of length 1 in another order, looked up when read: for few reads of rows that are not to be copied.

    Attributes:
        rows: N rows.
        order: int[N] positions.
    """

    rows: Rows
    order: IntArray

    def __len__(self) -> int:
        return len(self.order)

    @property
    def dim(self) -> int:
        """Number of values per row d."""
        return self.rows.dim

    def read(self, which: slice | IntArray) -> Float32Array:
        """Reads some rows as float32[n, d]; do not write to the result, which may be a view."""
        return self.rows.read(self.order[which])


def single(half: FloatArray) -> Float32Array:
    """Converts float16[...] to float32[...], a copy."""
    import torch  # here, for its start-up time; it converts several times as fast as NumPy

    writeable = half if half.flags.writeable else half.copy()  # torch warns about read-only memory
    result: Float32Array = torch.from_numpy(writeable).to(torch.float32).numpy()
    return result


def mean_row(features: FloatArray, names: Int64Array | None = None) -> Float32Array:
    """Computes the mean of all rows, float32[d], with float64 sums, a chunk at a time.

    Args:
        features: float[N, d].
        names: int64[N], row_ids for error messages; None for positions.

    Raises:
        InputError: rows are not finite.
    """
    sums = chunk_sums(features)
    if not np.isfinite(sums).all():
        refuse_rows(not_finite(features), names)
    return mean_of([sums], len(features))


def chunk_sums(features: FloatArray) -> Float64Array:
    """Sums rows, those of each chunk apart.

    Args:
        features: float[n, d].

    Returns:
        float64[c, d]; those of ranges that start with a chunk are, one after another, those of all rows.
    """
    sums = list(map_chunks(len(features), lambda c: features[c.slice].sum(axis=0, dtype=np.float64)))
    return np.array(sums, dtype=np.float64).reshape(len(sums), features.shape[1])


def mean_of(sums: Sequence[Float64Array], rows: int) -> Float32Array:
    """The mean of so many rows, float32[d], from the `chunk_sums` of their ranges, added in order."""
    total = np.zeros(sums[0].shape[1])
    for part in sums:
        for each in part:
            total += each
    return (total / max(1, rows)).astype(np.float32)


def not_finite(features: FloatArray) -> BoolArray:
    """Marks rows of float[n, d] with a value that is not finite: bool[n]."""
    return np.logical_not(np.isfinite(features).all(axis=1))


def scales(features: Float16Array, mean: Float32Array | None) -> tuple[Float32Array, BoolArray]:
    """Finds what rows are multiplied with to have length 1.

    Args:
        features: float16[n, d].
        mean: float32[d], subtracted from each row; None subtracts nothing.

    Returns:
        float32[n], see `UnitRows`, and bool[n], rows without a direction.
    """
    lengths = list(map_chunks(len(features), lambda c: _lengths(features[c.slice], mean)))
    length = np.concatenate(lengths) if lengths else np.zeros(0)
    with np.errstate(divide="ignore"):
        scale = (1.0 / length).astype(np.float32)
    return scale, ~np.isfinite(length) | ~np.isfinite(scale)


def _lengths(features: FloatArray, mean: Float32Array | None) -> Float64Array:
    lengths = np.empty(len(features))
    for start in range(0, len(features), _LENGTH_ROWS):
        part = slice(start, start + _LENGTH_ROWS)
        block = single(features[part])
        if mean is not None:
            block -= mean
        squares = np.einsum("nd,nd->n", block, block)  # of half precision: neither over- nor underflows
        lengths[part] = np.sqrt(squares.astype(np.float64))
    return lengths
