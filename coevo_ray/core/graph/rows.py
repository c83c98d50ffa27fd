"""Rows as plans and searches of a neighbour graph read them, wherever they are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import numpy as np

from coevo_ray.core.arrays import Float32Array, IntArray


class Rows(Protocol):
    """Read access to rows of length 1: `UnitRows`, or others in the same bits."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """Number of values per row d."""

    def read(self, which: slice | IntArray) -> Float32Array:
        """Reads some rows as float32[..., d]; do not write to the result, which may be a view."""


class BlockRows:
    """Rows in blocks, of which a few are held at a time: a block is fetched when rows of it are read.

    Reads by increasing position fetch each block once. Several threads may read.

    Args:
        rows: N.
        dim: d.
        block_rows: rows of each block but the last.
        fetch: number of a block -> its rows.
        keep: most blocks to hold, those read last.
    """

    def __init__(self, rows: int, dim: int, block_rows: int, fetch: Callable[[int], Rows], keep: int) -> None:
        self._rows, self._dim, self._size, self._fetch, self._keep = rows, dim, block_rows, fetch, keep
        self._held: OrderedDict[int, Rows] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._rows

    @property
    def dim(self) -> int:
        """Number of values per row d."""
        return self._dim

    def read(self, which: slice | IntArray) -> Float32Array:
        """Reads some rows, as `Rows.read`; a slice has no step, positions are from 0 on."""
        if self._rows <= self._size:
            return self._block(0).read(which)
        if isinstance(which, slice):
            start, stop, _ = which.indices(self._rows)
            within = range(start // self._size, -(-stop // self._size)) if start < stop else range(0)
            parts = [self._part(number, start, stop) for number in within]
            return parts[0] if len(parts) == 1 else np.concatenate([np.zeros((0, self._dim), np.float32), *parts])
        flat = which.reshape(-1)
        block = flat // self._size
        order = np.argsort(block, kind="stable")
        numbers, starts = np.unique(block[order], return_index=True)
        made = np.empty((len(flat), self._dim), dtype=np.float32)
        for number, here in zip(numbers.tolist(), np.split(order, starts[1:]), strict=False):
            made[here] = self._block(number).read(flat[here] - number * self._size)
        return made.reshape(*which.shape, self._dim)

    def _part(self, number: int, start: int, stop: int) -> Float32Array:
        """Those of a range of rows that are in a block."""
        first = number * self._size
        return self._block(number).read(slice(max(0, start - first), min(self._size, stop - first)))

    def _block(self, number: int) -> Rows:
        with self._lock:
            if number in self._held:
                self._held.move_to_end(number)
                return self._held[number]
        block = self._fetch(number)  # perhaps by two threads at once
        with self._lock:
            self._held[number] = block
            if len(self._held) > self._keep:
                self._held.popitem(last=False)
        return block
