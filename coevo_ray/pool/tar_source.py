"""WebDataset sources: tars in which a sample's files are adjacent and share their name up to the first dot.

A tar is read sequentially. An uncompressed one is scanned once (headers only), so that a shard can start inside it; a
compressed one is a single shard. A damaged tar is bad input and not a reject, because the number of missing samples is
unknown.
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
from coevo_ray.pool.entries import Entry, Format, FoundFiles, Reading, SourceShard, pack_names
from coevo_ray.pool.modality import ReadSample, find_modality
from coevo_ray.store.location import Location

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # WebDataset's rule: key, then all extensions
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset skips these
# Buffers that read small files together with their neighbours; requests to a store should be few and large.
_LOCAL_BUFFER, _REMOTE_BUFFER = 1 << 16, 8 << 20


def is_tar(name: str) -> bool:
    """Tests whether a file name has the suffix of a supported tar."""
    return name.lower().endswith(TAR_SUFFIXES)


def list_tars(source: Source, location: Location, files: list[str]) -> list[SourceShard]:
    """Makes one shard per tar, whose samples `cut_tar` counts later; reads nothing.

    Raises:
        InputError: there are no tars.
        UsageError: feature columns are set.
    """
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
    return [SourceShard(reading, pack_names([name]), 0, -1, split=source.split) for name in files]


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
    starts: list[int] = []
    count = 0
    with _members(shard) as members:
        for offset in _sample_offsets(members):
            if count % shard_rows == 0:
                starts.append(offset)
            count += 1
    return [
        replace(shard, start=i * shard_rows, rows=min(shard_rows, count - i * shard_rows), offset=offset)
        for i, offset in enumerate(starts)
    ]


def read_tar(shard: SourceShard, keys_only: bool = False) -> Iterator[Entry]:
    """Yields the entries of a shard, in order.

    Args:
        shard: samples of one tar.
        keys_only: leave out images, texts and labels.

    Raises:
        InputError: the tar is damaged or truncated; the message says where.
    """
    reading = shard.reading
    taken = 0
    with _members(shard) as members:
        for sample in _samples(members, _wanted(reading, keys_only)):
            if taken == shard.rows:
                return
            taken += 1
            yield _entry(sample, reading, f"{shard.files[0]}:{shard.start + taken - 1}", keys_only)
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


def _entry(sample: _Sample, reading: Reading, place: str, keys_only: bool) -> Entry:
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
    content, error = _read_sample(sample, reading)
    if content is None:
        return Entry(key, None, None, error)
    label, error = _label(sample, reading, fields, problem)
    return Entry(key, content, label, error)


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


def _label(sample: _Sample, reading: Reading, fields: dict[str, Any], problem: str) -> tuple[int | None, str]:
    """Returns the label from the named field of `.json`; without a name from `.cls`, else from the field `label`."""
    if reading.label_column is None:
        return None, ""
    if reading.label_column:
        return (None, problem) if problem else reading.label(fields.get(reading.label_column))
    cls = sample.files.get("cls")
    if cls is None:
        return reading.label(fields.get("label"))
    text = cls.decode(errors="replace").strip()
    try:
        return reading.label(int(text))
    except ValueError:
        return None, f"label is not a whole number: {text[:40]!r}"


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


def _sample_offsets(archive: tarfile.TarFile) -> Iterator[int]:
    """Yields the byte position of each sample's first header."""
    last = None
    for member, key, _ in _named_files(archive):
        if key != last:
            yield member.offset
        last = key


def _samples(archive: tarfile.TarFile, wanted: set[str]) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member, key, extension in _named_files(archive):
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        if extension in sample.files:
            sample.doubled = extension
        sample.files[extension] = _content(archive, member) if extension in wanted else None
    if sample is not None:
        yield sample


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    data = cast("IO[bytes]", archive.extractfile(member)).read()
    if len(data) < member.size:
        raise tarfile.ReadError(f"{member.name} is cut off: {len(data)} of {member.size} bytes")
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
                stream = gzip.GzipFile(fileobj=stream)
                with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictHeader) as archive:
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
    return list_tars(source, found.location, found.names)


def _read_keys(shard: SourceShard) -> Iterator[str]:
    return (entry.key for entry in read_tar(shard, keys_only=True))


WEBDATASET = Format("webdataset", is_tar, _shards, read_tar, _read_keys, cut_tar)
