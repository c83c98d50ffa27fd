"""A durable journal: state changes are stored before they are acknowledged (docs/design.md#journal).

Each record is a file of its own, written atomically: the same code works on a local disk and on an object store, and a
torn write can only lose a record that was never acknowledged. The format is safetensors with the JSON fields in its
metadata, without pickle. It is framed here because the library copies every array once or twice; a snapshot of a
hundred million rows is written from its own memory and read into one buffer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from coevo_ray.core.arrays import AnyArray, ArrayMapping, Arrays
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.location import Location

_SUFFIX = ".record"
_SNAPSHOT = ".snapshot"
_MOST_RECORDS = 1024
_SMALL_BYTES = 1 << 20
_LETTERS = {"f": "F", "i": "I", "u": "U"}


@dataclass(frozen=True)
class Record:
    """One journalled change.

    Attributes:
        number: position in the journal, from 0.
        event: what happened ("select", "commit", "labels", ...).
        fields: small JSON values.
        arrays: named arrays of any shape; those read are read-only views of one buffer.
    """

    number: int
    event: str
    fields: dict[str, Any]
    arrays: Arrays


class Journal:
    """Appends records and replays them from the latest snapshot on; for one writer at a time.

    A writer that finds the next record already written by another process stops before it changes anything.

    Args:
        location: the journal's folder; created with the first record.

    Raises:
        InputError: the folder cannot be listed.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        names = location.files() if location.is_folder() else []
        self._numbers = sorted(int(n.removesuffix(_SUFFIX)) for n in names if n.endswith(_SUFFIX))
        self._snapshots = sorted(int(n.removesuffix(_SNAPSHOT)) for n in names if n.endswith(_SNAPSHOT))
        self._next = max([n + 1 for n in self._numbers] + self._snapshots, default=0)
        self._record_bytes, self._snapshot_bytes = 0, 0

    def append(self, event: str, fields: Mapping[str, Any], arrays: ArrayMapping | None = None) -> Record:
        """Writes a record; once this returns, any crash is followed by a replay that has the record.

        Args:
            event: name of the change.
            fields: JSON values.
            arrays: arrays of any shape, by name.

        Raises:
            StoppedError: the store refused, or another process writes here too; do not acknowledge the change.
        """
        record = Record(self._next, event, dict(fields), dict(arrays or {}))
        parts = _encode(record)
        file = self._file(record.number, _SUFFIX)
        if not file.create_bytes(*parts):
            raise self._overtaken(file.name)
        newest = self._newest_snapshot()
        if newest > record.number:  # another writer's snapshot, which a replay would start from, lacks this record
            file.delete_file()
            raise self._overtaken(f"snapshot {newest}")
        self._record_bytes += sum(len(part) for part in parts)
        self._numbers.append(record.number)
        self._next += 1
        return record

    def snapshot(self, fields: Mapping[str, Any], arrays: ArrayMapping) -> None:
        """Writes the whole state and deletes the records before it, which shortens the next replay.

        Args:
            fields: JSON values.
            arrays: arrays of any shape, by name.

        Raises:
            StoppedError: the store refused; the records stay.
        """
        number = self._next
        parts = _encode(Record(number, "snapshot", dict(fields), dict(arrays)))
        if self._file(number, _SUFFIX).is_file() or self._newest_snapshot() > number:
            raise self._overtaken(f"record {number}")
        self._file(number, _SNAPSHOT).write_bytes(*parts)
        # Only now that the new snapshot is complete may the files it replaces be deleted.
        for old in self._numbers:
            self._file(old, _SUFFIX).delete_file()
        for old in self._snapshots:
            if old != number:
                self._file(old, _SNAPSHOT).delete_file()
        self._numbers, self._snapshots = [], [number]
        self._record_bytes, self._snapshot_bytes = 0, sum(len(part) for part in parts)

    def snapshot_due(self) -> bool:
        """True when the records hold over twice the bytes of a snapshot, or number 1 024: a new one then pays."""
        return self._record_bytes > max(2 * self._snapshot_bytes, _SMALL_BYTES) or len(self._numbers) >= _MOST_RECORDS

    def replay(self) -> Iterator[Record]:
        """Yields the latest snapshot (event "snapshot"), if there is one, then the records after it, in order.

        Raises:
            InputError: a record is damaged or missing.
        """
        start = 0
        if self._snapshots:
            start = self._snapshots[-1]
            yield self._read(start, _SNAPSHOT)
        numbers = [n for n in self._numbers if n >= start]
        if numbers != list(range(start, start + len(numbers))):
            raise InputError(f"{self.location}: records {numbers} are not without a gap", "restore it from a backup")
        for number in numbers:
            yield self._read(number, _SUFFIX)

    def _file(self, number: int, suffix: str) -> Location:
        return self.location.child(f"{number:010d}{suffix}")

    def _read(self, number: int, suffix: str) -> Record:
        file = self._file(number, suffix)
        data = file.read_bytes()
        try:
            record = _decode(number, data)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file} is damaged: {error}", "restore it from a backup, or start the run again in another folder"
            ) from error
        if suffix == _SNAPSHOT:
            self._snapshot_bytes = len(data)
        else:
            self._record_bytes += len(data)
        return record

    def _newest_snapshot(self) -> int:
        names = self.location.files() if self.location.is_folder() else []
        return max((int(n.removesuffix(_SNAPSHOT)) for n in names if n.endswith(_SNAPSHOT)), default=-1)

    def _overtaken(self, what: str) -> StoppedError:
        return StoppedError(f"{self.location}: another process wrote {what} meanwhile", "run the command again")


def _encode(record: Record) -> list[bytes | memoryview]:
    header: dict[str, Any] = {"__metadata__": {"event": record.event, "fields": json.dumps(record.fields)}}
    parts, end = [], 0
    # Wide dtypes first, so that every array is aligned to its item size.
    for name, array in sorted(record.arrays.items(), key=lambda item: -item[1].itemsize):
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        header[name] = {"dtype": _dtype_name(array.dtype), "shape": array.shape, "data_offsets": (end, end + len(flat))}
        parts.append(flat.data)
        end += len(flat)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *parts]


def _decode(number: int, data: bytes) -> Record:
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    arrays = {name: _array(data, start, **described) for name, described in header.items()}
    if start + sum(array.nbytes for array in arrays.values()) != len(data):
        raise ValueError(f"{len(data)} bytes are not what its header says")
    return Record(number, metadata["event"], json.loads(metadata["fields"]), arrays)


def _array(data: bytes, start: int, *, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> AnyArray:
    kind = np.dtype(bool) if dtype == "BOOL" else np.dtype(f"{dtype[0].lower()}{int(dtype[1:]) // 8}")
    values = np.frombuffer(data, np.uint8, data_offsets[1] - data_offsets[0], start + data_offsets[0]).view(kind)
    if len(values) != math.prod(shape):
        raise ValueError(f"{len(values)} values for the shape {shape}")
    return values.reshape(shape)


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "BOOL" if dtype == np.bool_ else f"{_LETTERS[dtype.kind]}{8 * dtype.itemsize}"
