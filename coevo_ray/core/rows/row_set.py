"""Sets of rows as bits, and the subset of an epoch, which is one such set (docs/design.md#selection)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Int64Array, UInt8Array
from coevo_ray.core.rows import chunks
from coevo_ray.core.rows.chunks import Chunk, each_chunk, map_chunks
from coevo_ray.errors import InputError

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


class RowSet:
    """A set of rows out of 0..N-1, as one bit per row: 12.5 MB for a hundred million rows, pickled or not.

    Args:
        bits: uint8[ceil(N / 8)], first row in the highest bit, as `numpy.packbits` makes them; kept, not copied.
        size: N.

    Raises:
        InputError: the number of bytes does not fit, or a bit after the last row is set.
    """

    def __init__(self, bits: UInt8Array, size: int) -> None:
        if bits.dtype != np.uint8 or bits.shape != (-(-size // 8),):
            raise InputError(f"bits {bits.dtype}{bits.shape} for {size} rows", "one bit per row, packed to bytes")
        if size % 8 and bits[-1] & (0xFF >> size % 8):
            raise InputError(f"a bit after the last of {size} rows is set", "take the bits of a set of that size")
        self.bits, self.size = bits, size

    @classmethod
    def from_flags(cls, flags: BoolArray) -> RowSet:
        """Makes the set of rows whose flag is set, from bool[N]."""
        return cls(np.packbits(flags), len(flags))

    @classmethod
    def from_ids(cls, row_ids: Int64Array, size: int) -> RowSet:
        """Makes a set from row_ids.

        Args:
            row_ids: int64[n], distinct, in any order.
            size: N.

        Raises:
            InputError: a row is outside 0..N-1 or occurs twice.
        """
        flags = np.zeros(size, dtype=bool)
        inside = len(row_ids) == 0 or (row_ids.min() >= 0 and row_ids.max() < size)
        if inside:
            flags[row_ids] = True
        if not inside or np.count_nonzero(flags) != len(row_ids):
            raise InputError(f"{len(row_ids)} row_ids are not distinct rows of {size}", "give each row once")
        return cls.from_flags(flags)

    @classmethod
    def full(cls, size: int) -> RowSet:
        """Makes the set of all rows, 0..N-1: bits uint8[ceil(N / 8)]."""
        bits = np.full(-(-size // 8), 0xFF, dtype=np.uint8)
        if size % 8:
            bits[-1] = 0xFF & (0xFF00 >> size % 8)
        return cls(bits, size)

    @classmethod
    def empty(cls, size: int) -> RowSet:
        """Makes the set without rows, of N = `size`: bits uint8[ceil(N / 8)]."""
        return cls(np.zeros(-(-size // 8), dtype=np.uint8), size)

    @cached_property
    def _count(self) -> int:
        return sum(map_chunks(self.size, lambda chunk: int(np.count_nonzero(self.flags(chunk)))))

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowSet) and self.size == other.size and np.array_equal(self.bits, other.bits)

    __hash__ = None  # type: ignore[assignment]  # the bits are an array, which may be changed

    def __reduce__(self) -> tuple[type[RowSet], tuple[UInt8Array, int]]:
        return (type(self), (self.bits, self.size))

    def flags(self, chunk: Chunk | None = None) -> BoolArray:
        """Returns membership as bool[N], or bool[stop - start] of a chunk."""
        if chunk is None:
            return np.unpackbits(self.bits, count=self.size).view(np.bool_)
        bits = self.bits[chunk.start // 8 : -(-chunk.stop // 8)]
        return np.unpackbits(bits, count=chunk.stop - chunk.start).view(np.bool_)

    def ids(self, chunk: Chunk | None = None) -> Int64Array:
        """Returns the row_ids of the set, or of a chunk of it: int64[n], increasing; computed by each call."""
        first = 0 if chunk is None else chunk.start
        flags = self.flags(chunk)
        if flags.all():
            return np.arange(first, first + len(flags), dtype=np.int64)
        ids = np.flatnonzero(flags).astype(np.int64, copy=False)
        ids += first
        return ids

    def ids_between(self, first: int, stop: int) -> Int64Array:
        """Returns the row_ids of the set from `first` to `stop` - 1, whatever N: int64[n], increasing."""
        first, stop = max(0, first), min(self.size, stop)
        if stop <= first:
            return np.zeros(0, dtype=np.int64)
        start = first - first % 8
        ids = self.ids(Chunk(start, stop))
        return ids[np.searchsorted(ids, first) :]

    def ranks(self, rows: Int64Array) -> Int64Array:
        """Counts the rows of the set before each of some row numbers.

        Args:
            rows: int64[n], increasing; outside 0..N, too.

        Returns:
            int64[n]; temporaries are those of a chunk.
        """
        inside, before = np.clip(rows, 0, self.size), 0
        ranks: Int64Array = np.empty(len(rows), dtype=np.int64)
        for start in range(0, self.size + 1, chunks.CHUNK_ROWS):
            bits = self.bits[start // 8 : (start + chunks.CHUNK_ROWS) // 8]
            sums = np.concatenate([[0], np.cumsum(_ONES[bits], dtype=np.int64)])
            low, high = np.searchsorted(inside, [start, start + chunks.CHUNK_ROWS])
            local = inside[low:high] - start
            byte, bit = local >> 3, local & 7
            # The byte that a row is in, down to the bits before it; the row after the last one may have no byte.
            part = np.append(bits, np.uint8(0))[byte] & (0xFF00 >> bit).astype(np.uint8)
            ranks[low:high] = before + sums[byte] + _ONES[part]
            before += int(sums[-1])
        return ranks

    def contains(self, row_ids: Int64Array) -> BoolArray:
        """Tests membership of row_ids int64[n]: bool[n], False for rows outside 0..N-1."""
        inside = (row_ids >= 0) & (row_ids < self.size)
        ids = np.where(inside, row_ids, 0)
        found: BoolArray = (self.bits[ids >> 3] >> (7 - (ids & 7)).astype(np.uint8)) & 1 == 1
        return found & inside

    def issubset(self, other: RowSet) -> bool:
        """Tests whether the other set has the same N and contains every row of this one: bool."""
        return self.size == other.size and not (self.bits & ~other.bits).any()

    def intersection(self, other: RowSet) -> RowSet:
        """Returns the rows that are in both sets, of equal N: bits uint8[ceil(N / 8)]."""
        return RowSet(self.bits & other.bits, self.size)

    def update(self, other: RowSet) -> None:
        """Adds the rows of another set of equal N, in place."""
        self.bits |= other.bits
        self.__dict__.pop("_count", None)

    def without(self, flags_of: Callable[[Chunk], BoolArray]) -> RowSet:
        """Returns the rows of this set that are not flagged.

        Args:
            flags_of: chunk -> bool[stop - start]; called once per chunk, in threads.
        """
        kept = RowSet.empty(self.size)

        def keep(chunk: Chunk) -> None:
            kept.bits[chunk.start // 8 : -(-chunk.stop // 8)] = np.packbits(self.flags(chunk) & ~flags_of(chunk))

        each_chunk(self.size, keep)
        return kept

    def add(self, row_ids: Int64Array) -> None:
        """Adds row_ids int64[n] in 0..N-1, in place; rows of the set may be among them."""
        np.bitwise_or.at(self.bits, row_ids >> 3, (128 >> (row_ids & 7)).astype(np.uint8))
        self.__dict__.pop("_count", None)


# Either row_ids int64[n], increasing, or a set; `ids_of` gives row_ids of both.
Rows = RowSet | Int64Array


def ids_of(rows: Rows) -> Int64Array:
    """Returns the row_ids of either form of rows: int64[n], increasing."""
    return rows.ids() if isinstance(rows, RowSet) else rows


class EpochRows(Protocol):
    """The rows of one epoch as a plan of it asks for them: a few at a time, wherever they are kept."""

    @property
    def epoch(self) -> int:
        """From 0."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def positions(self, rows: Int64Array) -> Int64Array:
        """Counts the epoch's rows before each of some row numbers int64[n], increasing: int64[n]."""
        ...

    def read(self, spans: Int64Array) -> tuple[Int64Array, Float32Array | None]:
        """Reads the rows of some spans, one span after the other.

        Args:
            spans: int64[m, 3], each first row number, end, and `positions` of the first.

        Returns:
            row_ids int64[n], and weights float32[n] or None where every row weighs 1.
        """
        ...


