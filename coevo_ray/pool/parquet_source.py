"""Parquet sources, those of Hugging Face included: choice of columns, cutting into shards, reading rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from coevo_ray.config import Source
from coevo_ray.config.pool import IMAGE
from coevo_ray.errors import InputError
from coevo_ray.pool.cells import declared_dimension, holds_numbers, storage, vectors, with_bytes
from coevo_ray.pool.entries import Entry, Format, FoundFiles, Reading, SourceShard, pack_names
from coevo_ray.pool.folder_layout import Split, path_columns, read_layout
from coevo_ray.pool.huggingface import HubFeatures, hub_features, hub_splits
from coevo_ray.pool.labels import LabelReader
from coevo_ray.pool.modality import ReadSample, find_modality, vector_sample
from coevo_ray.pool.parquet_files import BATCH_ROWS, footer, is_parquet, opened, parts_of, place_of, readable
from coevo_ray.store.location import Location
from coevo_ray.store.read_ahead import read_ahead

_MOST_NUMBERS = 1 << 20  # of a vector
_FOOTERS_AT_ONCE = 16  # reading footers waits for the store, not for the processor


def list_parquet(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    """Cuts Parquet files into shards; reads footers, and first rows if a vector's length is not declared.

    Raises:
        InputError: there are no files, one is damaged, a column is missing or has different dimensions.
        UsageError: the names of folders allow two readings.
    """
    location, files = found.location, found.names
    if not files:
        raise InputError(f"no Parquet files in {source.uri}", "give a .parquet file or a folder of them")
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        footers = list(pool.map(lambda name: footer(place_of(location, name)), files))
    schemas = [schema for _, schema in footers]
    hub = hub_features(schemas[0].metadata) if source.format in ("auto", "huggingface") else None
    if source.format == "huggingface" and hub is None:
        raise InputError(
            f"{source.uri}: {files[0]} has no metadata of Hugging Face",
            "set format: parquet, or write it with datasets",
        )
    reading = _reading(source, schemas[0].names, hub)
    for name, schema in zip(files, schemas, strict=True):
        _check_columns(source, reading, schema, name)
    _say_missing_labels(found, reading, files, schemas)
    reading = replace(reading, features=_dimensions(source, location, files, schemas))
    splits = hub_splits(files) if hub is not None else _splits_by_folders(source, found, files)
    shards = []
    for name, (rows, _) in zip(files, footers, strict=True):
        whole = SourceShard(reading, pack_names([name]), 0, rows, split=source.split or splits[name])
        shards += [
            replace(whole, start=start, rows=min(shard_rows, rows - start)) for start in range(0, rows, shard_rows)
        ]
    return shards


def _splits_by_folders(source: Source, found: FoundFiles, files: list[str]) -> dict[str, Split | None]:
    if found.location.is_file() or source.folders == "classes":
        return dict.fromkeys(files)
    layout = read_layout(found.folders, source.uri, source.folders, label=None)
    found.said += layout.said
    return {name: layout.split(name) for name in files}


def _say_missing_labels(found: FoundFiles, reading: Reading, files: list[str], schemas: list[pa.Schema]) -> None:
    label = reading.label_column
    lacking = [
        name
        for name, schema in zip(files, schemas, strict=True)
        if label not in schema.names and label not in dict(path_columns(name))
    ]
    if label is not None and lacking and len(lacking) < len(files):
        found.said.append(
            f"no column {label!r} in {len(lacking)} of {len(files)} files (first: {lacking[0]}): no labels"
        )


def read_parquet(shard: SourceShard, keys_only: bool = False) -> Iterator[Entry]:
    """Yields the entries of a shard, in order, without reading row groups outside it.

    Args:
        shard: rows of one file.
        keys_only: leave images, texts, labels and features unread.

    Raises:
        InputError: the file, or a column, cannot be read.
    """
    reading, labels = shard.reading, shard.reading.labels()
    place = place_of(Location.parse(reading.uri), shard.files[0])
    with opened(place) as table:
        named = table.file.schema_arrow.names
        label = reading.label_column if reading.label_column in named else None
        of_path = dict(path_columns(shard.files[0])).get(reading.label_column or "") if label is None else None
        features = [reading.column_of(name) for name, _ in reading.features]
        wanted = (reading.key_column, *(() if keys_only else (reading.data_column, label, *features)))
        columns = [column for column in dict.fromkeys(wanted) if column is not None]
        position, stop = 0, shard.start + shard.rows
        for group in range(table.file.metadata.num_row_groups):
            rows = table.rows(group)
            if position < stop and position + rows > shard.start:
                first, last = max(0, shard.start - position), min(rows, stop - position)
                if not columns:
                    yield from _Rows(None, last - first, shard, position + first).keys_only()
                for low, part in parts_of(table, group, columns, first, last, place) if columns else ():
                    read = _Rows(part, part.num_rows, shard, position + low)
                    yield from read.keys_only() if keys_only else read.entries(label, of_path, labels, place)
            position += rows


class _Rows:
    """A few consecutive rows of a file; `table` has the needed columns, None if there are none."""

    def __init__(self, table: pa.Table | None, count: int, shard: SourceShard, start: int) -> None:
        self.table, self.count, self.reading = table, count, shard.reading
        # Keys of a Ray Dataset count its rows: its files follow its blocks, which vary.
        name, first = (f"{shard.files[0]}:", 0) if shard.first < 0 else ("", shard.first)
        self.rows = [f"{self.reading.prefix}{name}{first + start + i}" for i in range(count)]

    def keys(self) -> list[tuple[str, str]]:
        """Returns the key of each row with an error text or ""."""
        column = self.reading.key_column
        if column is None or self.table is None:
            return [(row, "") for row in self.rows]
        values = storage(self.table.column(column)).to_pylist()
        problem = f"no key in column {column}"
        return [
            (row, problem) if v is None else (f"{self.reading.prefix}{_as_text(v)}", "")
            for row, v in zip(self.rows, values, strict=True)
        ]

    def keys_only(self) -> Iterator[Entry]:
        """Yields entries without content."""
        for key, error in self.keys():
            yield Entry(key, None, None, error)

    def entries(
        self, label_column: str | None, of_path: str | None, labels: LabelReader, file: Location
    ) -> Iterator[Entry]:
        """Yields entries with content.

        Args:
            label_column: of the file; None where it has none.
            of_path: the label that the file's path gives instead, as in `label=3/part.parquet`.
            labels: reads those of the source.
            file: the table, beside which images may lie that it only names.
        """
        assert self.table is not None
        values = storage(self.table.column(label_column)).to_pylist() if label_column else [of_path] * self.count
        columns = [(self.reading.column_of(name), d) for name, d in self.reading.features]
        found = [vectors(self.table.column(name), name, d) for name, d in columns]
        samples = self._samples(found, file)
        for i, (key, problem) in enumerate(self.keys()):
            label = labels.read(values[i])
            sample, sample_error = samples[i]
            error = problem or sample_error or label.error
            error = error or next((v[i] for v in found if isinstance(v[i], str)), "")
            if sample is None or problem:
                yield Entry(key, None, None, error, text=label.text)
            elif error:
                yield Entry(key, sample, label.number, error, text=label.text)
            else:
                yield Entry(key, sample, label.number, "", tuple(v[i] for v in found), label.text)

    def _samples(self, found: list[list[Any]], file: Location) -> list[ReadSample]:
        """Each row's sample, or why it has none; `found` has the vectors, of which the first may be the samples."""
        assert self.table is not None and self.reading.data_column is not None
        column, modality = self.reading.data_column, find_modality(self.reading.modality)
        if modality.type is None:
            return [vector_sample(vector, f"column {column}") for vector in found[0]]
        cells = storage(self.table.column(column)).to_pylist()
        if self.reading.modality == IMAGE:
            cells = list(read_ahead(partial(with_bytes, file=file), cells, file))
        return [modality.from_cell(cell, column) for cell in cells]


