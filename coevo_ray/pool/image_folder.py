"""Image folders: one file a sample, whose top-level folder is its class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coevo_ray.config import Source
from coevo_ray.config.pool import SAMPLE_SETTINGS
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import Entry, Format, FoundFiles, Reading, SourceShard
from coevo_ray.pool.modality import MODALITIES
from coevo_ray.store.location import Location

_MODALITY = "image"
_SUFFIXES = tuple(f".{extension}" for extension in MODALITIES[_MODALITY].extensions)


def is_image(name: str) -> bool:
    """Tests a file's name for an image's extension."""
    return name.lower().endswith(_SUFFIXES)


def list_images(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    """One shard for each run of names; nothing is read.

    Raises:
        InputError: there are no images, or the source is one image.
        UsageError: a setting needs columns, which image files do not have.
    """
    if source.modality != _MODALITY or source.feature_columns:
        others = source.modality != _MODALITY
        setting = SAMPLE_SETTINGS[source.modality].column if others else "feature_columns"
        raise UsageError(
            f"{setting} is set and {source.uri} holds no Parquet or tars",
            f"leave {setting} out, or give Parquet files",
        )
    if not found.runs:
        raise InputError(
            f"no images in {source.uri}: {found.seen} files, none ends in .png, .jpg, .jpeg, .webp, ...",
            "give a folder of images (sub-folders are classes), of Parquet files or of tars",
        )
    if found.location.is_file():
        raise InputError(f"{source.uri} is one image", "give the folder that holds the images")
    names = tuple(sorted(found.folders))
    reading = Reading(source.uri, "images", modality=_MODALITY, names=names, prefix=source.key_prefix or "")
    starts = np.cumsum([0, *(rows for _, rows in found.runs)])
    return [
        SourceShard(reading, packed, int(start), rows, split=source.split)
        for (packed, rows), start in zip(found.runs, starts, strict=False)
    ]


def read_images(shard: SourceShard) -> Iterator[Entry]:
    """The entries of a shard, in order; an unreadable file becomes an entry with an error."""
    location = Location.parse(shard.reading.uri)
    modality = MODALITIES[_MODALITY]
    numbers = {name: i for i, name in enumerate(shard.reading.names)}
    for name in shard.files:
        label, _ = shard.reading.label(numbers[name.split("/", 1)[0]] if "/" in name else None)
        key = shard.reading.prefix + name
        try:
            data = location.child(name).read_bytes()
        except InputError as error:
            yield Entry(key, None, label, f"unreadable file: {error.cause}")
            continue
        sample, problem = modality.from_file(data, name.rpartition(".")[2].lower())
        yield Entry(key, sample, label, problem)


def read_image_keys(shard: SourceShard) -> Iterator[str]:
    """The keys of a shard's entries, in order; no file is opened."""
    return (shard.reading.prefix + name for name in shard.files)


def _takes(source: Source) -> bool:
    return source.modality == _MODALITY


IMAGES = Format("images", is_image, list_images, read_images, read_image_keys, takes=_takes)
