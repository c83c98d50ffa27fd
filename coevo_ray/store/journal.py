"""A durable journal: state changes are on the store before they are acknowledged (DESIGN section 5.6).

Each record is one file of its own (written whole or not at all), so that the same code works on a local disk and on
an object store, and a torn write can only lose a record that was never acknowledged. The format is safetensors with
the JSON fields in its metadata: no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

Arrays = Mapping[str, npt.NDArray[Any]]
_SUFFIX = ".record"
_SNAPSHOT = ".snapshot"


@dataclass(frozen=True)
class Record:
    """One journalled change.

    Attributes:
        number: position in the journal, from 0.
        event: what happened ("select", "commit", "labels", ...).
        fields: small JSON values.
        arrays: named arrays.
    """

    number: int
    event: str
    fields: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


class Journal:
    """Appends records and replays them from the latest snapshot on. One writer at a time.

    Args:
        location: the journal's folder; it is made with the first record.

    Raises:
        InputError: the folder cannot be listed.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        names = location.files() if location.is_folder() else []
        self._numbers = sorted(int(n.removesuffix(_SUFFIX)) for n in names if n.endswith(_SUFFIX))
        self._snapshots = sorted(int(n.removesuffix(_SNAPSHOT)) for n in names if n.endswith(_SNAPSHOT))
        self._next = max([n + 1 for n in self._numbers] + self._snapshots, default=0)

    def append(self, event: str, fields: Mapping[str, Any], arrays: Arrays | None = None) -> Record:
        """Writes a record; when this returns, it will be replayed after any crash.

        Raises:
            StoppedError: the store refused; the change must not be acknowledged.
        """
        record = Record(self._next, event, dict(fields), dict(arrays or {}))
        self._file(record.number, _SUFFIX).write_bytes(_encode(record))
        self._numbers.append(record.number)
        self._next += 1
        return record

    def snapshot(self, fields: Mapping[str, Any], arrays: Arrays) -> None:
        """Writes the whole state and drops the records before it, which shortens the next replay.

        Raises:
            StoppedError: the store refused; the records stay.
        """
        number = self._next
        self._file(number, _SNAPSHOT).write_bytes(_encode(Record(number, "snapshot", dict(fields), dict(arrays))))
        # Only after the new snapshot is whole may what it replaces go.
        for old in self._numbers:
            self._file(old, _SUFFIX).delete_file()
        for old in self._snapshots:
            if old != number:
                self._file(old, _SNAPSHOT).delete_file()
        self._numbers, self._snapshots = [], [number]

    def replay(self) -> Iterator[Record]:
        """The latest snapshot (event "snapshot"), if there is one, then the records after it, in order.

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
            arrays = load_safetensors(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"{file} is damaged: {error}", "restore it from a backup, or start the run anew"
            ) from error
        return Record(number, header["event"], json.loads(header["fields"]), arrays)


def _encode(record: Record) -> bytes:
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    return bytes(save_safetensors(arrays, {"event": record.event, "fields": json.dumps(record.fields)}))
