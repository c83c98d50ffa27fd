"""WebDataset sources: tars in which a sample's files share their name up to the first dot.

A tar is read sequentially. An uncompressed one is scanned once (headers only), so that a shard can start inside it; a
compressed one is a single shard, in which a sample's files must be neighbours. A damaged tar is bad input and not a
reject, because the number of missing samples is unknown.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any, cast

from coevo_ray.config import Source
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import (
    Entry,
    Format,
    FoundFiles,
    Reading,
    SourceShard,
    pack_names,
    pack_values,
    unpack_values,
)
from coevo_ray.pool.folder_layout import read_layout
from coevo_ray.pool.labels import Label, LabelReader
from coevo_ray.pool.modality import ReadSample, find_modality
from coevo_ray.store.location import Location

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # WebDataset's rule: key, then all extensions
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset skips these
# Buffers that read small files together with their neighbours; requests to a store should be few and large.
_LOCAL_BUFFER, _REMOTE_BUFFER = 1 << 16, 8 << 20
_LARGEST = 512 << 20  # bytes of a sample's file
_LARGEST_HEADER = 1 << 20  # bytes of a long name or of extended attributes
_LARGEST_PASSED = 16 << 30  # bytes of any file in a compressed tar
_FREE_BYTES, _MOST_RATIO = 1 << 30, 100  # a compressed tar may give so many bytes, and so many times its size
_HEADERS = {
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
}


def is_tar(name: str) -> bool:
    """Tests whether a file name has the suffix of a supported tar."""
    return name.lower().endswith(TAR_SUFFIXES)


def list_tars(source: Source, found: FoundFiles) -> list[SourceShard]:
    """Makes one shard per tar, whose samples `cut_tar` counts later; reads nothing.

    Raises:
        InputError: there are no tars.
        UsageError: feature columns are set, or the names of folders allow two readings.
    """
    files = found.names
    if not files:
        raise InputError(f"no tars in {source.uri}", f"give a file or folder of {', '.join(TAR_SUFFIXES)}")
    if source.feature_columns:
        raise UsageError(
            f"feature_columns of {source.uri}: tars hold none", "leave them out, or write the samples as Parquet"
        )
    reading = Reading(
        uri=source.uri,
        format="webdataset",
        data_column=source.data_column if _is_named(source) else None,
        modality=source.modality,
        label_column=source.label_column if "label_column" in source.model_fields_set else "",
        key_column=source.key_column,
        prefix=source.key_prefix or "",
    )
    layout = read_layout(
        found.folders, source.uri, "none" if source.folders == "classes" else source.folders, label=None
    )
    found.said += layout.said
    return [SourceShard(reading, pack_names([name]), 0, -1, split=source.split or layout.split(name)) for name in files]


def _is_named(source: Source) -> bool:
    return find_modality(source.modality).setting in source.model_fields_set


def cut_tar(shard: SourceShard, shard_rows: int) -> list[SourceShard]:
    """Cuts a whole tar into shards by reading its headers; a compressed one stays whole.

    Args:
        shard: a shard of `list_tars`.
        shard_rows: samples of a shard.

    Raises:
        InputError: the tar is damaged or truncated; the message says where.
    """
    if _is_compressed(shard.files[0]):
        return [shard]
    with _members(shard) as members:
        runs = list(_runs(members))
    samples = _joined(runs)
    scattered = len(samples) < len(runs)
    shards = []
    for start in range(0, len(samples), shard_rows):
        part = samples[start : start + shard_rows]
        parts = pack_values(part) if scattered else b""
        shards.append(replace(shard, start=start, rows=len(part), offset=part[0][0], parts=parts))
    return shards


def _joined(runs: list[tuple[str, list[int], list[str]]]) -> list[list[int]]:
    """Positions of each sample's files, where runs of one key with different extensions are one sample.

    Some writers sort files by extension. Runs that repeat an extension are samples of their own, as in WebDataset.
    """
    samples: list[list[int]] = []
    known: dict[str, tuple[int, set[str]]] = {}
    for key, offsets, extensions in runs:
        place, have = known.get(key, (-1, set()))
        if place >= 0 and have.isdisjoint(extensions):
            samples[place] += offsets
            have.update(extensions)
        else:
            known[key] = (len(samples), set(extensions))
            samples.append(offsets)
    return samples


def read_tar(shard: SourceShard, keys_only: bool = False) -> Iterator[Entry]:
    """Yields the entries of a shard, in order.

    Args:
        shard: samples of one tar.
        keys_only: leave out images, texts and labels.

    Raises:
        InputError: the tar is damaged or truncated; the message says where.
    """
    reading, labels = shard.reading, shard.reading.labels()
    taken = 0
    wanted = _wanted(reading, keys_only)
    positions = unpack_values(shard.parts) if shard.parts else []
    with _members(shard) as members:
        for sample in (
            _scattered(members, positions, wanted)
            if positions
            else _samples(members, wanted, _is_compressed(shard.files[0]))
        ):
            if taken == shard.rows:
                return
            taken += 1
            yield _entry(sample, reading, labels, f"{shard.files[0]}:{shard.start + taken - 1}", keys_only)
    if shard.rows >= 0 and taken < shard.rows:
        raise InputError(
            f"{shard.files[0]} of {reading.uri} changed while it was read: {taken} of {shard.rows} samples are left",
            "run it again when the source is complete",
        )


@dataclass
class _Sample:
    """Files of one sample: extension (lower case) -> content, None if it is not read."""

    key: str
    files: dict[str, bytes | None] = field(default_factory=dict)
    doubled: str = ""
    refused: str = ""


def _entry(sample: _Sample, reading: Reading, labels: LabelReader, place: str, keys_only: bool) -> Entry:
    key, error = sample.key, ""
    fields, problem = _fields(sample) if "json" in sample.files else ({}, "")
    if reading.key_column is not None:
        value = fields.get(reading.key_column)
        if value is None or isinstance(value, dict | list):
            key, error = place, problem or f"no key in field {reading.key_column} of its .json"
        else:
            key = str(value)
    key = reading.prefix + key
    if keys_only or error:
        return Entry(key, None, None, error)
    if sample.doubled:
        return Entry(key, None, None, f"two files of one extension: {sample.doubled}")
    if sample.refused:
        return Entry(key, None, None, sample.refused)
    content, error = _read_sample(sample, reading)
    if content is None:
        return Entry(key, None, None, error)
    label = _label(sample, reading, labels, fields, problem)
    return Entry(key, content, label.number, label.error, text=label.text)


def _read_sample(sample: _Sample, reading: Reading) -> ReadSample:
    modality, have = find_modality(reading.modality), ", ".join(sample.files)
    name = next((n for n in sample.files if n in _extensions(reading)), None)
    data = None if name is None else sample.files[name]
    if name is None or data is None:
        wanted = modality.name if reading.data_column is None else f"file .{_extensions(reading)[0]}"
        return None, f"no {wanted} among its files: {have}"
    return modality.from_file(data, name)


def _extensions(reading: Reading) -> tuple[str, ...]:
    """Extensions, in lower case, of the files that hold samples."""
    if reading.data_column is None:
        return find_modality(reading.modality).extensions
    return (reading.data_column.lower().lstrip("."),)


def _label(sample: _Sample, reading: Reading, labels: LabelReader, fields: dict[str, Any], problem: str) -> Label:
    """The label from the named field of `.json`; without a name from `.cls`, else from the field `label`."""
    if reading.label_column is None:
        return Label(None)
    if reading.label_column:
        return Label(None, error=problem) if problem else labels.read(fields.get(reading.label_column))
    cls = sample.files.get("cls")
    return labels.read(fields.get("label") if cls is None else cls)


def _fields(sample: _Sample) -> tuple[dict[str, Any], str]:
    try:
        content = json.loads(sample.files["json"] or b"null")
    except ValueError:
        return {}, "its .json is damaged"
    return (content, "") if isinstance(content, dict) else ({}, "its .json is no object")


def _wanted(reading: Reading, keys_only: bool) -> set[str]:
    """Returns the extensions whose content is read."""
    if keys_only:
        return set() if reading.key_column is None else {"json"}
    return {"json", "cls", *_extensions(reading)}


def _named_files(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Yields regular files with key and extension by WebDataset's rules."""
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # otherwise every header stays in memory
        match = _NAME.match(member.name)
        if member.isreg() and match and not _META.match(member.name):
            yield member, match[1], match[2].lower()


