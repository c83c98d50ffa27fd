"""Cells: small files that are created, replaced and removed on the condition that nobody else was faster."""

from __future__ import annotations

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from coevo_ray.errors import StoppedError
from coevo_ray.store.location import TEMPORARY, Location

RELEASED = b"released\n"  # of a cell that its store cannot remove on a condition
_LOCK_S = 10.0
_SETTLE_S = 2.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}


@dataclass(frozen=True)
class Seen:
    """Content of a cell when it was read or written.

    Attributes:
        content: all of it; two writes never have the same.
        tag: the store's name of this version, where it has one.
    """

    content: bytes
    tag: str = ""


class Cell(Protocol):
    """A file that changes only as its writer expects. Each method raises OSError where the store fails."""

    def read(self) -> Seen | None:
        """Its content; None where it is not there."""

    def create(self, content: bytes) -> Seen | None:
        """Writes it unless it is there; None if it is."""

    def replace(self, content: bytes, seen: Seen) -> Seen | None:
        """Writes it if it still is as seen; None if it is not."""

    def remove(self, seen: Seen) -> bool:
        """Deletes it if it still is as seen, or makes it `RELEASED`."""


class FileCell:
    """A file of a mounted file system: created by a link, which refuses a name that is taken, changed under `flock`.

    The system drops the lock of a process that ends. Where a file system has no locks, two processes that take over the
    same cell within microseconds may both be told that they did; the first of them notices at its next change.

    Args:
        path: the file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Seen | None:
        """See `Cell`."""
        try:
            return Seen(self.path.read_bytes())
        except FileNotFoundError:
            return None

    def create(self, content: bytes) -> Seen | None:
        """See `Cell`."""
        with self._written(content) as temporary:
            try:
                os.link(temporary, self.path)
            except FileExistsError:
                return None
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self._create_without_links(content)
        return Seen(content)

    def replace(self, content: bytes, seen: Seen) -> Seen | None:
        """See `Cell`."""
        with self._written(content) as temporary, self._alone(seen) as same:
            if same:
                temporary.replace(self.path)
        return Seen(content) if same else None

    def remove(self, seen: Seen) -> bool:
        """See `Cell`."""
        with self._alone(seen) as same:
            if same:
                self.path.unlink()
        return same

    def _create_without_links(self, content: bytes) -> Seen | None:
        try:
            with self.path.open("xb") as stream:
                stream.write(content)
        except FileExistsError:
            return None
        return Seen(content)

    @contextmanager
    def _written(self, content: bytes) -> Iterator[Path]:
        """The content in a temporary file beside the cell."""
        temporary = self.path.with_name(f"{self.path.name}{TEMPORARY}{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(content)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _alone(self, seen: Seen) -> Iterator[bool]:
        """Tests whether the file is as seen, while no other process changes it."""
        try:
            file = os.open(self.path, os.O_RDWR)  # NFS locks only what is open for writing
        except FileNotFoundError:
            yield False
            return
        try:
            _lock(file, self.path)
            # Whoever had the lock before may have put another file in this place.
            yield self._is_open_as(file) and os.pread(file, len(seen.content) + 1, 0) == seen.content
        finally:
            os.close(file)

    def _is_open_as(self, file: int) -> bool:
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        have = os.fstat(file)
        return (there.st_dev, there.st_ino) == (have.st_dev, have.st_ino)


def _lock(file: int, path: Path) -> None:
    """Locks an open file, or gives up on a file system without locks.

    Raises:
        OSError: somebody stopped while holding it.
    """
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise OSError(errno.EAGAIN, f"another process keeps {path} locked") from error
            time.sleep(0.005)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            raise


class SettledCell:
    """An object of a store without conditional writes, or whose client is not installed.

    A writer checks, writes, waits until concurrent writers have written too, and reads back: the last one has it. Two
    writers are both told that they have it only if one of them takes longer between its check and its write than the
    delay; it then notices at its next change.

    Args:
        location: the object.
        settle_s: delay in seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, location: Location, settle_s: float = _SETTLE_S, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.location, self.settle_s, self.sleep = location, settle_s, sleep

    def read(self) -> Seen | None:
        """See `Cell`."""
        file_system, path = self.location.file_system, self.location.path
        try:
            with file_system.open_input_stream(path, compression=None) as stream:
                return Seen(bytes(stream.read()))
        except FileNotFoundError:
            return None

    def create(self, content: bytes) -> Seen | None:
        """See `Cell`."""
        return None if self.read() is not None else self._settled(content)

    def replace(self, content: bytes, seen: Seen) -> Seen | None:
        """See `Cell`."""
        there = self.read()
        if there is None or there.content != seen.content:
            return None
        return self._settled(content)

    def remove(self, seen: Seen) -> bool:
        """See `Cell`."""
        there = self.read()
        if there is None or there.content != seen.content:
            return False
        self.location.file_system.delete_file(self.location.path)
        return True

    def _settled(self, content: bytes) -> Seen | None:
        try:
            self.location.write_bytes(content)
        except StoppedError as error:
            raise OSError(error.cause) from error
        self.sleep(self.settle_s)
        there = self.read()
        return there if there is not None and there.content == content else None
