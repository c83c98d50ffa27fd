"""The head of a journal: a small file that names the last acknowledged record or snapshot (docs/design.md#journal).

On a local disk it is overwritten in place. It has two slots, each with a number and a checksum, and a write goes to the
slot that does not hold the newest head: a write that is torn at any byte leaves that one valid. An object store
replaces the whole file, which then has one slot.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

HEAD = "head"
REMEDY = "restore it from a backup, or start the run again in another folder"
SLOT_BYTES = 256  # two slots lie in one sector, one page
_FIRST = b'{"write": 0, '
_FORMER = {"next", "sha256"}  # a head with one slot and no checksum


@dataclass(frozen=True)
class Head:
    """The last acknowledged record or snapshot.

    Attributes:
        write: number of this write of the head, from 0; -1 if there was none.
        next: number of the record that follows; -1 if unknown.
        sha256: checksum of the last record or snapshot; empty if unknown.
    """

    write: int
    next: int
    sha256: str

    def encode(self) -> bytes:
        """A slot, of SLOT_BYTES bytes."""
        fields = {"write": self.write, "next": self.next, "sha256": self.sha256}
        return json.dumps({**fields, "crc32": self._checksum()}).encode().ljust(SLOT_BYTES)

    @classmethod
    def decode(cls, slot: bytes) -> Head:
        """Reads a slot.

        Raises:
            ValueError: it is torn, damaged or no slot.
        """
        try:
            fields = json.loads(slot)
            if set(fields) == _FORMER:
                return cls(0, **fields)._checked_types()
            checksum = fields.pop("crc32")
            head = cls(**fields)._checked_types()
        except (TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        if checksum != head._checksum():
            raise ValueError("its checksum does not match")
        return head

    def _checksum(self) -> int:
        return zlib.crc32(f"{self.write} {self.next} {self.sha256}".encode())

    def _checked_types(self) -> Head:
        if type(self.write) is not int or type(self.next) is not int or type(self.sha256) is not str:
            raise ValueError("its fields are of other types")
        return self


class HeadFile:
    """Reads and writes the head of a journal; for one writer at a time.

    Args:
        folder: the journal's folder.
    """

    def __init__(self, folder: Location) -> None:
        self.location = folder.child(HEAD)
        self._known = False
        self._write, self._slot = 0, 0  # of the next write

    def read(self) -> Head | None:
        """Returns the newest valid head; None if there is no file.

        A power cut can empty the file, and a crash can tear its very first write. Such a file proves nothing about the
        journal: the head is then `Head(-1, -1, "")`.

        Raises:
            InputError: the file is damaged.
        """
        self._known, self._write, self._slot = True, 0, 0
        if not self.location.is_file():
            return None
        content = self.location.read_bytes()
        valid, damage = _slots(content)
        if not valid and damage and not _is_torn_first_write(content):
            raise InputError(f"{self.location} is damaged: {damage}", REMEDY)
        slot, newest = max(valid, key=lambda found: found[1].write, default=(1, Head(-1, -1, "")))
        self._write, self._slot = newest.write + 1, 1 - slot
        return newest

    def write(self, number: int, sha256: str) -> None:
        """Replaces the head.

        It is not synced: a head that is behind its record is right, too.

        Args:
            number: number of the record that follows.
            sha256: checksum of the last record or snapshot.

        Raises:
            StoppedError: the store refused; the head is what it was.
            InputError: the file is damaged.
        """
        if not self._known:
            self.read()
        slot = Head(self._write, number, sha256).encode()
        self.location.note_bytes(slot, self._slot * SLOT_BYTES)
        self._write, self._slot = self._write + 1, 1 - self._slot


def _slots(content: bytes) -> tuple[list[tuple[int, Head]], str]:
    """The valid slots of a head, each with its index, and the damage of the first that is not valid."""
    if len(content) > 2 * SLOT_BYTES:
        return [], f"{len(content)} bytes, need at most {2 * SLOT_BYTES}"
    valid: list[tuple[int, Head]] = []
    damage = ""
    for slot in range(2):
        text = content[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES].rstrip(b"\0 ")
        try:
            valid += [(slot, Head.decode(text))] if text else []
        except ValueError as error:
            damage = damage or str(error)
    return valid, damage


def _is_torn_first_write(content: bytes) -> bool:
    return len(content) < SLOT_BYTES and content[: len(_FIRST)] == _FIRST[: len(content)]