class Subset:
    """The rows of one epoch.

    Attributes:
        epoch: from 0.
        row_ids: int64[n], increasing and distinct; computed at first access if the rows are a set.
        weights: float32[n], or None where every row weighs 1.

    Args:
        epoch: from 0.
        rows: row_ids int64[n], or a set, with which a subset in the object store costs one bit per row of the pool.
        weights: float32[n], or None.
    """

    def __init__(self, epoch: int, rows: Rows, weights: Float32Array | None = None) -> None:
        self.epoch, self.rows, self.weights = epoch, rows, weights

    @cached_property
    def row_ids(self) -> Int64Array:
        """row_ids int64[n], increasing; see the class."""
        return ids_of(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def positions(self, rows: Int64Array) -> Int64Array:
        """Counts the rows before each of some row numbers int64[n], increasing: int64[n]."""
        if isinstance(self.rows, RowSet):
            return self.rows.ranks(rows)
        return np.searchsorted(self.rows, rows).astype(np.int64, copy=False)

    def read(self, spans: Int64Array) -> tuple[Int64Array, Float32Array | None]:
        """Reads the rows of spans int64[m, 3], see `EpochRows`: int64[n] and float32[n] or None."""
        parts: list[Int64Array] = [np.zeros(0, dtype=np.int64)]
        weights: list[Float32Array] = [np.zeros(0, dtype=np.float32)]
        for first, stop, position in spans.tolist():
            parts.append(self._between(first, stop))
            if self.weights is not None:
                weights.append(self.weights[position : position + len(parts[-1])])
        return np.concatenate(parts), None if self.weights is None else np.concatenate(weights)

    def _between(self, first: int, stop: int) -> Int64Array:
        if isinstance(self.rows, RowSet):
            return self.rows.ids_between(first, stop)
        low, high = np.searchsorted(self.rows, [first, stop])
        return self.rows[low:high]

    def __reduce__(self) -> tuple[type[Subset], tuple[Any, ...]]:
        return (type(self), (self.epoch, self.rows, self.weights))
