"""A local disk that fails at a chosen byte or operation: the process dies there, or the power goes with it.

The package's own code runs on it: what it calls to write, sync, link, replace and delete files counts, a unit for each
operation and each byte. Once the units are used up nothing happens any more, as in a process that was killed. A kill or
a power cut may tear a write in place, such as that of a journal's head, at any byte.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from coevo_ray.store.location import Location

_HEADS_KEPT = 3  # former contents of an unsynced file that a power cut may bring back
_NOW = 1_700_000_000.25  # seconds since 1970; a step made again writes as many bytes, whatever it says of the time


class Killed(BaseException):
    """The process dies here."""


class Disk:
    """Counts what is written, and dies after so many units.

    Args:
        folder: files below it are on this disk; others are left alone.
        units: bytes and operations until the process dies; None for never.

    Attributes:
        used: units so far.
        boundaries: values of `used` before each operation.
    """

    def __init__(self, folder: Path, units: int | None = None) -> None:
        self.folder, self.units, self.used = str(folder), units, 0
        self.boundaries: list[int] = []
        self._undo: list[Callable[[], None]] = []  # changes of names since the folder was last synced
        self._unsynced: dict[str, list[bytes]] = {}  # files with unsynced content: what they held before
        self._open: dict[int, str] = {}

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Within the block the package writes to this disk; the clock stands, so that records keep their length."""
        with ExitStack() as stack:
            for owner, name in (
                (Path, "open"),
                (Path, "replace"),
                (Path, "unlink"),
                (os, "link"),
                (os, "open"),
                (os, "pwrite"),
                (os, "fsync"),
                (os, "close"),
            ):
                mine = _bound(getattr(self, f"_{owner.__name__.lower()}_{name}"), getattr(owner, name))
                stack.enter_context(patch.object(owner, name, mine))
            stack.enter_context(
                patch.object(Location, "delete_file", lambda place: Path.unlink(Path(place.path), True))
            )
            stack.enter_context(patch.object(time, "time", lambda: _NOW))
            yield

    def cut_power(self, chance: random.Random) -> None:
        """Takes away what had not reached the disk: the latest changes of names, and unsynced content.

        Names go in the reverse order of their changes, as on file systems with a journal.
        """
        for _ in range(chance.randint(0, len(self._undo))):
            self._undo.pop()()
        for path, former in self._unsynced.items():
            if Path(path).exists():
                contents = [*former[-_HEADS_KEPT:], Path(path).read_bytes()]
                Path(path).write_bytes(chance.choice([b"", *contents, _torn(contents, chance)]))

    # -- what is counted -----------------------------------------------------------------------------------------

    def _spend(self, wanted: int = 1) -> int:
        """Units that may still be used of so many; dies where there is none.

        Raises:
            Killed: none is left.
        """
        left = wanted if self.units is None else min(wanted, self.units - self.used)
        if left <= 0 < wanted:
            raise Killed
        self.used += left
        return left

    def _operation(self) -> None:
        self.boundaries.append(self.used)
        self._spend()

    def _ours(self, path: Any) -> bool:
        return str(path).startswith(self.folder)

    def _path_open(self, real: Callable[..., Any], path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not self._ours(path) or "w" not in mode:
            return real(path, mode, *rest, **more)
        self._operation()
        stream = real(path, "wb", buffering=0)
        self._open[stream.fileno()] = str(path)
        self._unsynced[str(path)] = []
        self._undo.append(lambda: _remove(path))
        return _Stream(self, stream)

    def _path_replace(self, real: Callable[..., Any], path: Path, target: Path) -> None:
        self._operation()
        former = target.read_bytes() if target.exists() else None
        real(path, target)
        self._undo.append(lambda: _put(target, former))
        self._unsynced.pop(str(path), None)

    def _path_unlink(self, real: Callable[..., Any], path: Path, missing_ok: bool = False) -> None:
        if not self._ours(path) or not path.exists():
            return
        self._operation()
        former = path.read_bytes()
        real(path)
        self._unsynced.pop(str(path), None)
        self._undo.append(lambda: _put(path, former))

    def _os_link(self, real: Callable[..., Any], source: Any, target: Any) -> None:
        self._operation()
        real(source, target)
        self._undo.append(lambda: _remove(Path(target)))

    def _os_open(self, real: Callable[..., Any], path: Any, flags: int, *rest: Any, **more: Any) -> int:
        made = self._ours(path) and bool(flags & os.O_CREAT) and not Path(path).exists()
        if made:
            self._operation()
            self._undo.append(lambda: _remove(Path(path)))
        number: int = real(path, flags, *rest, **more)
        if self._ours(path):
            self._open[number] = str(path)
        return number

    def _os_pwrite(self, real: Callable[..., Any], number: int, content: bytes, offset: int) -> int:
        path = self._open.get(number)
        if path is None:
            return int(real(number, content, offset))
        self._operation()
        self._unsynced.setdefault(path, []).append(Path(path).read_bytes())
        self.boundaries.append(self.used)
        self._write(len(content), lambda n: real(number, content[:n], offset))
        return int(real(number, content, offset))

    def _os_fsync(self, real: Callable[..., Any], number: int) -> None:
        path = self._open.get(number)
        if path is None:
            real(number)
            return
        self._operation()
        if Path(path).is_dir():
            self._undo.clear()
        else:
            self._unsynced.pop(path, None)

    def _os_close(self, real: Callable[..., Any], number: int) -> None:
        self._open.pop(number, None)
        real(number)

    def _write(self, size: int, partly: Callable[[int], object]) -> int:
        """Spends a unit for each byte; where they do not suffice, some bytes are written and the process dies."""
        may = self._spend(size)
        if may < size:
            partly(may)
            raise Killed
        return size


class _Stream:
    """An unbuffered file of a disk."""

    def __init__(self, disk: Disk, stream: Any) -> None:
        self._disk, self._stream = disk, stream
        self.fileno, self.flush = stream.fileno, stream.flush

    def write(self, data: Any) -> int:
        """Writes bytes, or as many as the disk has units for."""
        view = memoryview(data).cast("B")
        self._disk.boundaries.append(self._disk.used)
        self._disk._write(len(view), lambda n: self._stream.write(view[:n]))
        return int(self._stream.write(view))

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._disk._open.pop(self._stream.fileno(), None)
        self._stream.close()


def _torn(contents: list[bytes], chance: random.Random) -> bytes:
    """One of the writes that led from the first content to the last, of which a part reached the disk."""
    i = chance.randrange(len(contents))
    before, after = contents[max(0, i - 1)], contents[i]
    cut = chance.randint(0, len(after))
    return after[:cut] + before[cut:]


def _bound(mine: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        return mine(real, *arguments, **keywords)

    return call


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _put(path: Path, content: bytes | None) -> None:
    if content is None:
        _remove(path)
    else:
        path.write_bytes(content)
