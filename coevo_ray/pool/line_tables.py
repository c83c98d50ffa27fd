"""CSV and JSON Lines as sources of texts: a record is a row.

Files are gone through once to find where records begin, by the same reader that reads them later, so that a shard reads
its own bytes and no others. Texts are UTF-8; a record that is none, or has too few fields, is an entry with an error.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

from coevo_ray.config import Source
from coevo_ray.config.pool import SAMPLE_SETTINGS, TEXT
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
from coevo_ray.pool.modality import find_modality
from coevo_ray.pool.parquet_files import place_of
from coevo_ray.store.location import Location

_BLOCK = 1 << 20
_MOST = 64 << 20  # bytes of a record: an unclosed quote takes the rest of the file for one
_BOM = b"\xef\xbb\xbf"
_SEP = "sep="  # Excel's first line
_DELIMITERS = (",", ";", "\t", "|")
_NUL = "\ud800"  # stands for a NUL, which Python 3.10 does not read in CSV; no bytes are decoded to it
_NO_LINES = re.compile(rb'["\0]|\r(?!\n)')  # with one of these in it, lines of CSV may not be records
_HEAD_RECORDS = 256

Header = tuple[list[str], str]
Record = dict[str, Any] | str  # column -> cell, or why it cannot be read


class Records(Protocol):
    """Reads the records of a file from a place on.

    Attributes:
        position: the byte behind the last record.
        header: names of the columns, in order, and the delimiter; of JSON Lines, which have neither, empty.
    """

    position: int
    header: Header

    def __iter__(self) -> Iterator[Record]:
        """Yields records."""
        ...

    def ends(self) -> Iterator[list[int]]:
        """Yields the bytes behind records, in order, some at a time; the records themselves are not made."""
        ...


class _Lines:
    """The lines of a file from a byte on, with their ends, and how far they went."""

    def __init__(self, place: Location, offset: int) -> None:
        self.place, self.position, self.number = place, offset, 0

    def __iter__(self) -> Iterator[str]:
        for lines in self.blocks():
            yield from map(self._take, lines)

    def blocks(self) -> Iterator[list[bytes]]:
        """Yields whole lines, those of a block of the file at a time."""
        held = b""
        with _opened(self.place) as file:
            file.seek(self.position)
            while block := file.read(_BLOCK):
                *lines, held = (held + block).split(b"\n")  # alone: \r is left to the reader
                if len(held) > _MOST:
                    raise InputError(
                        f"{self.place}: a line of more than {_MOST >> 20} MiB at byte {self.position}",
                        "cut it, or convert the file to Parquet",
                    )
                yield [line + b"\n" for line in lines]
            if held:
                yield [held]

    def _take(self, line: bytes) -> str:
        text = line.removeprefix(_BOM) if self.position == 0 else line
        self.position += len(line)
        self.number += 1
        return text.decode(errors="surrogateescape")


class CsvRecords:
    """Records of a CSV file; columns and delimiter are those of its header unless they are given."""

    def __init__(self, place: Location, offset: int = 0, header: Header | None = None) -> None:
        self._lines = _Lines(place, offset)
        self._place, self._source = place, (line.replace("\0", _NUL) for line in self._lines)
        self.header = header if header is not None else self._read_header()
        self.position = self._lines.position

    def _read_header(self) -> Header:
        line = next(self._source, "")
        told = line.strip().removeprefix(_SEP) if line.lower().startswith(_SEP) else ""
        if told:
            line = next(self._source, "")
        delimiter = told if told in _DELIMITERS else max(_DELIMITERS, key=line.count)
        try:
            names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
        except csv.Error as error:
            mend = "end its lines in line feeds: tr '\\r' '\\n' < FILE > NEW" if "\r" in line.strip() else "repair it"
            raise InputError(f"{self._place}: its first line is no header: {error}", mend) from error
        if not all(map(_is_text, names)):  # UTF-16 has bytes of 0
            raise InputError(
                f"{self._place}: its first line is not UTF-8",
                "save it as CSV UTF-8, or convert it: iconv -f UTF-16 (or its encoding) -t UTF-8 FILE > NEW",
            )
        if not any(names):
            raise InputError(f"{self._place} has no header", "put the names of its columns into its first line")
        if len({*filter(None, names)}) < len([*filter(None, names)]):  # those without a name hold nothing of ours
            raise InputError(f"{self._place} names a column twice: {names}", "name each column once")
        return names, delimiter

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, self._rows())

    def ends(self) -> Iterator[list[int]]:
        """See `Records`. Without quotes a line is a record; from the first block with one on, records are read."""
        position = self.position
        for lines in _Lines(self._place, position).blocks():
            if _NO_LINES.search(b"".join(lines)):
                rest = CsvRecords(self._place, position, self.header)
                yield from ([rest.position] for _ in rest._rows())
                return
            ends = [*accumulate(map(len, lines), initial=position)]
            position = ends[-1]
            yield [end for line, end in zip(lines, ends[1:], strict=True) if line.rstrip(b"\r\n")]

    def _rows(self) -> Iterator[list[str]]:
        """The cells of each record."""
        rows = csv.reader(self._source, delimiter=self.header[1])
        with _large_fields():
            while True:
                try:
                    cells = next(rows, None)
                except csv.Error as error:
                    raise InputError(
                        f"{self._place}: the record at byte {self.position} cannot be read: {error}",
                        "look for a quote that is not closed, or convert the file to Parquet",
                    ) from error
                if cells is None:
                    return
                if self._lines.position - self.position > _MOST:
                    raise InputError(
                        f"{self._place}: a record of more than {_MOST >> 20} MiB at byte {self.position}",
                        "look for a quote that is not closed there",
                    )
                self.position = self._lines.position
                if cells:
                    yield cells

    def _record(self, cells: list[str]) -> Record:
        columns, _ = self.header
        if len(cells) != len(columns):
            return f"{len(cells)} fields, the header names {len(columns)}"
        return {name: cell.replace(_NUL, "\0") or None for name, cell in zip(columns, cells, strict=True)}


class JsonRecords:
    """Records of a JSON Lines file: an object a line."""

    def __init__(self, place: Location, offset: int = 0, header: Header | None = None) -> None:
        self._lines = _Lines(place, offset)
        self.position = offset
        self.header: Header = ([], "")

    def __iter__(self) -> Iterator[Record]:
        for line in self._lines:
            self.position = self._lines.position
            if line.strip():
                yield self._record(line)

    def ends(self) -> Iterator[list[int]]:
        """See `Records`."""
        yield from ([self._lines.position] for line in self._lines if line.strip())

    def _record(self, line: str) -> Record:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"no JSON: {str(error)[:200]}"
        if not isinstance(value, dict):
            return f"no JSON object but {type(value).__name__}"
        return value


@contextmanager
def _large_fields() -> Iterator[None]:
    """Fields may be as long as a record may."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@contextmanager
