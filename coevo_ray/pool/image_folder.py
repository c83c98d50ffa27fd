"""Image folders: one file a sample; labels and splits from folders (`folder_layout`) or metadata (`image_metadata`).

`text_folder` lists and reads its files by the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from coevo_ray.config import Source
from coevo_ray.config.pool import SAMPLE_SETTINGS
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import Entry, Format, FoundFiles, Reading, SourceShard, unpack_names, unpack_values
from coevo_ray.pool.folder_layout import FolderLayout, Split, class_of, read_layout
from coevo_ray.pool.image_metadata import is_metadata, labels_by_metadata
from coevo_ray.pool.modality import MODALITIES
from coevo_ray.store.location import Location
from coevo_ray.store.read_ahead import read_ahead

_NAME, _MODALITY = "images", "image"
_SUFFIXES = tuple(f".{extension}" for extension in MODALITIES[_MODALITY].extensions)
# Names without an ending that are notes on the data; any other file without one may be a sample.
_NOTES = {
    "readme",
    "license",
    "licence",
    "copying",
    "notice",
    "makefile",
    "dockerfile",
    "changelog",
    "authors",
    "version",
}


def is_image(name: str) -> bool:
    """Tests a file's name for an image's ending; names without an ending may be images (those of crawlers are)."""
    base = name.rpartition("/")[2].lower()
    return base.endswith(_SUFFIXES) if "." in base else base not in _NOTES


def is_note(name: str) -> bool:
    """Tests whether a file above all folders is a note on the data by its lower-case name without an ending."""
    return name in _NOTES


def is_guessed(name: str) -> bool:
    """Tests whether the name of an image file lacks an ending, so that only its content can tell."""
    return "." not in name.rpartition("/")[2]


def list_images(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    """One shard for each run of names; of the images nothing is read.

    Raises:
        InputError: there are no images, the source is one image, or its metadata cannot be read.
        UsageError: a setting needs columns, which image files do not have, or the folders allow two readings.
    """
    if source.modality != _MODALITY or source.feature_columns:
        others = source.modality != _MODALITY
        setting = SAMPLE_SETTINGS[source.modality].column if others else "feature_columns"
        raise UsageError(
            f"{setting} is set and {source.uri} holds no Parquet, tars, CSV, JSON Lines or .txt files",
            f"leave {setting} out, or give such files (of lines, texts alone are read)",
        )
    if not found.runs:
        raise InputError(
            f"no images in {source.uri}: {found.seen} files, none ends in .png, .jpg, .jpeg, .webp, ...",
            "give a folder of images (sub-folders are classes), of Parquet files or of tars; of .npy matrices with "
            "format: npy; of CSV or JSON Lines of texts with their text_column; of text files with format: texts",
        )
    if found.location.is_file():
        raise InputError(f"{source.uri} is one image", "give the folder that holds the images")
    by_metadata = bool(found.metadata) and source.label_column is not None and source.folders in ("auto", "none")
    shards = file_shards(source, found, _NAME, None if by_metadata else source.label_column)
    if not by_metadata:
        return shards
    labels = labels_by_metadata(source, found)
    return [replace(shard, labels=part) for shard, part in zip(shards, labels, strict=True)] if labels else shards


def file_shards(source: Source, found: FoundFiles, name: str, label: str | None) -> list[SourceShard]:
    """One shard for each run of names of a folder whose files are samples.

    Args:
        source: the folder.
        found: its files.
        name: of the format.
        label: the source's label column; None where folders are not to be read as classes.

    Raises:
        UsageError: the folders allow two readings.
    """
    layout = read_layout(found.folders, source.uri, source.folders, label)
    found.said += layout.said
    reading = Reading(
        source.uri,
        name,
        modality=source.modality,
        names=layout.classes,
        class_part=layout.class_part,
        prefix=source.key_prefix or "",
    )
    starts = np.cumsum([0, *(rows for _, rows in found.runs)])
    return [
        SourceShard(reading, packed, int(start), rows, split=source.split or _split(layout, packed))
        for (packed, rows), start in zip(found.runs, starts, strict=False)
    ]


def _split(layout: FolderLayout, packed: bytes) -> Split | None:
    # A run ends where the folder of a split does.
    return layout.split(unpack_names(packed)[0]) if layout.splits else None


def read_files(shard: SourceShard) -> Iterator[Entry]:
    """The entries of a shard, in order; an unreadable file becomes an entry with an error."""
    location = Location.parse(shard.reading.uri)
    modality, labels = MODALITIES[shard.reading.modality], shard.reading.labels()
    values = unpack_values(shard.labels) if shard.labels else None
    part, classes = shard.reading.class_part, shard.reading.names

    def read(name: str) -> bytes | InputError:
        try:
            return location.child(name).read_bytes()
        except InputError as error:
            return error

    for i, (name, data) in enumerate(zip(shard.files, read_ahead(read, shard.files, location), strict=True)):
        label = labels.read(values[i] if values is not None else class_of(name, part, classes))
        key = shard.reading.prefix + name
        if isinstance(data, InputError):
            yield Entry(key, None, label.number, f"unreadable file: {data.cause}", text=label.text)
            continue
        sample, problem = modality.from_file(data, _extension(name))
        yield Entry(key, sample, label.number, problem or label.error, text=label.text)


def _extension(name: str) -> str:
    base = name.rpartition("/")[2].lower()
    return base.rpartition(".")[2] if "." in base else ""


def read_file_keys(shard: SourceShard) -> Iterator[str]:
    """The keys of a shard's entries, in order; no file is opened."""
    return (shard.reading.prefix + name for name in shard.files)


def _takes(source: Source) -> bool:
    return source.modality == _MODALITY


IMAGES = Format(
    _NAME,
    is_image,
    list_images,
    read_files,
    read_file_keys,
    takes=_takes,
    describes=is_metadata,
    guesses=is_guessed,
)
