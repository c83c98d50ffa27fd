"""Label files as Parquet."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from coevo_ray.annotators.answer_columns import SAVE_AS, AnswerTable, filled, wanted
from coevo_ray.annotators.quoting import printable
from coevo_ray.errors import InputError
from coevo_ray.pool.parquet_files import parts_of
from coevo_ray.store.location import Location
from coevo_ray.store.parquet_chunks import OpenParquet

_FREE_BYTES, _MOST_RATIO = 256 << 20, 100  # a file may give so many bytes, and so many times its size
_EXACT = 2.0**53  # larger floats are whole, whatever was meant
# Damaged pages and metadata raise OSError, names and texts that are not UTF-8 UnicodeDecodeError.
_DAMAGED = (pa.ArrowException, OSError, UnicodeDecodeError)
_READ = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_null,
)


def read_parquet(location: Location, data: bytes) -> AnswerTable:
    """Reads a Parquet file; whole floats become texts such as 3, and NaN becomes empty.

    Raises:
        InputError: the file is damaged, lacks a column, or a column has neither texts nor numbers.
    """
    try:
        opened = OpenParquet(pa.BufferReader(data))
        names = wanted(location, opened.file.schema_arrow.names)
        table = _read(location, opened, list(names), len(data))
        columns = {ours: _texts(location, name, table.column(name)) for name, ours in names.items()}
        for column in columns.values():
            column.validate(full=True)  # Arrow does not look whether texts of a file are UTF-8
    except InputError as error:
        if isinstance(error.__cause__, _DAMAGED):
            raise _unreadable(location, error.__cause__) from error
        raise
    except _DAMAGED as error:
        raise _unreadable(location, error) from error
    return AnswerTable(filled(columns), (), 0, lambda records: [f"record {i + 1}" for i in records.tolist()], False)


def _unreadable(location: Location, error: BaseException) -> InputError:
    return InputError(f"{location} cannot be read as Parquet: {printable(str(error))}", SAVE_AS)


def _read(location: Location, opened: OpenParquet, names: list[str], size: int) -> pa.Table:
    """Reads columns part by part.

    Raises:
        InputError: they take more memory than any label file of this size.
    """
    parts, most, taken = [], max(_FREE_BYTES, _MOST_RATIO * size), 0
    for group in range(opened.file.metadata.num_row_groups):
        for _, part in parts_of(opened, group, names, 0, opened.rows(group), location):
            parts.append(part)
            taken += sum(_bytes(column) for column in part.columns)
            if taken > most:
                raise InputError(
                    f"{location} decompresses from {size:,} to more than {most:,} bytes",
                    "write row_id or key, label and annotator alone, as short texts or numbers",
                )
    return pa.concat_tables(parts) if parts else opened.file.schema_arrow.empty_table().select(names)


def _bytes(column: pa.ChunkedArray) -> int:
    """Bytes of a column; of a dictionary, those that its texts take once each row has its own."""
    kind = column.type
    if not pa.types.is_dictionary(kind) or not _has_lengths(kind.value_type):
        return int(column.nbytes)
    chunks = column.chunks
    return sum(pc.sum(pc.binary_length(c.dictionary).cast(pa.int64()).take(c.indices)).as_py() or 0 for c in chunks)


def _has_lengths(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _texts(location: Location, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not any(check(kind) for check in _READ):
        raise InputError(
            f"the column {printable(name)} of {location} has {printable(str(kind))}, need texts or numbers",
            "write one text or number a record",
        )
    return _of_floats(column.cast(pa.float64())) if pa.types.is_floating(kind) else column.cast(pa.string())


def _of_floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Data frames with gaps hold whole numbers as floats, which Arrow writes as 1e+15 from there on."""
    column = pc.if_else(pc.is_nan(column), None, column)
    whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), _EXACT))
    numbers = pc.if_else(whole, column, 0.0).cast(pa.int64())
    return pc.if_else(whole, numbers.cast(pa.string()), column.cast(pa.string()))