def _opened(place: Location) -> Iterator[Any]:
    try:
        with place.file_system.open_input_file(place.path) as file:
            yield file
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error}", "restore the file, or leave it out") from error


@dataclass(frozen=True)
class _Kind:
    """CSV or JSON Lines.

    Attributes:
        name: of the format.
        endings: of its files, lower case.
        records: opens a file.
    """

    name: str
    endings: tuple[str, ...]
    records: Callable[..., Records]

    def holds(self, name: str) -> bool:
        return name.lower().endswith(self.endings)

    def shards(self, source: Source, found: FoundFiles, shard_rows: int) -> list[SourceShard]:
        """Inspects the head of each file; they are left whole for `cut`.

        Raises:
            InputError: there are no files, or a column is missing.
            UsageError: the source does not say which column holds its texts.
        """
        if source.modality != TEXT or source.feature_columns:
            raise UsageError(
                f"{source.uri} is {self.name}, from which only texts are read",
                "name their column with text_column (--text-column), or convert it to Parquet",
            )
        if not found.count:
            raise InputError(f"no {' or '.join(self.endings)} files in {source.uri}", "give a file or a folder of them")
        is_file = found.location.is_file()
        layout = read_layout(found.folders, source.uri, "none" if is_file else source.folders, label=None)
        found.said += layout.said
        made = []
        for name in found.names:
            records = self.records(place_of(found.location, name))
            start, (columns, _) = records.position, records.header
            header = pack_values(records.header)
            columns = columns or _columns_of_objects(records, place_of(found.location, name))
            reading = self._reading(source, name, columns)
            split = source.split or layout.split(name)
            made.append(SourceShard(reading, pack_names([name]), 0, -1, offset=start, split=split, parts=header))
        return made

    def _reading(self, source: Source, file: str, columns: list[str]) -> Reading:
        wanted = {SAMPLE_SETTINGS[TEXT].column: source.data_column, "key_column": source.key_column}
        if "label_column" in source.model_fields_set:
            wanted["label_column"] = source.label_column
        for setting, column in wanted.items():
            if column is not None and column not in columns:
                raise InputError(
                    f"{source.uri}: {file} has no column {column!r}; its columns are {columns}",
                    f"set {setting} of the source to one of them",
                )
        label = source.label_column if source.label_column in columns or self.name == "jsonl" else None
        return Reading(
            uri=source.uri,
            format=self.name,
            data_column=source.data_column,
            modality=TEXT,
            label_column=label,
            key_column=source.key_column,
            prefix=source.key_prefix or "",
        )

    def cut(self, shard: SourceShard, shard_rows: int) -> list[SourceShard]:
        """Cuts a whole file by going through it once."""
        records = self._open(shard)
        starts, rows = [shard.offset], 0
        for ends in records.ends():
            starts += ends[shard_rows - rows % shard_rows - 1 :: shard_rows]
            rows += len(ends)
        made = [
            replace(shard, start=i * shard_rows, rows=min(shard_rows, rows - i * shard_rows), offset=offset)
            for i, offset in enumerate(starts)
        ]
        return made if rows == 0 else [part for part in made if part.rows > 0]

    def read(self, shard: SourceShard) -> Iterator[Entry]:
        """Yields the entries of a shard, in order."""
        reading, labels, text = shard.reading, shard.reading.labels(), find_modality(TEXT)
        assert reading.data_column is not None
        for row, record in self._rows(shard):
            key, problem = _key(shard, row, record)
            if isinstance(record, str) or problem:
                yield Entry(key, None, None, record if isinstance(record, str) else problem)
                continue
            cell, value = record.get(reading.data_column), record.get(reading.label_column or "")
            if not (_is_text(cell) and _is_text(value)):
                column = reading.label_column if _is_text(cell) else reading.data_column
                yield Entry(key, None, None, f"text that is not UTF-8 in column {column}")
                continue
            sample, error = text.from_cell(cell, reading.data_column)
            label = labels.read(value)
            yield Entry(key, sample, label.number, error or label.error, text=label.text)

    def read_keys(self, shard: SourceShard) -> Iterator[str]:
        """Yields the keys of a shard's entries, in order."""
        return (_key(shard, row, record)[0] for row, record in self._rows(shard))

    def _rows(self, shard: SourceShard) -> Iterator[tuple[int, Record]]:
        return zip(range(shard.start, shard.start + shard.rows), self._open(shard), strict=False)

    def _open(self, shard: SourceShard) -> Records:
        columns, delimiter = unpack_values(shard.parts)
        place = place_of(Location.parse(shard.reading.uri), shard.files[0])
        return self.records(place, shard.offset, (columns, delimiter))


