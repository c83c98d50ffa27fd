"""Damaged inputs: valid files, changed by a few operations that Hypothesis chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from hypothesis import strategies as st

# What parsers stumble over: sizes, signs, quotes, nesting, other encodings, paths that lead outside.
TOKENS = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\xef\xbb\xbf",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 400,
    b"null",
    b'"',
    b"'",
    b",",
    b"\r",
    b"\n\n",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"../../../outside",
    b"/tmp/outside",
    b"file:///outside",
    b"true",
    b"2024-13-45",
    b"!!python/object/apply:os.system [exit]",
    b"&a [*a, *a]",
    b"\xe2\x80\xae",
    b"=cmd()",
    b"%s%n",
    b"\xd8\x00",
)
Operation: TypeAlias = tuple[str, float, float, int]
Files: TypeAlias = dict[str, bytes]

_OPERATIONS = st.tuples(
    st.sampled_from(["flip", "set", "cut", "insert", "repeat", "move", "end"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 255),
)
# Which valid input, which of its files, and what happens to it.
CHANGES = st.tuples(st.integers(0, 63), st.integers(0, 63), st.lists(_OPERATIONS, min_size=1, max_size=5))


def damaged(seeds: Sequence[Files], change: tuple[int, int, list[Operation]]) -> Files:
    """One of the valid inputs with one file changed."""
    which, file, operations = change
    files = dict(seeds[which % len(seeds)])
    name = sorted(files)[file % len(files)]
    data = files[name]
    for operation in operations:
        data = _changed(data, operation)
    files[name] = data
    return files


def _changed(data: bytes, operation: Operation) -> bytes:
    kind, first, second, value = operation
    low, high = sorted((int(first * len(data)), int(second * len(data))))
    token = TOKENS[value % len(TOKENS)]
    if kind == "flip" and low < len(data):
        return data[:low] + bytes([data[low] ^ (1 << value % 8)]) + data[low + 1 :]
    if kind == "set":
        return data[:low] + bytes([value]) + data[low + 1 :]
    if kind == "cut":
        return data[:low] + data[high:]
    if kind == "repeat":
        return data[:low] + data[low : low + min(high - low, 256)] * (value % 16) + data[low:]
    if kind == "move":
        return data[:low] + data[high:] + data[low:high]
    if kind == "end":
        return data[:low]
    return data[:low] + token + data[low:]