def _runs(archive: tarfile.TarFile) -> Iterator[tuple[str, list[int], list[str]]]:
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


def _samples(archive: tarfile.TarFile, wanted: set[str], must_be_neighbours: bool) -> Iterator[_Sample]:
    """Samples whose files are neighbours.

    Raises:
        InputError: they are not, and must be.
    """
    sample: _Sample | None = None
    known: dict[str, set[str]] = {}
    for member, key, extension in _named_files(archive):
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
            have = known.setdefault(key, set()) if must_be_neighbours else set()
            if have and extension not in have:
                raise InputError(
                    f"files of sample {key!r} lie apart in {archive.name!s}",
                    "sort them (tar --sort=name), or give the tar uncompressed, which is read in any order",
                )
        if must_be_neighbours:
            known[key].add(extension)
        _add(sample, archive, member, extension, wanted)
    if sample is not None:
        yield sample


def _scattered(archive: tarfile.TarFile, positions: list[list[int]], wanted: set[str]) -> Iterator[_Sample]:
    """Samples of an uncompressed tar by the positions of their files' headers."""
    archive.firstmember = None  # type: ignore[attr-defined]  # otherwise it would be the next one, wherever that is
    for offsets in positions:
        sample: _Sample | None = None
        for offset in offsets:
            archive.offset = offset
            cast("IO[bytes]", archive.fileobj).seek(offset)
            member = cast("tarfile.TarInfo", archive.next())
            name = cast("re.Match[str]", _NAME.match(member.name))  # it was found by it
            key, extension = name[1], name[2].lower()
            sample = sample or _Sample(key)
            _add(sample, archive, member, extension, wanted)
            archive.members = []  # type: ignore[attr-defined]
        if sample is not None:
            yield sample