def columns_of(records: Records) -> list[str]:
    """The columns of the first records."""
    found: dict[str, None] = {}
    for _, record in zip(range(_HEAD_RECORDS), records, strict=False):
        found |= dict.fromkeys(record if isinstance(record, dict) else ())
    return [*found]


def _columns_of_objects(records: Records, place: Location) -> list[str]:
    """The columns of the first objects of JSON Lines.

    Raises:
        InputError: no line is one.
    """
    why: Record = "it is empty"
    for number, record in zip(range(_HEAD_RECORDS), records, strict=False):
        if isinstance(record, dict):
            return [*dict.fromkeys([*record, *columns_of(records)])]
        why = record if number == 0 else why
    raise InputError(
        f"{place}: none of its first lines is a JSON object: {why}",
        "write one object a line, in UTF-8: jq -c '.[]' FILE > NEW for an array, jq -c . for objects of several lines",
    )


def _key(shard: SourceShard, row: int, record: Record) -> tuple[str, str]:
    """An entry's key, and why it has none of its own."""
    prefix, column = shard.reading.prefix, shard.reading.key_column
    own = f"{prefix}{shard.files[0]}:{row}"
    if column is None or isinstance(record, str):
        return own, ""
    value = record.get(column)
    if value is None:
        return own, f"no key in column {column}"
    return f"{prefix}{value}".encode(errors="backslashreplace").decode(), ""


def _is_text(cell: object) -> bool:
    """False for a text with half characters: bytes that are not UTF-8, or such escapes in JSON."""
    if not isinstance(cell, str) or cell.isascii():
        return True
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


_CSV = _Kind("csv", (".csv", ".tsv"), CsvRecords)
_JSONL = _Kind("jsonl", (".jsonl", ".ndjson"), JsonRecords)
CSV, JSONL = (
    Format(
        name=kind.name,
        holds=kind.holds,
        shards=kind.shards,
        read=kind.read,
        read_keys=kind.read_keys,
        cut=kind.cut,
        takes=lambda source: source.modality == TEXT,
    )
    for kind in (_CSV, _JSONL)
)
RECORDS: dict[str, Callable[[Location], Records]] = {kind.name: kind.records for kind in (_CSV, _JSONL)}
