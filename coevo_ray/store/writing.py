"""The leases of this thread: taken once an artifact is about to change, given back when the block that made it ends.

A finished artifact that is only read takes none: `begin` claims the lease where something is left to do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from coevo_ray.progress import say
from coevo_ray.store.failures import may_pass, writing_failed
from coevo_ray.store.lease import SECONDS, Lease, take
from coevo_ray.store.lease_cells import Cell, FileCell, SettledCell
from coevo_ray.store.location import LEASE, Location
from coevo_ray.store.object_cell import ObjectCell
from coevo_ray.telemetry import named_run, named_stage

_CONDITIONAL = ("s3://", "gs://", "gcs://")  # stores whose writes may have a condition
_COMMIT_S = 120.0  # a manifest of many files takes longer to upload than a lease


class _Scopes(threading.local):
    """Blocks of this thread: folder -> its scope. Another thread is another writer."""

    def __init__(self) -> None:
        self.by_folder: dict[str, _Scope] = {}


class _Scope:
    """A block that may write one folder.

    Attributes:
        lease: once it is claimed.
        made: folders that were made for it.
    """

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.made: list[Path] = []

    def end(self) -> None:
        """Releases the lease, and removes what was made for it if nothing else is there."""
        if self.lease is not None:
            self.lease.release()
        for folder in self.made:
            try:
                folder.rmdir()
            except OSError:
                return


_SCOPES = _Scopes()


@contextmanager
def writing(location: Location, at_once: bool = False) -> Iterator[None]:
    """Holds the lease on a folder from `claim` on until the block ends; blocks of one thread may be nested.

    Args:
        location: the folder of an artifact.
        at_once: claim it now.

    Raises:
        UsageError: another process or thread writes there, or nothing can be written.
    """
    scopes, key = _SCOPES.by_folder, _key(location)
    outer = key not in scopes
    if outer:
        scopes[key] = _Scope()
    try:
        if at_once:
            claim(location)
        with named_run(location.name), named_stage(location.name):
            yield
    finally:
        if outer:
            scopes.pop(key).end()


@contextmanager
def writing_all(locations: Sequence[Location], at_once: bool = False) -> Iterator[None]:
    """As `writing`, for several folders.

    Raises:
        UsageError: as `writing`.
    """
    with ExitStack() as stack:
        for location in locations:
            stack.enter_context(writing(location, at_once))
        yield


def claim(location: Location, seconds: float = SECONDS) -> None:
    """Takes the lease on a folder that a block around this is `writing`; nothing happens where it is held already.

    What was read before may have changed meanwhile: read it again.

    Args:
        location: the folder.
        seconds: how long the lease lasts after a renewal.

    Raises:
        UsageError: another process or thread writes there, or nothing can be written.
        StoppedError: the store failed.
    """
    scope = _SCOPES.by_folder.get(_key(location))
    if scope is None or scope.lease is not None:
        return
    try:
        scope.made += _make_folder(location)
        scope.lease = take(_cell(location), str(location), seconds)
    except OSError as error:
        raise writing_failed(location, error) from error
    scope.lease.keep()


@contextmanager
def committing(location: Location) -> Iterator[None]:
    """Renews this thread's lease on a folder for the block, which is the step that readers see.

    A process that was suspended so long that another one took over does not enter the block. On a mounted file system
    nobody can take over within it, either; on other stores that is noticed at its end.

    Raises:
        StoppedError: the lease is lost, or the store failed.
    """
    lease = _held(location)
    with lease.committing() if lease is not None else nullcontext():
        yield


def commit(location: Location, name: str, content: bytes) -> None:
    """Writes the file that makes an artifact seen, as `committing`.

    A store with conditional writes refuses it if the file has changed since the lease was renewed: the manifest of
    whoever took over within that moment stays.

    Args:
        location: folder of the artifact.
        name: of the file.
        content: of the file.

    Raises:
        StoppedError: the lease is lost, or the store failed.
    """
    lease, file = _held(location), location.child(name)
    if lease is None or not isinstance(lease.cell, ObjectCell):
        with committing(location):
            file.write_bytes(content)
        return
    try:
        cell = ObjectCell(file, timeout_s=_COMMIT_S)
        before = cell.read()
        with lease.committing():
            done = cell.create(content) if before is None else cell.replace(content, before)
            if done is None:
                lease.refuse()
    except OSError as error:
        raise writing_failed(file, error) from error


def check_leases() -> None:
    """Stops work whose lease is known to be lost; cheap.

    A process that wakes after a time in which it was suspended asks its stores, for the thread that renews its leases
    may not have woken yet.

    Raises:
        StoppedError: one of this thread is lost.
    """
    for scope in _SCOPES.by_folder.values():
        if scope.lease is None:
            continue
        if scope.lease.is_overdue():
            with suppress(OSError):  # whoever needs the lease asks again, and is told
                scope.lease.renew()
        if scope.lease.lost:
            scope.lease.refuse()


def _held(location: Location) -> Lease | None:
    """The lease of this thread on a folder, once it is claimed."""
    scope = _SCOPES.by_folder.get(_key(location))
    return None if scope is None else scope.lease


def _key(location: Location) -> str:
    """One name for a folder, however a symbolic link leads to it."""
    return os.path.realpath(location.path) if location.is_local else location.uri


def _cell(location: Location) -> Cell:
    file = location.child(LEASE)
    if file.is_local:
        return FileCell(Path(file.path))
    if not file.uri.startswith(_CONDITIONAL):
        return SettledCell(file)
    try:
        cell = ObjectCell(file)
        cell.read()
    except ImportError:
        return SettledCell(file)
    except OSError as error:
        if may_pass(error):  # a lease that others enforce is not to be taken without
            raise
        say(f"{location}: its lease is checked but not enforced, for obstore cannot read there: {error}")
        return SettledCell(file)
    return cell


def _make_folder(location: Location) -> list[Path]:
    """Makes the folder where there are folders; returns those that were missing, the deepest first."""
    if not location.is_local:
        return []
    folder = Path(location.path)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing
