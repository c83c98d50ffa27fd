"""Rows sorted by cell without all of them in one place: ranges of rows are split, and blocks of sorted rows gathered.

A range holds rows in their own order, a block those at successive positions among the sorted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coevo_ray.core.arrays import Float32Array, FloatArray, Int32Array
from coevo_ray.core.graph.unit_rows import UnitRows
from coevo_ray.core.rows.chunks import CHUNK_ROWS

_RANGE_ROWS = CHUNK_ROWS  # 128 MiB of 256 dimensions; sums of chunks, and of products, do not depend on ranges of these
_BLOCK_BYTES = 1 << 27
_SMALL_BYTES = 1 << 28
_MOST = 512  # ranges, and blocks: their pieces are objects of their own


@dataclass(frozen=True)
class Cut:
    """How N rows are cut.

    Attributes:
        rows: N.
        dim: d.
        range_rows: rows of each range but the last.
        block_rows: rows of each block but the last.
        single: blocks hold rows of length 1 as float32, and not as float16.
    """

    rows: int
    dim: int
    range_rows: int
    block_rows: int
    single: bool

    @classmethod
    def of(cls, rows: int, dim: int, range_rows: int | None = None, block_rows: int | None = None) -> Cut:
        """Cuts N rows of d values.

        Args:
            rows, dim: N and d.
            range_rows: None for 262 144 rows, more beyond 134 million rows.
            block_rows: None for 128 MiB, more beyond 64 GiB; where all rows take at most 256 MiB as float32, for one.
        """
        single = 4 * rows * dim <= _SMALL_BYTES
        usual = rows if single else max(_BLOCK_BYTES // (2 * dim), -(-rows // _MOST))
        ranges = -(-rows // (_MOST * _RANGE_ROWS))
        return cls(rows, dim, range_rows or _RANGE_ROWS * max(1, ranges), max(1, block_rows or usual), single)

    @staticmethod
    def most_ranges(rows: int, range_rows: int | None = None) -> int:
        """Bound on the number of ranges of at most so many rows, at least 1; arguments as of `of`."""
        ranges = -(-rows // (range_rows or _RANGE_ROWS))
        return max(1, ranges if range_rows else min(_MOST, ranges))

    @property
    def ranges(self) -> list[slice]:
        """The ranges, as slices of an array[N, ...]."""
        return _cut(self.rows, self.range_rows)

    @property
    def blocks(self) -> list[slice]:
        """The blocks, as slices of an array[N, ...] of sorted rows."""
        return _cut(self.rows, self.block_rows)


def _cut(rows: int, size: int) -> list[slice]:
    return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]


@dataclass(frozen=True, eq=False)
class Piece:
    """The rows that a range and a block share.

    Attributes:
        rows: int32[n], numbers of the rows.
        raw, scale: float16[n, d] and float32[n], see `UnitRows`.
        places: int32[n], places in the block, increasing.
    """

    rows: Int32Array
    raw: FloatArray
    scale: Float32Array
    places: Int32Array


@dataclass(frozen=True, eq=False)
class Block:
    """A block of sorted rows.

    Attributes:
        rows: int32[n], their numbers: those of `Cells.order` in this block. A block that is made again on another
            processor may have others, since the last bits of products may differ there.
        unit: the rows.
    """

    rows: Int32Array
    unit: UnitRows


def split(rows: UnitRows, first: int, positions: Int32Array, cut: Cut) -> list[Piece]:
    """Splits a range by block.

    Args:
        rows: the range: n rows of float16.
        first: number of the first.
        positions: int32[n], position of each among the sorted rows.
        cut: the blocks.

    Returns:
        A piece for each block.
    """
    assert rows.scale is not None
    order = np.argsort(positions)
    cuts = np.searchsorted(positions, [block.start for block in cut.blocks[1:]], sorter=order)
    pieces = []
    for block, mine in zip(cut.blocks, np.split(order, cuts), strict=True):
        places = (positions[mine] - block.start).astype(np.int32)
        pieces.append(Piece((mine + first).astype(np.int32), rows.raw[mine], rows.scale[mine], places))
    return pieces


def gather(pieces: Sequence[Piece], block: slice, cut: Cut, mean: Float32Array | None) -> Block:
    """Makes a block of the pieces that all ranges have of it.

    Args:
        pieces: of each range one.
        block: positions of the block's rows.
        cut: tells the form of the rows.
        mean: see `UnitRows`.
    """
    count = block.stop - block.start
    rows = np.full(count, -1, dtype=np.int32)
    raw, scale = np.empty((count, cut.dim), dtype=np.float16), np.empty(count, dtype=np.float32)
    for piece in pieces:
        rows[piece.places], raw[piece.places], scale[piece.places] = piece.rows, piece.raw, piece.scale
    unit = UnitRows(raw, scale, mean)
    return Block(rows, UnitRows(unit.read(slice(None))) if cut.single else unit)
