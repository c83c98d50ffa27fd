"""Rows as plans and searches of a neighbour graph read them, wherever they are kept."""

from __future__ import annotations

from typing import Protocol

from coevo_ray.core.arrays import Float32Array, IntArray


class Rows(Protocol):
    """Read access to rows of length 1: `UnitRows`, or others in the same bits."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """Number of values per row d."""

    def read(self, which: slice | IntArray) -> Float32Array:
        """Reads some rows as float32[..., d]; do not write to the result, which may be a view."""
