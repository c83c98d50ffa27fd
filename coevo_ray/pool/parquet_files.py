"""Parquet files: opened and read in parts of bounded memory, whatever they state of themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.errors import InputError
from coevo_ray.store.failures import is_of_a_store, reading_failed
from coevo_ray.store.location import Location
from coevo_ray.store.parquet_chunks import OpenParquet

SUFFIX = ".parquet"
_SUFFIXES = (SUFFIX, ".parq", ".pq")
BATCH_ROWS = 256
# A column of a row group may give so many bytes, and so many times its size; a part of it takes so many.
_FREE_BYTES, _MOST_RATIO, _PART_BYTES = 1 << 30, 100, 128 << 20
_INDEX_BYTES = 8  # fewer for a row are an index of a dictionary, or much the same as the rows beside it
_SHOWN = 200


def is_parquet(name: str) -> bool:
    """Tests whether a file name ends in `.parquet`, `.parq` or `.pq`."""
    return name.lower().endswith(_SUFFIXES)


def place_of(location: Location, name: str) -> Location:
    """Returns the location of a source's file; a source may be a single file."""
    return location if location.is_file() else location.child(name)


def rows_of(location: Location, columns: Collection[str]) -> Iterator[dict[str, object]]:
    """Yields the rows of a file, with None in columns other than those that are wanted.

    Raises:
        InputError: it cannot be read.
    """
    with opened(location) as table:
        names = table.file.schema_arrow.names
        wanted = [name for name in names if name in columns]
        for group in range(table.file.metadata.num_row_groups):
            rows = table.rows(group)
            for _, part in parts_of(table, group, wanted, 0, rows, location) if wanted else ((0, pa.table({})),):
                yield from (dict.fromkeys(names) | row for row in part.to_pylist())


def footer(location: Location) -> tuple[int, pa.Schema]:
    """Reads a file's number of rows and schema.

    Raises:
        InputError: it cannot be read.
    """
    with opened(location) as table, readable(location):
        return table.file.metadata.num_rows, table.file.schema_arrow


def opened(location: Location) -> OpenParquet:
    """Opens a file, for a `with` block.

    Raises:
        InputError: it cannot be read.
    """
    with readable(location):
        return OpenParquet(location.file_system.open_input_file(location.path))


def parts_of(
    table: OpenParquet, group: int, columns: list[str], first: int, last: int, location: Location
) -> Iterator[tuple[int, pa.Table]]:
    """Yields rows `first` to `last` of a row group in parts, each with its position in the group; holds one at a time.

    Raises:
        InputError: they cannot be read, or would take far more memory than their file has bytes.
    """
    with readable(location, f"row group {group} of "):
        size = _rows_at_once(list(table.chunks(group, columns)), table.rows(group), location)
    batches, low = table.file.iter_batches(size, row_groups=[group], columns=columns), 0
    while low < last:
        with readable(location, f"row group {group} of "):
            batch = next(batches, None)
            if batch is None:
                raise OSError(f"{low} rows, its footer states {last} or more")
            part = pa.Table.from_batches([batch])
            part.validate(full=True)  # Arrow does not look whether texts of a file are UTF-8
        start, stop = max(first, low), min(last, low + part.num_rows)
        if start < stop:
            yield start, part.slice(start - low, stop - start)
        low += part.num_rows


def _rows_at_once(chunks: list[pq.ColumnChunkMetaData], group_rows: int, location: Location) -> int:
    """Rows to decode at a time, so that a small file cannot take all memory.

    A value that is stored once and named by many rows (a dictionary) takes its size in each of them.
    """
    rows = BATCH_ROWS
    for chunk in chunks:
        stored, decoded = chunk.total_compressed_size, chunk.total_uncompressed_size
        if decoded > max(_FREE_BYTES, _MOST_RATIO * stored):
            raise InputError(
                f"{location}: column {chunk.path_in_schema!r} decompresses from {stored} to {decoded} bytes",
                f"leave the file out, or write it with more and smaller row groups (below {_FREE_BYTES >> 20} MiB)",
            )
        of_dictionary = chunk.has_dictionary_page and chunk.dictionary_page_offset is not None
        pages = stored - (chunk.data_page_offset - chunk.dictionary_page_offset if of_dictionary else 0)
        if pages < _INDEX_BYTES * group_rows:  # no value has bytes of its own
            rows = min(rows, max(1, _PART_BYTES // max(1, decoded)))
    return rows


@contextmanager
def readable(location: Location, part: str = "") -> Iterator[None]:
    """Turns what a damaged file raises within the block into an `InputError`."""
    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError, MemoryError) as error:
        if is_of_a_store(error):
            raise reading_failed(location, error) from error
        words = "".join(c if c.isprintable() else " " for c in str(error))
        words = " ".join(words.split())[:_SHOWN] or type(error).__name__
        raise InputError(
            f"cannot read {part}{location}: {words}", "it is damaged, or no Parquet: copy it again"
        ) from error