def _add(sample: _Sample, archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str, wanted: set[str]) -> None:
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
        # Python reads such headers whole, and in a stream passes over as many bytes as a member states.
        if self.type in _HEADERS and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes, need {_LARGEST_HEADER} or fewer")
        if self.size > _LARGEST_PASSED and archive.fileobj is not None and not hasattr(archive.fileobj, "seekable"):
            raise tarfile.ReadError(f"a file of {self.size} bytes in a compressed tar, need {_LARGEST_PASSED} or fewer")
        return super()._proc_member(archive)  # type: ignore[misc]  # the seam of Python's own kinds of headers


@contextmanager
def _members(shard: SourceShard) -> Iterator[tarfile.TarFile]:
    """Opens a tar at the shard's first sample; errors of reading become an InputError that names the tar."""
    location = Location.parse(shard.reading.uri)
    place = location if location.is_file() else location.child(shard.files[0])
    buffer = _LOCAL_BUFFER if place.is_local else _REMOTE_BUFFER
    try:
        with place.file_system.open_input_file(place.path) as raw:
            stream: Any = io.BufferedReader(raw, buffer)
            stream.seek(shard.offset)
            if _is_compressed(shard.files[0]):
                bounded: Any = _Bounded(gzip.GzipFile(fileobj=stream), stream)
                with tarfile.open(str(place), fileobj=bounded, mode="r|", tarinfo=_StrictHeader) as archive:
                    yield archive
            else:
                with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictHeader) as archive:
                    yield archive
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{place} is damaged or cut off: {error}", "copy it again, or leave it out of the source"
        ) from error


def _is_compressed(name: str) -> bool:
    return not name.lower().endswith(".tar")


def _shards(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    return list_tars(source, found)


def _read_keys(shard: SourceShard) -> Iterator[str]:
    return (entry.key for entry in read_tar(shard, keys_only=True))


WEBDATASET = Format("webdataset", is_tar, _shards, read_tar, _read_keys, cut_tar)
