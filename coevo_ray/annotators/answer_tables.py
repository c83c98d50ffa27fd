"""The columns of an answer file, CSV or Parquet, as texts, and the line of each record."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

_COLUMNS = ("row_id", "key", "label", "annotator")
# Spreadsheets of countries with a decimal comma write semicolons.
_DELIMITERS = ",;\t"
_PARQUET = b"PAR1"
_SAVE_AS = "save it as CSV (UTF-8) or Parquet"
_LONGEST_BLOCK = 2**31 - 1


@dataclass(frozen=True, eq=False)
class AnswerTable:
    """The texts of an answer file, not yet parsed.

    Attributes:
        columns: row_id, key, label and annotator, as far as the file has them: strings without surrounding spaces
            (keys unchanged) and without nulls.
        misread: malformed lines: place and cause.
        places: record numbers (int64[n], from 0) -> places such as `line 7`.
    """

    columns: pa.Table
    misread: tuple[tuple[str, str], ...]
    places: Callable[[Int64Array], list[str]]


def read_answer_table(location: Location) -> AnswerTable:
    """Reads a CSV or Parquet file, recognised by its content.

    Raises:
        InputError: the file is missing, is neither, or lacks a column.
    """
    data = location.read_bytes()
    if not data.strip():
        raise InputError(f"{location} is empty", f"need a header with {_needed()}, then a line for each label")
    return _from_parquet(location, data) if data[:4] == _PARQUET else _from_csv(location, data)


def _from_parquet(location: Location, data: bytes) -> AnswerTable:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        names = _wanted(location, file.schema_arrow.names)
        table = file.read(columns=list(names))
        columns = {wanted: _text(table.column(name)) for name, wanted in names.items()}
    except pa.ArrowException as error:
        raise InputError(f"{location} cannot be read as Parquet: {error}", _SAVE_AS) from error
    return AnswerTable(_stripped(columns), (), lambda records: [f"record {record + 1}" for record in records.tolist()])


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string())


def _from_csv(location: Location, data: bytes) -> AnswerTable:
    text = _decoded(location, data)
    delimiter, header = _header(text)
    names = _wanted(location, header)
    broken: list[int] = []

    def skip(row: pacsv.InvalidRow) -> str:
        broken.append(1)
        return "skip"

    encoded = text.encode()
    try:
        table = pacsv.read_csv(
            pa.BufferReader(encoded),
            # One block, since a text cannot be longer than a block.
            read_options=pacsv.ReadOptions(use_threads=False, block_size=min(_LONGEST_BLOCK, len(encoded) + 1)),
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip, ignore_empty_lines=True
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(names), column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowException as error:
        raise InputError(f"{location} cannot be read as CSV: {error}", _SAVE_AS) from error
    lines = _Lines(text, delimiter, len(header), table.num_rows)
    misread = lines.misread() if broken else ()
    return AnswerTable(_stripped({wanted: table.column(name) for name, wanted in names.items()}), misread, lines.places)


def _decoded(location: Location, data: bytes) -> str:
    utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{location} is not UTF-8 text: {error}", _SAVE_AS) from error


def _header(text: str) -> tuple[str, list[str]]:
    """The delimiter under which the header has a column `label`, and the header as it is written."""
    headers = {
        d: next((r for r in csv.reader(io.StringIO(text, newline=""), delimiter=d) if r), []) for d in _DELIMITERS
    }
    found = (d for d, header in headers.items() if "label" in _plain(header))
    delimiter = next(found, _DELIMITERS[0])
    return delimiter, headers[delimiter]


def _plain(names: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in names]


def _wanted(location: Location, header: Sequence[str]) -> dict[str, str]:
    """Column names as written -> our names, of the columns that are read.

    Raises:
        InputError: a column is missing or occurs twice.
    """
    plain = _plain(header)
    names = {name: known for name, known in zip(header, plain, strict=True) if known in _COLUMNS}
    if "label" not in plain or not {"row_id", "key"} & set(plain):
        raise InputError(f"{location} has columns {list(header)[:12]}, need {_needed()}", "correct its header")
    doubles = sorted({name for name in plain if name in _COLUMNS and plain.count(name) > 1})
    if doubles or any(list(header).count(name) > 1 for name in names):
        raise InputError(f"{location} has columns {doubles} twice", "leave one of each in its header")
    return names


def _needed() -> str:
    return "row_id or key, and label (annotator if several people's answers are in it)"


def _stripped(columns: dict[str, pa.ChunkedArray]) -> pa.Table:
    """Strips spaces, except from keys, which may contain some, and replaces nulls by empty texts."""
    filled = {name: pc.fill_null(column, "") for name, column in columns.items()}
    return pa.table({n: c if n == "key" else pc.utf8_trim_whitespace(c) for n, c in filled.items()}).combine_chunks()


class _Lines:
    """Line numbers as in an editor, from 1; a quoted value may span several. Counted on first use."""

    def __init__(self, text: str, delimiter: str, fields: int, records: int) -> None:
        self.text, self.delimiter, self.fields, self.records = text, delimiter, fields, records
        self._starts: Int64Array | None = None
        self._counted = False
        self._misread: list[tuple[str, str]] = []

    def places(self, records: Int64Array) -> list[str]:
        self._count()
        if self._starts is None:
            return [f"record {record + 1}" for record in records.tolist()]
        return [f"line {line}" for line in self._starts[records].tolist()]

    def misread(self) -> tuple[tuple[str, str], ...]:
        self._count()
        return tuple(self._misread)

    def _count(self) -> None:
        if self._counted:
            return
        starts, line = [], 1
        with _long_fields():
            reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=self.delimiter)
            for record in reader:
                if len(record) == self.fields:
                    starts.append(line)
                elif any(field.strip() for field in record):
                    self._misread.append((f"line {line}", f"{len(record)} values, the header has {self.fields}"))
                line = reader.line_num + 1
        # Readers differ on broken quotes: then lines are unknown, and records are numbered.
        if len(starts) == self.records + 1:  # the first is the header
            self._starts = np.array(starts[1:], dtype=np.int64)
        self._counted = True


@contextmanager
def _long_fields() -> Iterator[None]:
    former = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(former)
