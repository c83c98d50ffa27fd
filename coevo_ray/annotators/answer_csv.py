"""Label files as CSV, as people's programs write it: other delimiters, line ends and encodings, Excel's first line."""

from __future__ import annotations

import csv
import io
import re
import sys
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from coevo_ray.annotators.answer_columns import NEEDED, SAVE_AS, AnswerTable, filled, is_header, wanted
from coevo_ray.annotators.answer_text import as_utf_8
from coevo_ray.annotators.file_kinds import text_kind
from coevo_ray.annotators.quoting import printable
from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

if TYPE_CHECKING:
    import _csv

# Spreadsheets of countries with a decimal comma write semicolons.
_DELIMITERS = ",;\t|"
_SEP = re.compile(rb'"?sep=([,;\t|])"?[,;\t|]*(\r\n|\r|\n)', re.IGNORECASE)
_LONGEST_HEADER = 1 << 20  # bytes
_LONGEST_BLOCK = 2**31 - 1
_MOST_MISREAD = 1000  # malformed lines that are told


@dataclass(frozen=True)
class _Form:
    """A file's content behind what comes before its header, and how it is written.

    Attributes:
        body: UTF-8.
        line: number of its first line.
        delimiter: one character.
        header: names of the columns as written.
    """

    body: bytes
    line: int
    delimiter: str
    header: list[str]

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Each record that is not empty, with the number of its first line."""
        with _long_fields():
            lines = io.TextIOWrapper(io.BytesIO(self.body), "utf-8", newline="")
            reader = _reader(lines, self.delimiter)
            start = self.line
            for record in reader:
                if record:
                    yield start, record
                start = self.line + reader.line_num


def read_csv(location: Location, data: bytes) -> AnswerTable:
    """Reads a CSV file.

    Raises:
        InputError: the file is not text, is text of another kind, lacks a column, or a quoted value has no end.
    """
    form = _form(location, as_utf_8(location, data))
    names = wanted(location, form.header)
    table, broken = _table(location, form, list(names))
    _check_quotes(location, form, 1 + table.num_rows + broken)
    lines = _Lines(form, table.num_rows)
    if broken:
        lines.count()
    columns = {ours: table.column(name) for name, ours in names.items()}
    return AnswerTable(filled(columns), tuple(lines.misread), lines.misread_lines, lines.places, escaped=True)


def _table(location: Location, form: _Form, names: list[str]) -> tuple[pa.Table, int]:
    """Some columns as texts, and the number of lines that were left out, having another number of values."""
    broken = 0

    def skip(row: pacsv.InvalidRow) -> str:
        nonlocal broken
        broken += 1
        return "skip"

    try:
        table = pacsv.read_csv(
            pa.BufferReader(form.body),
            # One block, since a text cannot be longer than a block.
            read_options=pacsv.ReadOptions(use_threads=False, block_size=min(_LONGEST_BLOCK, len(form.body) + 1)),
            parse_options=pacsv.ParseOptions(
                delimiter=form.delimiter, newlines_in_values=True, invalid_row_handler=skip, ignore_empty_lines=True
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowException as error:
        raise InputError(f"{location} cannot be read as CSV: {printable(str(error))}", SAVE_AS) from error
    return table, broken


def _form(location: Location, text: bytes) -> _Form:
    """Finds header and delimiter: that of Excel's line `sep=;`, else the one under which the header has our columns."""
    told = _SEP.match(text)
    body = text[told.end() :] if told else text
    delimiters = [told[1].decode()] if told else []
    forms = [
        _Form(body, 2 if told else 1, d, _header(location, body, d)) for d in dict.fromkeys([*delimiters, *_DELIMITERS])
    ]
    found = next((form for form in forms if is_header(form.header)), None)
    if found is not None:
        return found
    kind = text_kind(body[:_LONGEST_HEADER].decode(errors="ignore"))
    if kind is not None:
        raise InputError(f"{location} is {kind.name}, need CSV or Parquet", kind.remedy)
    return next((form for form in forms if "label" in [name.strip().lower() for name in form.header]), forms[0])


def _header(location: Location, body: bytes, delimiter: str) -> list[str]:
    """The first record that is not empty.

    Raises:
        InputError: it is longer than any header.
    """
    head = io.StringIO(body[:_LONGEST_HEADER].decode(errors="ignore"), newline="")
    with _long_fields():
        reader = _reader(head, delimiter)
        header: list[str] = next((record for record in reader if record), [])
        whole = len(body) <= _LONGEST_HEADER or next(reader, None) is not None
    if not whole:
        raise InputError(
            f"{location} begins with a line of more than {_LONGEST_HEADER:,} bytes, need a header",
            f"begin it with {NEEDED}",
        )
    return header


def _reader(lines: Iterable[str], delimiter: str, strict: bool = False) -> _csv.Reader:
    # Python 3.10 does not read NUL.
    return csv.reader((line.replace("\0", "\ufffd") for line in lines), delimiter=delimiter, strict=strict)


def _check_quotes(location: Location, form: _Form, records: int) -> None:
    """Refuses a file in which a quote without an end makes one value of several lines: their labels would be lost.

    Args:
        location: names the file.
        form: its content.
        records: number of records, the header among them.

    Raises:
        InputError: there is one.
    """
    if b'"' not in form.body or sum(1 for _ in re.finditer(rb"[^\r\n]+", form.body)) <= records:
        return
    lines = io.TextIOWrapper(io.BytesIO(form.body), "utf-8", newline="")
    with _long_fields():
        reader = _reader(lines, form.delimiter, strict=True)
        while True:
            start = reader.line_num
            try:
                if next(reader, None) is None:
                    return
            except csv.Error as error:
                if reader.line_num > start + 1:
                    raise InputError(
                        f"{location}, line {form.line + start}: a quoted value that begins here has no end, or text "
                        "behind its closing quote: lines after it were read as one value",
                        'close the quote, and write a quote within a value twice: "say ""hi"""',
                    ) from error


class _Lines:
    """Line numbers as in an editor, from 1; a quoted value may span several. Counted on first use."""

    def __init__(self, form: _Form, records: int) -> None:
        self.form, self.records = form, records
        self.misread: list[tuple[str, str]] = []
        self.misread_lines = 0
        self._starts: Int64Array | None = None
        self._counted = False

    def places(self, records: Int64Array) -> list[str]:
        self.count()
        if self._starts is None:
            return [f"record {record + 1}" for record in records.tolist()]
        return [f"line {line}" for line in self._starts[records].tolist()]

    def count(self) -> None:
        """Finds the lines of records, and those that are malformed."""
        if self._counted:
            return
        starts, fields = array("q"), len(self.form.header)
        for line, record in self.form.records():
            if len(record) == fields:
                starts.append(line)
            elif any(field.strip() for field in record):
                self.misread_lines += 1
                if len(self.misread) < _MOST_MISREAD:
                    self.misread.append((f"line {line}", f"{len(record):,} values, the header has {fields}"))
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