def _as_text(value: object) -> str:
    """A key as text; bytes of a text are that text."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _reading(source: Source, columns: list[str], hub: HubFeatures | None) -> Reading:
    """Chooses columns: those named in the settings, else the default names, else the only one of its type."""
    named = source.model_fields_set
    modality, data = find_modality(source.modality), source.data_column
    label = source.label_column
    if hub is not None:
        marked = hub.columns(modality.hub_feature)
        if modality.setting not in named and data not in columns and len(marked) == 1:
            data = marked[0]
        if "label_column" not in named and label not in columns and len(hub.classes) == 1:
            label = next(iter(hub.classes))
    names = hub.classes.get(label, ()) if hub is not None and label is not None else ()
    return Reading(
        uri=source.uri,
        format="parquet",
        data_column=data,
        modality=modality.name,
        label_column=label,
        key_column=source.key_column,
        names=names,
        prefix=source.key_prefix or "",
    )


def _check_columns(source: Source, reading: Reading, schema: pa.Schema, name: str) -> None:
    have = schema.names
    needed: list[tuple[str, str | None]] = [
        (find_modality(source.modality).setting, reading.data_column),
        ("key_column", reading.key_column),
    ]
    if "label_column" in source.model_fields_set and source.label_column not in dict(path_columns(name)):
        needed.append(("label_column", source.label_column))
    needed += [("feature_columns", column) for column in source.feature_columns]
    for setting, column in needed:
        if column is not None and column not in have:
            raise InputError(
                f"{source.uri}: {name} has no column {column!r}; its columns are {have}",
                f"set {setting} of the source to one of them"
                + (" or to null" if setting in ("label_column", "key_column") else ""),
            )
    for column in dict.fromkeys([*(column for _, column in needed), reading.label_column]):
        if have.count(column) > 1:
            raise InputError(f"{source.uri}: {name} has {have.count(column)} columns {column!r}", "name each once")
    for setting, column in _vector_columns(source):
        if not holds_numbers(schema.field(column).type):
            raise InputError(
                f"{source.uri}: column {column!r} of {name} is {schema.field(column).type}, no list of numbers",
                f"leave it out of {setting}, or convert it to lists of numbers",
            )


def _vector_columns(source: Source) -> list[tuple[str, str]]:
    """The setting and the name of each column of vectors, in one order for all sources of a pool."""
    kept = [("feature_columns", column) for column in sorted(source.feature_columns)]
    own = find_modality(source.modality)
    return [(own.setting, source.data_column), *kept] if own.type is None else kept


def _dimensions(
    source: Source, location: Location, files: list[str], schemas: list[pa.Schema]
) -> tuple[tuple[str, int], ...]:
    """Returns name and dimension of each vector column; all files that declare a dimension must agree."""
    result = []
    for setting, column in _vector_columns(source):
        declared = {
            dimension: name
            for name, schema in zip(reversed(files), reversed(schemas), strict=True)
            if (dimension := declared_dimension(schema.field(column).type)) is not None
        }
        if len(declared) > 1:
            have = ", ".join(f"{d} in {name}" for d, name in sorted(declared.items()))
            raise InputError(
                f"{source.uri}: column {column!r} has different dimensions: {have}", "a pool needs one dimension of it"
            )
        dimension = next(iter(declared), None) or _usual_length(location, files, column)
        if not dimension:
            raise InputError(f"{source.uri}: column {column!r} holds no vectors", f"leave it out of {setting}")
        if dimension > _MOST_NUMBERS:
            raise InputError(
                f"{source.uri}: column {column!r} holds vectors of {dimension} numbers, need {_MOST_NUMBERS} or fewer",
                f"leave it out of {setting}, or reduce its vectors",
            )
        result.append((column if setting == "feature_columns" else source.modality, dimension))
    return tuple(result)


def _usual_length(location: Location, files: list[str], column: str) -> int | None:
    """Returns the most common length of a list column in the first rows that have a value."""
    for name in files:
        place = place_of(location, name)
        with opened(place) as table, readable(place):
            for batch in table.file.iter_batches(BATCH_ROWS, columns=[column]):
                cells = storage(pa.chunked_array([batch.column(0)]))
                lengths = Counter(len(v) for v in cells if v.is_valid and len(v))
                if lengths:
                    # The longer among ties: a truncated vector is more likely than one that is too long.
                    return max(lengths, key=lambda d: (lengths[d], d))
    return None


def _shards(source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
    return list_parquet(source, found, shard_rows)


def _read_keys(shard: SourceShard) -> Iterator[str]:
    return (entry.key for entry in read_parquet(shard, keys_only=True))


PARQUET = Format("parquet", is_parquet, _shards, read_parquet, _read_keys)
# The same files; the setting insists on Hugging Face's metadata, which `auto` uses where it finds them.
HUGGINGFACE = Format("huggingface", is_parquet, _shards, read_parquet, _read_keys)
