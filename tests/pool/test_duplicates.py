from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.arrays import UInt64Array
from coevo_ray.pool.duplicates import as_hashes, find_duplicates, hash_all


def slow(contents: list[int], usable: list[bool]) -> list[tuple[int, int]]:
    """The obvious way: the first position of everything that was seen."""
    seen: dict[int, int] = {}
    result = []
    for position, (content, use) in enumerate(zip(contents, usable, strict=True)):
        if use and content in seen:
            result.append((position, seen[content]))
        elif use:
            seen[content] = position
    return result


ROWS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=40)


@given(ROWS, st.lists(st.integers(0, 40), max_size=5), st.booleans())
def test_duplicates_are_those_of_the_obvious_way(
    rows: list[tuple[int, bool]], cuts: list[int], share_halves: bool
) -> None:
    contents, usable = [r[0] for r in rows], [r[1] for r in rows]
    whole: UInt64Array
    if share_halves:  # equal first halves with different second ones are no duplicates
        whole = np.array([[0, c] for c in contents], np.uint64).reshape(-1, 2)
    else:
        whole = hash_all(bytes([c]) for c in contents)
    parts = np.array_split(np.arange(len(rows)), sorted(min(c, len(rows)) for c in cuts))
    doubles, firsts = find_duplicates([whole[p] for p in parts], [np.array(usable, bool)[p] for p in parts])
    assert list(zip(doubles.tolist(), firsts.tolist(), strict=True)) == slow(contents, usable)


def test_a_hash_is_blake2b_of_16_bytes() -> None:
    both = hash_all([b"a", b"b"])
    assert both.shape == (2, 2)
    assert both.dtype == np.dtype(np.uint64)
    assert both.tobytes() == b"".join(hashlib.blake2b(x, digest_size=16).digest() for x in (b"a", b"b"))
    assert as_hashes(b"").shape == (0, 2)


def test_nothing_has_no_duplicates() -> None:
    for doubles in (*find_duplicates([], []), *find_duplicates([as_hashes(b"")], [np.zeros(0, bool)])):
        assert len(doubles) == 0
        assert doubles.dtype == np.dtype(np.int64)
