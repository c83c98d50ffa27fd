"""Sources: image folders and Parquet, cut into shards that do not depend on parallelism.

Listing a source only looks at names and footers; the bytes are read shard by shard in the workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.config import Source
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Entry:
    """One sample of a source, before it has a row_id.

    Attributes:
        key: the user's own id.
        image: encoded bytes as they came, or None where they are missing.
        label: the class number, or None.
        error: why it cannot be used, or "".
    """

    key: str
    image: bytes | None
    label: int | None
    error: str = ""


@dataclass(frozen=True)
class SourceShard:
    """A run of consecutive entries of one source.

    Attributes:
        source: the settings of the source.
        files: image folder: relative file names; Parquet: the one file.
        start, rows: Parquet: the rows of that file.
        classes: image folder: class names, whose positions are the labels; empty without classes.
        prefix: put before keys that are made of file names, where several sources hold the same names.
    """

    source: Source
    files: tuple[str, ...]
    start: int
    rows: int
    classes: tuple[str, ...] = ()
    prefix: str = ""


def list_source(source: Source, shard_rows: int) -> list[SourceShard]:
    """Cuts a source into shards of at most `shard_rows` entries.

    Raises:
        InputError: the path does not exist, or holds no images and no Parquet; a column is missing.
        UsageError: the store cannot be opened.
    """
    location = Location.parse(source.uri)
    if not location.exists():
        raise InputError(f"source {source.uri} does not exist", "check the path (relative ones start where you are)")
    names = [location.name] if location.is_file() else location.files(recursive=True)
    parquet = [n for n in names if _is_parquet(n)]
    images = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES)]
    chosen = source.format if source.format != "auto" else ("parquet" if parquet and not images else "images")
    if chosen == "parquet":
        return _list_parquet(source, location, parquet, shard_rows)
    return _list_images(source, location, images, shard_rows, seen=len(names))


def _list_images(
    source: Source, location: Location, images: list[str], shard_rows: int, seen: int
) -> list[SourceShard]:
    if not images:
        raise InputError(
            f"no images in {source.uri}: {seen} files, none ends in {', '.join(IMAGE_SUFFIXES[:4])}, ...",
            "give a folder of images (sub-folders are classes) or of Parquet files",
        )
    if location.is_file():
        raise InputError(f"{source.uri} is one image", "give the folder that holds the images")
    classes = tuple(sorted({name.split("/", 1)[0] for name in images if "/" in name}))
    shards = []
    for start in range(0, len(images), shard_rows):
        files = tuple(images[start : start + shard_rows])
        shards.append(SourceShard(source, files, start, len(files), classes))
    return shards


def _list_parquet(source: Source, location: Location, files: list[str], shard_rows: int) -> list[SourceShard]:
    if not files:
        raise InputError(f"no Parquet files in {source.uri}", "give a .parquet file or a folder of them")
    shards = []
    for name in files:
        file = _open(_file(location, name))
        _check_columns(source, file, name)
        rows = file.metadata.num_rows
        whole = SourceShard(source, (name,), 0, rows)
        shards += [
            replace(whole, start=start, rows=min(shard_rows, rows - start)) for start in range(0, rows, shard_rows)
        ]
    return shards


def _check_columns(source: Source, file: pq.ParquetFile, name: str) -> None:
    have = file.schema_arrow.names
    needed = {"image_column": source.image_column, "key_column": source.key_column}
    if "label_column" in source.model_fields_set:
        needed["label_column"] = source.label_column
    for setting, column in needed.items():
        if column is not None and column not in have:
            raise InputError(
                f"{source.uri}: {name} has no column {column!r}; its columns are {have}",
                f"set {setting} of the source to one of them" + (" or to null" if setting != "image_column" else ""),
            )


def distinguish(sources: list[list[SourceShard]]) -> list[SourceShard]:
    """Joins the shards of several sources; where file names occur in more than one, keys get a prefix.

    The prefix is the shortest tail of the sources' paths that differs: `train/cat/1.png`, `test/cat/1.png`.
    """
    files = [{name for shard in shards for name in shard.files} for shards in sources]
    if sum(len(names) for names in files) == len(set().union(*files)):
        return [shard for shards in sources for shard in shards]
    paths = [_folder_parts(shards) for shards in sources]
    deepest = max((len(parts) for parts in paths), default=0)
    # A source that is given twice keeps equal keys, whose second occurrence is rejected.
    distinct = len(set(map(tuple, paths)))
    depth = next((d for d in range(1, deepest) if len({tuple(p[-d:]) for p in paths}) == distinct), deepest)
    prefixes = ["".join(f"{part}/" for part in parts[-depth:]) for parts in paths]
    return [replace(s, prefix=prefix) for shards, prefix in zip(sources, prefixes, strict=True) for s in shards]


def _folder_parts(shards: list[SourceShard]) -> list[str]:
    if not shards:
        return []
    location = Location.parse(shards[0].source.uri)
    parts = location.path.strip("/").split("/")
    return parts[:-1] if location.is_file() else parts


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _file(location: Location, name: str) -> Location:
    return location if location.is_file() else location.child(name)


def _open(location: Location) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(location.path, filesystem=location.file_system)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot read {location}: {error}", "is it a whole Parquet file?") from error


def read_shard(shard: SourceShard) -> Iterator[Entry]:
    """The entries of a shard, in order. Unreadable files become entries with an error.

    Raises:
        InputError: a Parquet file, or a column's type, cannot be read.
    """
    location = Location.parse(shard.source.uri)
    if _is_parquet(shard.files[0]):
        yield from _read_parquet(shard, location)
        return
    for name in shard.files:
        label = shard.classes.index(name.split("/", 1)[0]) if "/" in name else None
        key = shard.prefix + name
        try:
            yield Entry(key, location.child(name).read_bytes(), label)
        except InputError as error:
            yield Entry(key, None, label, f"unreadable file: {error.cause}")


def _read_parquet(shard: SourceShard, location: Location) -> Iterator[Entry]:
    place = _file(location, shard.files[0])
    file = _open(place)
    source = shard.source
    label_column = source.label_column if source.label_column in file.schema_arrow.names else None
    columns = [c for c in (source.image_column, label_column, source.key_column) if c is not None]
    position, stop = 0, shard.start + shard.rows
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if position < stop and position + rows > shard.start:
            table = _read_group(file, group, columns, place)
            first = max(0, shard.start - position)
            part = table.slice(first, min(rows, stop - position) - first)
            yield from _entries(part, shard, label_column, position + first)
        position += rows


def _read_group(file: pq.ParquetFile, group: int, columns: list[str], location: Location) -> pa.Table:
    try:
        return file.read_row_group(group, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"cannot read row group {group} of {location}: {error}", "the file is damaged; copy it again"
        ) from error


def _entries(table: pa.Table, shard: SourceShard, label_column: str | None, start: int) -> Iterator[Entry]:
    source = shard.source
    images = table.column(source.image_column).to_pylist()
    labels = table.column(label_column).to_pylist() if label_column else [None] * len(images)
    keys = table.column(source.key_column).to_pylist() if source.key_column else None
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row = f"{shard.prefix}{shard.files[0]}:{start + i}"
        if keys is not None and keys[i] is None:
            yield Entry(row, None, None, f"no key in column {source.key_column}")
            continue
        key = row if keys is None else str(keys[i])
        # Hugging Face datasets keep images as {"bytes": ..., "path": ...}.
        data = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(data, bytes):
            have = "nothing" if data is None else type(data).__name__
            yield Entry(key, None, None, f"no image bytes in column {source.image_column} (have {have})")
            continue
        yield Entry(key, data, *_label(label))


def _label(value: Any) -> tuple[int | None, str]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, ""
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (math.inf, -math.inf):
        return None, f"label is not a whole number: {value!r}"
    if value != int(value):
        return None, f"label is not a whole number: {value!r}"
    if not -(2**63) <= value < 2**63:
        return None, f"label outside the range: {value!r}, need 64 bits or fewer"
    return int(value), ""


def check_source(source: Source) -> None:
    """Looks whether a source is there at all; cheap, done before any work.

    Raises:
        InputError: it is not there.
        UsageError: the sample is unknown or the store cannot be opened.
    """
    from coevo_ray.pool.samples import SCHEME, check_sample

    if source.uri.startswith(SCHEME):
        check_sample(source.uri)
    elif not Location.parse(source.uri).exists():
        raise InputError(f"source {source.uri} does not exist", "check the path (relative ones start where you are)")
