"""The format of a journal's files: safetensors with the JSON fields in its metadata, a checksum and the one before.

It is framed here because the library copies every array once or twice; a snapshot of a hundred million rows is written
from its own memory and read into one buffer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coevo_ray.core.arrays import AnyArray, ArrayMapping, Arrays

# Stands in the place of a file's checksum while that is computed.
_NO_SUM = "0" * 64
_FORMER = {"event", "fields"}
# What reading a file raises that is not what was written.
DAMAGED = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)
_LETTERS = {"f": "F", "i": "I", "u": "U"}


@dataclass(frozen=True)
class Encoded:
    """A file to write.

    Attributes:
        parts: its bytes, in order.
        sha256: its checksum.
    """

    parts: list[bytes | memoryview]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True)
class Decoded:
    """The content of a file.

    Attributes:
        event: what happened.
        fields: JSON values.
        arrays: read-only views of one buffer.
        sha256: checksum of the file; empty for files of version 0.1.0, which have none.
        previous: checksum of the file before it; empty for the first one, and behind files of version 0.1.0.
        size: bytes of the file.
    """

    event: str
    fields: dict[str, Any]
    arrays: Arrays
    sha256: str
    previous: str
    size: int


def encode(event: str, fields: Mapping[str, Any], arrays: ArrayMapping, previous: str) -> Encoded:
    """Makes a file.

    Args:
        event: what happened.
        fields: JSON values.
        arrays: of any shape, by name.
        previous: checksum of the file before it, or "".
    """
    metadata = {"sha256": _NO_SUM, "previous": previous, "event": event, "fields": json.dumps(dict(fields))}
    header: dict[str, Any] = {"__metadata__": metadata}
    parts: list[bytes | memoryview] = []
    end = 0
    # Wide dtypes first, so that every array is aligned to its item size.
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].itemsize):
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        header[name] = {"dtype": _dtype_name(array.dtype), "shape": array.shape, "data_offsets": (end, end + len(flat))}
        parts.append(flat.data)
        end += len(flat)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    sha256 = _sum(start, *parts)
    return Encoded([start.replace(_NO_SUM.encode(), sha256.encode(), 1), *parts], sha256)


def decode(data: bytes) -> Decoded:
    """Reads a file.

    Raises:
        LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError: it is not what was written.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    if set(metadata) != _FORMER:
        _check_sum(data, start, metadata["sha256"])
    arrays = {name: _array(data, start, **described) for name, described in header.items()}
    if start + sum(array.nbytes for array in arrays.values()) != len(data):
        raise ValueError(f"{len(data)} bytes are not what its header says")
    sums = (metadata.get("sha256", ""), metadata.get("previous", ""))
    return Decoded(metadata["event"], json.loads(metadata["fields"]), arrays, *sums, len(data))


def _check_sum(data: bytes, start: int, said: str) -> None:
    """Checks every bit of a file: those of the checksum itself, too, which is its first place in the header."""
    blank = data[:start].replace(said.encode(), _NO_SUM.encode(), 1)
    found = _sum(blank, memoryview(data)[start:])
    if found != said:
        raise ValueError(f"its checksum is {found[:12]}..., need {said[:12]}...")


def _sum(*parts: bytes | memoryview) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


def _array(data: bytes, start: int, *, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> AnyArray:
    kind = np.dtype(bool) if dtype == "BOOL" else np.dtype(f"{dtype[0].lower()}{int(dtype[1:]) // 8}")
    values = np.frombuffer(data, np.uint8, data_offsets[1] - data_offsets[0], start + data_offsets[0]).view(kind)
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} values for the shape {shape}")
    return values.reshape(shape)


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "BOOL" if dtype == np.bool_ else f"{_LETTERS[dtype.kind]}{8 * dtype.itemsize}"
