"""WebDataset sources: tars in which a sample's files share their name up to the first dot.

A tar is read sequentially. An uncompressed one is scanned once (headers only), so that a shard can start inside it; a
compressed one is a single shard, in which a sample's files must be neighbours. A damaged tar is bad input and not a
reject, because the number of missing samples is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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
from coevo_ray.pool.tar_members import (
    TarSample,
    is_compressed,
    neighbouring_samples,
    open_members,
    runs_of_keys,
    scattered_samples,
)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


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
    if source.feature_columns or find_modality(source.modality).type is None:
        setting = "feature_columns" if source.feature_columns else find_modality(source.modality).setting
        raise UsageError(
            f"{setting} of {source.uri}: tars hold none", "leave them out, or write the samples as Parquet"
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
    if is_compressed(shard.files[0]):
        return [shard]
    with open_members(shard) as members:
        runs = list(runs_of_keys(members))
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
    with open_members(shard) as members:
        for sample in (
            scattered_samples(members, positions, wanted)
            if positions
            else neighbouring_samples(members, wanted, is_compressed(shard.files[0]))
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


def _entry(sample: TarSample, reading: Reading, labels: LabelReader, place: str, keys_only: bool) -> Entry:
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


def _read_sample(sample: TarSample, reading: Reading) -> ReadSample:
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


def _label(sample: TarSample, reading: Reading, labels: LabelReader, fields: dict[str, Any], problem: str) -> Label:
    """The label from the named field of `.json`; without a name from `.cls`, else from the field `label`."""
    if reading.label_column is None:
        return Label(None)
    if reading.label_column:
        return Label(None, error=problem) if problem else labels.read(fields.get(reading.label_column))
    cls = sample.files.get("cls")
    return labels.read(fields.get("label") if cls is None else cls)


def _fields(sample: TarSample) -> tuple[dict[str, Any], str]:
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


def _shards(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    return list_tars(source, found)


def _read_keys(shard: SourceShard) -> Iterator[str]:
    return (entry.key for entry in read_tar(shard, keys_only=True))


WEBDATASET = Format("webdataset", is_tar, _shards, read_tar, _read_keys, cut_tar)
