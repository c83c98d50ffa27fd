"""Members of tars: opened within bounds, whatever a tar states, and joined to samples.

A sample's files share their name up to the first dot, WebDataset's rule. Python's `tarfile` ends silently at a damaged
header, reads headers of any size whole, and in a stream passes over as many bytes as a member states; here each is an
error.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, cast

from coevo_ray.errors import InputError
from coevo_ray.pool.entries import SourceShard
from coevo_ray.pool.listing import is_of_the_system
from coevo_ray.pool.unread import refuse_lfs_pointer
from coevo_ray.store.failures import is_of_a_store, reading_failed
from coevo_ray.store.location import Location

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # WebDataset's rule: key, then all extensions
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset skips these
# Buffers that read small files together with their neighbours; requests to a store should be few and large.
_LOCAL_BUFFER, _REMOTE_BUFFER = 1 << 16, 8 << 20
_LARGEST = 512 << 20  # bytes of a sample's file
_LARGEST_HEADER = 1 << 20  # bytes of a long name or of extended attributes
_LARGEST_PASSED = 16 << 30  # bytes of any file in a compressed tar
_FREE_BYTES, _MOST_RATIO = 1 << 28, 100  # a compressed tar may give so many bytes, and so many times its size
_HEADERS = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}


@dataclass
class TarSample:
    """Files of one sample.

    Attributes:
        key: its files' name up to the first dot.
        files: extension (lower case) -> content, None if it is not read.
        doubled: an extension that two of them have, or "".
        refused: why one of them is not read, or "".
    """

    key: str
    files: dict[str, bytes | None] = field(default_factory=dict)
    doubled: str = ""
    refused: str = ""


def _named_files(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Yields regular files with key and extension by WebDataset's rules, without what systems leave in tars."""
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # otherwise every header stays in memory
        match = _NAME.match(member.name)
        if member.isreg() and match and not _META.match(member.name) and not _is_of_a_system(member.name):
            yield member, match[1], match[2].lower()


def _is_of_a_system(name: str) -> bool:
    """Tests for the name of a hidden file, or of one that macOS or Windows adds beside people's own."""
    base = name.rpartition("/")[2]
    return base.startswith(".") or is_of_the_system(base) or "__MACOSX" in name.split("/")


def runs_of_keys(archive: tarfile.TarFile) -> Iterator[tuple[str, list[int], list[str]]]:
    """Yields neighbours of one key: the key, the byte position of each one's header, and their extensions."""
    last, offsets, extensions = None, list[int](), list[str]()
    for member, key, extension in _named_files(archive):
        if last is not None and key != last:
            yield last, offsets, extensions
            offsets, extensions = [], []
        last = key
        offsets.append(member.offset)
        extensions.append(extension)
    if last is not None:
        yield last, offsets, extensions


def neighbouring_samples(archive: tarfile.TarFile, wanted: set[str], must_be_neighbours: bool) -> Iterator[TarSample]:
    """Samples whose files are neighbours.

    Raises:
        InputError: they are not, and must be.
    """
    sample: TarSample | None = None
    known: dict[str, set[str]] = {}
    for member, key, extension in _named_files(archive):
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = TarSample(key)
            have = known.setdefault(key, set()) if must_be_neighbours else set()
            if have and extension not in have:
                raise InputError(
                    f"files of sample {key!r} are not adjacent in {archive.name!s}",
                    "sort them (tar --sort=name), or give the tar uncompressed, which is read in any order",
                )
        if must_be_neighbours:
            known[key].add(extension)
        _add(sample, archive, member, extension, wanted)
    if sample is not None:
        yield sample


def scattered_samples(archive: tarfile.TarFile, positions: list[list[int]], wanted: set[str]) -> Iterator[TarSample]:
    """Samples of an uncompressed tar by the positions of their files' headers."""
    archive.firstmember = None  # type: ignore[attr-defined]  # otherwise it would be the next one, wherever that is
    for offsets in positions:
        sample: TarSample | None = None
        for offset in offsets:
            archive.offset = offset
            cast("IO[bytes]", archive.fileobj).seek(offset)
            member = cast("tarfile.TarInfo", archive.next())
            name = cast("re.Match[str]", _NAME.match(member.name))  # it was found by it
            key, extension = name[1], name[2].lower()
            sample = sample or TarSample(key)
            _add(sample, archive, member, extension, wanted)
            archive.members = []  # type: ignore[attr-defined]  # otherwise every header stays in memory
        if sample is not None:
            yield sample


def _add(
    sample: TarSample, archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str, wanted: set[str]
) -> None:
    if extension in sample.files:
        sample.doubled = extension
    if extension in wanted and (member.issparse() or member.size > _LARGEST):
        kind = "sparse file" if member.issparse() else f"file of {member.size} bytes, need {_LARGEST} or fewer"
        sample.refused = f"{kind}: .{extension}"
        sample.files[extension] = None
        return
    sample.files[extension] = _content(archive, member) if extension in wanted else None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    data = cast("IO[bytes]", archive.extractfile(member)).read()
    if len(data) < member.size:
        raise tarfile.ReadError(f"{member.name} is cut off: {len(data)} of {member.size} bytes")
    return data


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends with an error where it grows out of all proportion to its file."""

    def __init__(self, stream: gzip.GzipFile, file: io.BufferedReader) -> None:
        self._stream, self._file, self._read = stream, file, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._read += len(data)
        if self._read > _FREE_BYTES + _MOST_RATIO * self._file.tell():
            raise tarfile.ReadError(f"it decompresses to more than {_MOST_RATIO} times its size")
        return data


class _StrictHeader(tarfile.TarInfo):
    """A header that must be valid: Python ends silently at a damaged or missing one, not only at the end marker."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictHeader:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise tarfile.ReadError(f"{error}, where a file or the end marker should be") from error

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > _LARGEST_HEADER:  # Python reads them whole
            raise tarfile.ReadError(f"a header of {self.size} bytes, need {_LARGEST_HEADER} or fewer")
        return super()._proc_member(archive)  # type: ignore[misc]  # the seam of Python's own kinds of headers


class _StreamedHeader(_StrictHeader):
    """A header in a stream, where Python passes over as many bytes as it states."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.size > _LARGEST_PASSED:
            raise tarfile.ReadError(f"a file of {self.size} bytes in a compressed tar, need {_LARGEST_PASSED} or fewer")
        return super()._proc_member(archive)


@contextmanager
def open_members(shard: SourceShard) -> Iterator[tarfile.TarFile]:
    """Opens a tar at the shard's first sample; errors of reading become an InputError that names the tar."""
    location = Location.parse(shard.reading.uri)
    place = location if location.is_file() else location.child(shard.files[0])
    buffer = _LOCAL_BUFFER if place.is_local else _REMOTE_BUFFER
    try:
        with place.file_system.open_input_file(place.path) as raw:
            stream: Any = io.BufferedReader(raw, buffer)
            stream.seek(shard.offset)
            if is_compressed(shard.files[0]):
                bounded: Any = _Bounded(gzip.GzipFile(fileobj=stream), stream)
                with tarfile.open(str(place), fileobj=bounded, mode="r|", tarinfo=_StreamedHeader) as archive:
                    yield archive
            else:
                with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictHeader) as archive:
                    yield archive
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        if is_of_a_store(error):
            raise reading_failed(place, error) from error
        refuse_lfs_pointer(place)
        raise InputError(
            f"{place} is damaged or cut off: {error}", "copy it again, or leave it out of the source"
        ) from error


def is_compressed(name: str) -> bool:
    """Tests whether a tar of this name is compressed, and so is read from its beginning only."""
    return not name.lower().endswith(".tar")
