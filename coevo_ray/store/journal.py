"""A durable journal: state changes are stored before they are acknowledged (docs/design.md#journal).

Each record is a file of its own, written atomically: the same code works on a local disk and on an object store, and a
torn write can only lose a record that was never acknowledged. Each file has a checksum and that of the file before it,
and the file `head` names the last acknowledged one, so that neither a flipped bit nor a lost file passes unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coevo_ray.core.arrays import ArrayMapping, Arrays
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.journal_head import HEAD, REMEDY, Head, HeadFile
from coevo_ray.store.location import Location
from coevo_ray.store.record_format import DAMAGED, Decoded, decode, encode

_SUFFIX = ".record"
_SNAPSHOT = ".snapshot"
_OURS = re.compile(rf"(\d{{10}})({re.escape(_SUFFIX)}|{re.escape(_SNAPSHOT)})")
_MOST_RECORDS = 1024
_SMALL_BYTES = 1 << 20


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
        InputError: the folder cannot be listed, or has files that are not the journal's.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._head = HeadFile(location)
        self._numbers, self._snapshots = self._listed()
        self._next = max([n + 1 for n in self._numbers] + self._snapshots, default=0)
        self._last: str | None = None  # checksum of the last file, once it is known
        self._record_bytes, self._snapshot_bytes = 0, 0

    def append(self, event: str, fields: Mapping[str, Any], arrays: ArrayMapping | None = None) -> Record:
        """Writes a record; once this returns, any crash is followed by a replay that has the record.

        Args:
            event: name of the change.
            fields: JSON values.
            arrays: arrays of any shape, by name.

        Raises:
            StoppedError: the store refused, or another process writes here too; do not acknowledge the change.
            InputError: the last record is damaged or lost.
        """
        record = Record(self._next, event, dict(fields), dict(arrays or {}))
        encoded = encode(event, record.fields, record.arrays, self._last_sum())
        file = self._file(record.number, _SUFFIX)
        if not file.create_bytes(*encoded.parts):
            raise self._overtaken(file.name)
        newest = self._newest_snapshot()
        if newest > record.number:  # another writer's snapshot, which a replay would start from, lacks this record
            file.delete_file()
            raise self._overtaken(f"snapshot {newest}")
        try:
            self._head.write(record.number + 1, encoded.sha256)
        except StoppedError:
            file.delete_file()  # what was not acknowledged need not be there; if it stays, a replay has it
            raise
        self._record_bytes += encoded.size
        self._numbers.append(record.number)
        self._next, self._last = record.number + 1, encoded.sha256
        return record

    def snapshot(self, fields: Mapping[str, Any], arrays: ArrayMapping) -> None:
        """Writes the whole state and deletes the records before it, which shortens the next replay.

        A file that cannot be deleted does no harm: the next snapshot tries again.

        Args:
            fields: JSON values.
            arrays: arrays of any shape, by name.

        Raises:
            StoppedError: the store refused, or another process writes here too; the records stay.
            InputError: the last record is damaged or lost.
        """
        number = self._next
        encoded = encode("snapshot", fields, arrays, self._last_sum())
        if self._file(number, _SUFFIX).is_file() or self._newest_snapshot() > number:
            raise self._overtaken(f"record {number}")
        self._file(number, _SNAPSHOT).write_bytes(*encoded.parts)
        self._head.write(number, encoded.sha256)
        # Only now that the new snapshot is complete may the files it replaces be deleted.
        self._numbers = [n for n in self._numbers if not self._deleted(n, _SUFFIX)]
        self._snapshots = [n for n in self._snapshots if n != number and not self._deleted(n, _SNAPSHOT)]
        self._snapshots.append(number)
        self._last = encoded.sha256
        self._record_bytes, self._snapshot_bytes = 0, encoded.size

    def snapshot_due(self) -> bool:
        """True when the records hold over twice the bytes of a snapshot, or number 1 024: a new one then pays."""
        many = self._next - max(self._snapshots, default=0) >= _MOST_RECORDS
        return many or self._record_bytes > max(2 * self._snapshot_bytes, _SMALL_BYTES)

    def replay(self) -> Iterator[Record]:
        """Yields the latest snapshot (event "snapshot"), if there is one, then the records after it, in order.

        Raises:
            InputError: a record is damaged or missing.
        """
        head, start = self._head.read(), self._snapshots[-1] if self._snapshots else 0
        numbers = [n for n in self._numbers if n >= start]
        if numbers != list(range(start, start + len(numbers))):
            raise InputError(f"{self.location}: records {numbers} are not without a gap", "restore it from a backup")
        self._record_bytes, self._snapshot_bytes = 0, 0
        last, previous = "", ""
        if self._snapshots:
            found = self._read(start, _SNAPSHOT)
            # It follows the last record under the same number; a crash may come before the head names it.
            self._check_named(head, start, _SNAPSHOT, {found.sha256, found.previous})
            last, previous, self._snapshot_bytes = found.sha256, found.previous, found.size
            yield Record(start, found.event, found.fields, found.arrays)
        for number in numbers:
            found = self._read(number, _SUFFIX)
            if found.previous != last:
                raise self._damaged(self._file(number, _SUFFIX), "it does not follow the one before it")
            self._check_named(head, number, _SUFFIX, {found.sha256})
            last, previous = found.sha256, found.previous
            self._record_bytes += found.size
            yield Record(number, found.event, found.fields, found.arrays)
        self._check_head(head, previous)
        self._last = last

    def _listed(self) -> tuple[list[int], list[int]]:
        """Numbers of records and of snapshots, increasing."""
        names = self.location.files() if self.location.is_folder() else []
        names = [name for name in names if name != HEAD and not name.startswith(".")]
        found = {name: _OURS.fullmatch(name) for name in names}
        if strange := [name for name, match in found.items() if match is None]:
            raise InputError(
                f"{self.location} has files that are not the journal's: {', '.join(strange)}", "move them elsewhere"
            )
        kinds = sorted((int(match[1]), match[2]) for match in found.values() if match is not None)
        return [n for n, kind in kinds if kind == _SUFFIX], [n for n, kind in kinds if kind == _SNAPSHOT]

    def _file(self, number: int, suffix: str) -> Location:
        return self.location.child(f"{number:010d}{suffix}")

    def _read(self, number: int, suffix: str) -> Decoded:
        file = self._file(number, suffix)
        data = file.read_bytes()
        try:
            return decode(data)
        except DAMAGED as error:
            raise self._damaged(file, str(error)) from error

    def _last_sum(self) -> str:
        """Checksum of the last file, read if this process neither wrote nor replayed it."""
        if self._last is None:
            numbers, snapshots = self._listed()
            if max([n + 1 for n in numbers] + snapshots, default=0) > self._next:
                raise self._overtaken("more")
            previous = ""
            if numbers or snapshots:
                record = self._next - 1 in numbers[-1:]
                found = self._read(self._next - 1, _SUFFIX) if record else self._read(self._next, _SNAPSHOT)
                self._last, previous = found.sha256, found.previous
            self._check_head(self._head.read(), previous)
        return self._last or ""

    def _check_named(self, head: Head | None, number: int, suffix: str, sums: set[str]) -> None:
        """Refuses a file where the head names one of another checksum."""
        if head is not None and head.next == number + (suffix == _SUFFIX) and head.sha256 not in sums:
            raise self._damaged(self._file(number, suffix), f"{HEAD} names another one")

    def _check_head(self, head: Head | None, previous: str) -> None:
        """Refuses a journal that ends before its head, or has lost it.

        Args:
            head: if there is one.
            previous: checksum that the last file follows; the first file with a checksum is written before the head.
        """
        if head is None and previous:
            raise InputError(f"{self.location} has lost its file {HEAD}", REMEDY)
        if head is not None and head.next > self._next:
            raise InputError(
                f"{self.location} has records up to {self._next - 1}, need {head.next - 1}: the last ones are lost",
                REMEDY,
            )

    def _deleted(self, number: int, suffix: str) -> bool:
        """Deletes a file that a snapshot replaces; False if the store refuses."""
        try:
            self._file(number, suffix).delete_file()
        except StoppedError:
            return False
        return True

    def _newest_snapshot(self) -> int:
        return max(self._listed()[1], default=-1)

    def _damaged(self, file: Location, cause: str) -> InputError:
        return InputError(f"{file} is damaged: {cause}", REMEDY)

    def _overtaken(self, what: str) -> StoppedError:
        return StoppedError(f"{self.location}: another process wrote {what} meanwhile", "run the command again")
