"""Files of an artifact: written so that a manifest may name them, and described."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq

from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.seals import seal, unsealed


def write_table(
    folder: Location, name: str, table: pa.Table, group_rows: int = 65_536, made_of: str | None = None
) -> FileEntry:
    """Writes a Parquet file atomically, and reads its footer back first.

    Args:
        folder: the artifact's folder.
        name: file name inside it.
        table: the rows; with a `row_id` column it must be sorted by it.
        group_rows: rows of a row group.
        made_of: hash of what determines the content; the file is then sealed with it (`parts`).

    Raises:
        InputError: row_ids are not strictly increasing.
        StoppedError: the store refused.
    """
    first = last = -1
    if "row_id" in table.column_names and table.num_rows:
        row_ids = table.column("row_id").to_numpy()
        if (row_ids[1:] <= row_ids[:-1]).any():
            raise InputError(
                f"row_ids for {folder.child(name)} do not increase", "sort the rows and drop duplicates first"
            )
        first, last = int(row_ids[0]), int(row_ids[-1])
    buffer = _encoded(table, group_rows) if made_of is None else seal(_encoded(unsealed(table, made_of), group_rows))
    written = pq.ParquetFile(pa.BufferReader(buffer)).metadata.num_rows
    if written != table.num_rows:
        raise InputError(f"{name}: {written} of {table.num_rows} rows were encoded", "report this: Parquet lost rows")
    _write(folder.child(name), buffer, buffer.size)
    checksum = hashlib.sha256(buffer).hexdigest()
    return FileEntry(name, table.num_rows, buffer.size, checksum, first, last, min(group_rows, table.num_rows))


def _encoded(table: pa.Table, group_rows: int) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    # Dictionaries are for repeated strings; tried on vectors and images they only take time.
    repeated = [field.name for field in table.schema if pa.types.is_string(field.type)]
    # Nobody looks for the smallest value of a vector or an image; to find it takes half the time of writing it.
    plain = [
        field.name for field in table.schema if not (pa.types.is_nested(field.type) or pa.types.is_binary(field.type))
    ]
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, group_rows),
        compression="zstd",
        use_dictionary=repeated or False,
        write_statistics=plain or False,
        write_page_checksum=True,
    )
    return sink.getvalue()


def read_table(folder: Location, name: str) -> pa.Table:
    """Reads a Parquet file of an artifact, finished or not.

    Raises:
        InputError: the file is missing or damaged.
    """
    data = folder.child(name).read_bytes()
    try:
        return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"cannot read {folder.child(name)}: {error}", "the artifact is damaged; make it again"
        ) from error


def _write(file: Location, data: bytes | pa.Buffer, size: int) -> None:
    """Writes a file, and asks the store for its size before a manifest may name it."""
    file.write_bytes(data)
    have = file.size()
    if have != size:
        raise StoppedError(
            f"the store has {have} of the {size} bytes that were written to {file}",
            "repair the store, then run the same command again: finished parts are kept",
        )


def write_blob(folder: Location, name: str, data: bytes) -> FileEntry:
    """Writes a file that is not a table (safetensors, JSON, HTML) and describes it.

    Raises:
        StoppedError: the store refused.
    """
    _write(folder.child(name), data, len(data))
    return FileEntry(name, 0, len(data), hashlib.sha256(data).hexdigest())


def describe(folder: Location, name: str) -> FileEntry:
    """The entry of a file that is there.

    Raises:
        InputError: the file cannot be read.
    """
    return described(name, folder.child(name).read_bytes())


def described(name: str, data: bytes) -> FileEntry:
    """The entry of a file with a name and some content.

    Raises:
        OSError, ArrowException: it is no Parquet file, as its name says.
    """
    checksum = hashlib.sha256(data).hexdigest()
    if not name.endswith(".parquet"):
        return FileEntry(name, 0, len(data), checksum)
    file = pq.ParquetFile(pa.BufferReader(data))
    first = last = -1
    if file.metadata.num_rows and "row_id" in file.schema_arrow.names:
        row_ids = file.read(columns=["row_id"]).column(0).to_numpy()
        first, last = int(row_ids[0]), int(row_ids[-1])
    group = file.metadata.row_group(0).num_rows if file.metadata.num_row_groups else 0
    return FileEntry(name, file.metadata.num_rows, len(data), checksum, first, last, group)
