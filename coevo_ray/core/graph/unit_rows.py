"""Rows of length 1, for cosine similarity: read from half precision where that is what the features are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float16Array, Float32Array, Float64Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.rows.chunks import Chunk, map_chunks
from coevo_ray.errors import InputError

_SHOWN = 5


def unit_rows(features: FloatArray) -> Float32Array:
    """Rows of length 1, as float32[N, d].

    Raises:
        InputError: not two-dimensional, or rows that are zero or not finite; it names how many and the first.
    """
    check_shape(features)
    largest = np.abs(features).max(axis=1, initial=0)  # dividing by it first keeps squares from over- or underflowing
    refuse_rows(~np.isfinite(largest) | (largest == 0))
    unit: Float32Array = (features / largest[:, None]).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit


def check_shape(features: FloatArray) -> None:
    """Refuses what is no matrix of numbers.

    Raises:
        InputError: it is none.
    """
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise InputError(
            f"features of shape {features.shape} and type {features.dtype}", "give numbers of shape [N, d]"
        )


def refuse_rows(bad: BoolArray, names: Int64Array | None = None) -> None:
    """Refuses rows without a direction.

    Args:
        bad: bool[N].
        names: int64[N], what the rows are called; None for their places.

    Raises:
        InputError: there are such rows; it names how many and the first.
    """
    if bad.any():
        first = (np.flatnonzero(bad) if names is None else names[bad])[:_SHOWN].tolist()
        raise InputError(
            f"{int(bad.sum())} of {len(bad)} feature rows are zero or not finite, first rows {first}",
            "reject those rows before building the graph",
        )


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Rows of length 1 that are made when they are read, so that half precision is the only copy in memory.

    A row is (float32(raw) - mean) * scale. Its bits do not depend on the other rows that are read with it.

    Attributes:
        raw: float16[N, d], or float32[N, d] of unit rows.
        scale: float32[N], 1 / length of each row less the mean; None where the rows have length 1 already.
        mean: float32[d], taken off each row; None takes nothing off.
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
        """Unit rows of features; float16 is not copied, anything else once, as float32.

        Args:
            features: float[N, d], not changed; float16 must stay as it is while the result is used.
            centre: take the features' mean off each row first.
            names: int64[N], what errors call the rows; None for their places.

        Raises:
            InputError: not two-dimensional, or rows that are zero (less the mean) or not finite.
        """
        check_shape(features)
        if features.dtype != np.float16:
            if centre:
                features = features - mean_row(features)
            return cls(unit_rows(features))
        mean = mean_row(features, names) if centre else None
        lengths = list(map_chunks(len(features), lambda c: _lengths(features[c.slice], mean)))
        length = np.concatenate(lengths) if lengths else np.zeros(0)
        with np.errstate(divide="ignore"):
            scale = (1.0 / length).astype(np.float32)
        refuse_rows(~np.isfinite(length) | ~np.isfinite(scale), names)
        return cls(features, scale, mean)

    @classmethod
    def about(cls, features: Float16Array, mean: Float32Array) -> tuple[UnitRows, BoolArray]:
        """Unit rows less a mean that others have; those without a direction become zero and are named, not refused.

        Args:
            features: float16[N, d]; copied where a row is unusable.
            mean: float32[d].

        Returns:
            The rows, and which are usable (finite, neither zero nor the mean itself): bool[N].
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
        """Values of a row d."""
        return int(self.raw.shape[1])

    def read(self, which: slice | IntArray) -> Float32Array:
        """Some rows as float32[n, d], not to be written to."""
        rows = self.raw[which]
        if self.scale is None:
            return rows
        rows = single(rows)
        if self.mean is not None:
            rows -= self.mean
        rows *= self.scale[which][..., None]
        return rows

    def sorted_by(self, order: IntArray) -> UnitRows:
        """A copy with the rows in another order."""
        raw = np.empty((len(order), self.dim), dtype=self.raw.dtype)

        def fill(chunk: Chunk) -> None:
            raw[chunk.slice] = self.raw[order[chunk.slice]]

        list(map_chunks(len(order), fill))
        return UnitRows(raw, None if self.scale is None else self.scale[order], self.mean)


def single(half: FloatArray) -> Float32Array:
    """Converts float16[...] to float32[...], a copy."""
    import torch  # here, for its start-up time; it converts several times as fast as NumPy

    whole = half if half.flags.writeable else half.copy()  # torch warns of memory that may not be written to
    result: Float32Array = torch.from_numpy(whole).to(torch.float32).numpy()
    return result


def mean_row(features: FloatArray, names: Int64Array | None = None) -> Float32Array:
    """The mean of all rows, summed in float64 a chunk at a time.

    Args:
        features: float[N, d].
        names: see `refuse_rows`.

    Raises:
        InputError: rows are not finite.
    """
    total = np.zeros(features.shape[1])
    for part in map_chunks(len(features), lambda c: features[c.slice].sum(axis=0, dtype=np.float64)):
        total += part
    if not np.isfinite(total).all():
        refuse_rows(np.logical_not(np.isfinite(features).all(axis=1)), names)
    return (total / max(1, len(features))).astype(np.float32)


def _lengths(features: FloatArray, mean: Float32Array | None) -> Float64Array:
    block = single(features)
    if mean is not None:
        block -= mean
    squares = np.einsum("nd,nd->n", block, block)  # of half precision: neither over- nor underflows
    lengths: Float64Array = np.sqrt(squares.astype(np.float64))
    return lengths
