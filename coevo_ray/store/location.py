"""Locations: a path or URI and the file operations that the package needs on it.

A `Location` is a plain string underneath, so that it pickles into Ray tasks and each process opens its own file system.
"""

from __future__ import annotations

import errno
import io
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs

from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.store.credentials import refuse_secrets
from coevo_ray.store.failures import is_of_a_store, reading_failed, writing_failed
from coevo_ray.store.file_systems import file_system, reached
from coevo_ray.store.json_text import json_bytes, parse_json

TEMPORARY = ".tmp-"  # in the name of a file that is being written
_GOOGLE = ("gs://", "gcs://")
LEASE = "_lease.json"  # says who writes to a folder; part of nothing that lies there
_ONE_STROKE = re.compile(r"(s3a?|gs|gcs|https?|abfss?):(?!//)", re.IGNORECASE)  # else a local folder of that name


@runtime_checkable
class Located(Protocol):
    """Anything with a folder of its own, such as a pool, a table, an open gate or a trained network."""

    @property
    def location(self) -> Location:
        """Its folder."""


@dataclass(frozen=True)
class Location:
    """A file or folder on a local disk or an object store.

    Attributes:
        uri: absolute local path, or a URI that `pyarrow.fs` understands; a query (`?region=...`) stays with it.
    """

    uri: str

    @classmethod
    def parse(cls, text: str | os.PathLike[str] | Location | Located) -> Location:
        """Makes a location from a path or URI; relative paths start at the working directory.

        Args:
            text: a path, a URI, a location, or an object with one (its folder).

        Raises:
            UsageError: the text is empty, has a secret in it, its store cannot be opened, or it is none of these.
        """
        if isinstance(text, Location):
            return text
        if isinstance(text, Located):
            return text.location
        if not isinstance(text, str | os.PathLike):
            raise UsageError(
                f"{type(text).__name__} is not a path: {text!r}",
                "give a path, a URI, or what a function returned",
            )
        text = os.fspath(text)
        if not text.strip():
            raise UsageError("a path is empty", "give a local path or a URI such as s3://bucket/folder")
        refuse_secrets(text, "a path")
        if (typo := _ONE_STROKE.match(text)) is not None:
            raise UsageError(f"a path begins with {typo[1]}:", f"write {typo[1]}:// and the bucket")
        if "://" in text:
            try:
                scheme = urlsplit(text).scheme
            except ValueError as error:
                raise UsageError(
                    f"a path is not a valid URI: {error}", "write s3://bucket/folder or gs://bucket/folder"
                ) from None
            if scheme == "file":
                return cls(_local_path(text))
            location = cls(text.rstrip("/"))
            file_system(location._root)
            return location
        return cls(_absolute(text))

    @property
    def is_local(self) -> bool:
        """True for a path on a mounted file system."""
        return "://" not in self.uri

    @property
    def _root(self) -> str:
        parts = urlsplit(self.uri)
        return urlunsplit((parts.scheme, parts.netloc, "", parts.query, ""))

    @property
    def file_system(self) -> pafs.FileSystem:
        """The pyarrow file system that holds this location.

        Raises:
            UsageError, StoppedError: see `file_systems.reached`.
        """
        return pafs.LocalFileSystem() if self.is_local else reached(self._root)

    @property
    def path(self) -> str:
        """The path within `file_system`."""
        if self.is_local:
            return self.uri
        parts = urlsplit(self.uri)
        host = parts.netloc.removeprefix("anonymous@")  # it says how to ask, and is no part of a bucket's name
        return (host + parts.path).rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    def child(self, *parts: str) -> Location:
        """Returns a location below this one."""
        tail = "/".join(parts)
        if self.is_local:
            return Location(f"{self.uri.rstrip('/')}/{tail}")
        uri = urlsplit(self.uri)
        return Location(urlunsplit((uri.scheme, uri.netloc, f"{uri.path.rstrip('/')}/{tail}", uri.query, "")))

    @property
    def parent(self) -> Location:
        """The parent folder."""
        if self.is_local:
            return Location(self.uri.rsplit("/", 1)[0] or "/")
        uri = urlsplit(self.uri)
        above = uri.path.rstrip("/").rsplit("/", 1)[0]
        return Location(urlunsplit((uri.scheme, uri.netloc, above, uri.query, "")))

    def __str__(self) -> str:
        return self.uri

    # -- reading -------------------------------------------------------------------------------------------------

    def _info(self) -> pafs.FileInfo:
        try:
            return self.file_system.get_file_info(self.path)
        except OSError as error:
            if self.is_local and error.errno != errno.ENAMETOOLONG:
                raise
            raise reading_failed(self, error, "shorten the path" if self.is_local else "") from error

    def exists(self) -> bool:
        """Tests whether a file or folder exists here."""
        return bool(self._info().type != pafs.FileType.NotFound)

    def is_file(self) -> bool:
        """Tests whether a file exists here."""
        return bool(self._info().type == pafs.FileType.File)

    def is_folder(self) -> bool:
        """Tests whether a folder exists here."""
        return bool(self._info().type == pafs.FileType.Directory)

    def size(self) -> int:
        """The file's size in bytes.

        Raises:
            InputError: there is no file here.
        """
        info = self._info()
        if info.type != pafs.FileType.File:
            raise InputError(f"there is no file {self}", "check the path and your permission to read it")
        return int(info.size)

    def read_bytes(self) -> bytes:
        """Reads the file's content.

        Raises:
            InputError: the file is missing or cannot be read.
            StoppedError: its store failed; UsageError: its credentials or address are wrong.
        """
        try:
            if self.is_local:  # many small files: Arrow's streams and pathlib's take twice as long to open
                with io.FileIO(self.path) as file:
                    return file.readall()
            if self.uri.startswith(_GOOGLE):  # its client asks the server while it holds Python's lock to tell a size
                with self.file_system.open_input_stream(self.path, compression=None) as stream:
                    return bytes(stream.read())
            with self.file_system.open_input_file(self.path) as stream:
                return bytes(stream.read(stream.size()))  # one request; without the size there is one for each 256 KiB
        except OSError as error:
            raise reading_failed(self, error) from error

    def read_json(self) -> Any:
        """Reads the file's content as JSON.

        Raises:
            InputError: the file is missing, is not UTF-8 or not JSON, or nests too deep.
        """
        return parse_json(self.read_bytes(), self)

    def files(self, recursive: bool = False) -> list[str]:
        """Lists the files below, as sorted paths relative to here, without temporary files and leases.

        Raises:
            InputError: the folder does not exist or cannot be listed, or a name is not UTF-8.
        """
        try:
            names = self._names(recursive)
            "".join(names).encode()
        except OSError as error:
            raise reading_failed(self, error) from error
        except UnicodeError as error:
            raise InputError(
                f"{self} has a file whose name is not UTF-8, so that its files cannot be listed", "rename that file"
            ) from error
        return sorted(name for name in names if TEMPORARY not in name and name.rsplit("/", 1)[-1] != LEASE)

    def _names(self, recursive: bool) -> list[str]:
        if self.is_local and not recursive:  # a journal lists its folder for each record: Arrow looks at every file
            with os.scandir(self.path) as entries:
                return [entry.name for entry in entries if entry.is_file()]
        infos = self.file_system.get_file_info(pafs.FileSelector(self.path, recursive=recursive))
        skip = len(self.path.rstrip("/")) + 1
        return [info.path[skip:] for info in infos if info.type == pafs.FileType.File]

    # -- writing -------------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Writes and removes a small file, to detect a store that refuses writes before any work.

        Raises:
            UsageError: nothing can be written here.
            StoppedError: the store failed.
        """
        probe = self.child(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            self.file_system.create_dir(self.path, recursive=True)
            with self.file_system.open_output_stream(probe.path) as stream:
                stream.write(b"coevo-ray")
            self.file_system.delete_file(probe.path)
        except OSError as error:
            raise writing_failed(self, error) from error

    def write_bytes(self, *parts: bytes | memoryview | pa.Buffer) -> None:
        """Writes a file atomically; on a local disk it is synced to the disk before this returns.

        Args:
            parts: the file's content in order; on a local disk no copy joins them.

        Raises:
            StoppedError: the store failed (full disk, lost connection); nothing earlier is damaged.
            UsageError: an object store refuses this process's credentials.
        """
        with _stopping(self):
            if self.is_local:
                _write_local(Path(self.path), parts)
                return
            # Object stores show an object only once its upload has been completed; a stream completes it even where an
            # error or a signal ends the block early, so that all has to be written at once.
            with self.file_system.open_output_stream(self.path) as stream:
                stream.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def note_bytes(self, content: bytes, offset: int = 0) -> None:
        """Overwrites some bytes of a small file in place, which takes microseconds on a local disk.

        They are not synced: after a crash the file may have its new content, its former, a part of both, or none. An
        object store replaces the whole file.

        Raises:
            StoppedError: the store refused.
        """
        if not self.is_local:
            self.write_bytes(content)
            return
        with _stopping(self):
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                while content:
                    written = os.pwrite(file, content, offset)
                    content, offset = content[written:], offset + written
            finally:
                os.close(file)

    def create_bytes(self, *parts: bytes | memoryview | pa.Buffer) -> bool:
        """Writes a file as `write_bytes` does unless it exists; returns False, without writing, if it does.

        On a local disk, True is returned to one writer only. On an object store, only a check before the upload
        prevents two.

        Raises:
            StoppedError: the store refused.
        """
        if self.is_local:
            with _stopping(self):
                return _write_local(Path(self.path), parts, replace=False)
        if self.is_file():
            return False
        self.write_bytes(*parts)
        return True

    def write_json(self, value: Any) -> None:
        """Writes JSON, indented, keys in the order given.

        Raises:
            StoppedError: the store refused.
        """
        self.write_bytes(json_bytes(value))

    def delete_file(self) -> None:
        """Deletes a file; a missing one is fine.

        Raises:
            StoppedError: the store refused.
        """
        with _stopping(self):
            if self.is_file():
                self.file_system.delete_file(self.path)

    def delete_folder(self) -> None:
        """Deletes a folder with all that is in it; a missing one is fine.

        Raises:
            StoppedError: the store refused.
        """
        with _stopping(self):
            if self.is_folder():
                self.file_system.delete_dir(self.path)


def _local_path(uri: str) -> str:
    """The path of a `file:` URI, whose %20 is a space.

    Raises:
        UsageError: it names another machine, or a relative path.
    """
    parts = urlsplit(uri)
    path = unquote(parts.path + (f"?{parts.query}" if parts.query else ""))
    if parts.netloc not in ("", "localhost") or not path.startswith("/"):
        raise UsageError(
            f"{uri!r} names a place on the machine {parts.netloc!r}",
            "give the path itself, or file:/// with three strokes and the absolute path",
        )
    return _absolute(path)


def _absolute(path: str) -> str:
    """An absolute path without `..`, as long as no symbolic link makes that another place."""
    whole = Path(path).expanduser().absolute()
    short = os.path.normpath(whole)
    return short if os.path.realpath(short) == os.path.realpath(whole) else str(whole)


# Where an artifact is to be made, and which one is to be read.
Place: TypeAlias = str | os.PathLike[str] | Location
ArtifactLike: TypeAlias = Located | Place


def _write_local(path: Path, parts: Sequence[bytes | memoryview | pa.Buffer], replace: bool = True) -> bool:
    """Writes a file via a temporary one; returns False if the file exists and must not be replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as stream:
            for part in parts:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike a rename it refuses a name that is taken
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    # The rename itself must survive a power cut before anything may be acknowledged.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


@contextmanager
def _stopping(location: Location) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_of_a_store(error):
            raise writing_failed(location, error) from error
        raise StoppedError(
            f"cannot write {location}: {error}",
            "free space or restore the store, then run the same command again: finished parts are kept",
        ) from error
