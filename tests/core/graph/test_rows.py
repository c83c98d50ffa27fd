"""Rows in blocks read as the rows themselves, and only a few blocks are held."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph.rows import BlockRows
from coevo_ray.core.graph.unit_rows import UnitRows

ROWS, DIM = 53, 4


def blocks(size: int, keep: int) -> tuple[BlockRows, UnitRows, list[int]]:
    """Rows in blocks, the rows, and a list of the blocks that are fetched."""
    whole = UnitRows.of(np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float16))
    assert whole.scale is not None
    fetched: list[int] = []

    def fetch(number: int) -> UnitRows:
        fetched.append(number)
        part = slice(number * size, (number + 1) * size)
        assert whole.scale is not None
        return UnitRows(whole.raw[part], whole.scale[part])

    return BlockRows(ROWS, DIM, size, fetch, keep), whole, fetched


@settings(max_examples=60)
@given(
    size=st.integers(1, 60),
    start=st.integers(0, 60),
    stop=st.integers(0, 60),
    picked=st.lists(st.integers(0, ROWS - 1), max_size=40),
)
def test_reads_are_those_of_the_rows(size: int, start: int, stop: int, picked: list[int]) -> None:
    rows, whole, _ = blocks(size, 2)
    assert (len(rows), rows.dim) == (ROWS, DIM)
    np.testing.assert_array_equal(rows.read(slice(start, stop)), whole.read(slice(start, stop)))
    which = np.array(picked, dtype=np.int64)
    np.testing.assert_array_equal(rows.read(which), whole.read(which))
    if len(picked) % 2 == 0:
        np.testing.assert_array_equal(rows.read(which.reshape(2, -1)), whole.read(which.reshape(2, -1)))


def test_increasing_reads_fetch_each_block_once() -> None:
    rows, _, fetched = blocks(10, 2)
    for start in range(0, ROWS, 3):
        rows.read(slice(start, start + 3))
    assert fetched == [0, 1, 2, 3, 4, 5]
    assert list(rows._held) == [4, 5]
    rows.read(np.array([52, 41, 42]))
    assert fetched[6:] == []
    rows.read(np.array([12, 3, 13]))
    assert fetched[6:] == [0, 1]


def test_threads_read_at_once() -> None:
    rows, whole, _ = blocks(5, 1)
    parts = [slice(start, start + 7) for start in range(0, ROWS, 7)] * 20
    with ThreadPoolExecutor(8) as pool:
        for part, read in zip(parts, pool.map(rows.read, parts), strict=True):
            np.testing.assert_array_equal(read, whole.read(part))
    assert len(rows._held) == 1
