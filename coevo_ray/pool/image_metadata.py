"""Labels of image folders from the Hub's metadata: `metadata.csv`, `.jsonl` or `.parquet` with a column `file_name`.

Documented with the Hub's ImageFolder: names are relative to the metadata's own folder, and where there is metadata,
folders are no classes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa
import pyarrow.csv as pacsv

from coevo_ray.config import Source
from coevo_ray.errors import InputError
from coevo_ray.pool.entries import FoundFiles, pack_values, unpack_names
from coevo_ray.pool.parquet_files import is_parquet, rows_of
from coevo_ray.store.location import Location

_NAMES = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
_FILE = "file_name"
_SEP = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=([,;\t|])"?\r?\n', re.IGNORECASE)  # Excel's first line
_LARGEST = 1 << 30  # bytes of one file of metadata


def is_metadata(name: str) -> bool:
    """Tests a file's name, relative to its source, for that of metadata."""
    return name.rpartition("/")[2].lower() in _NAMES


def labels_by_metadata(source: Source, found: FoundFiles) -> list[bytes]:
    """The labels of a source's images, as its metadata has them.

    Args:
        source: names the column.
        found: images and metadata; `said` gets what people should know.

    Returns:
        For each run of images, its labels, packed (`pack_values`); nothing where the metadata has no such column.

    Raises:
        InputError: metadata cannot be read, or has no column `file_name`.
    """
    assert source.label_column is not None
    labels: dict[str, object] = {}
    columns: set[str] = set()
    for name in found.metadata:
        folder = name.rpartition("/")[0]
        for row in _rows(found.location.child(name), source.label_column):
            columns.update(row)
            target = (f"{folder}/{row[_FILE]}" if folder else str(row[_FILE])).removeprefix("./")
            _add(labels, target, row.get(source.label_column), found.location.child(name))
    what = ", ".join(found.metadata[:3])
    if source.label_column not in columns:
        found.said.append(
            f"no labels: {what} has no column {source.label_column!r} (it has {sorted(columns)[:8]}; --label-column "
            "names one, --folders classes takes folders)"
        )
        return []
    meant = _spelled_otherwise(labels, found)
    packed, named = [], 0
    for run, _ in found.runs:
        names = [meant.get(name, name) for name in unpack_names(run)]
        named += sum(name in labels for name in names)
        packed.append(pack_values([labels.get(name) for name in names]))
    found.said.append(f"labels by {what}: {named} of {found.count} images are named there")
    if named < len(labels):
        there = {meant.get(name, name) for run, _ in found.runs for name in unpack_names(run)}
        first = next(name for name in labels if name not in there)
        found.said.append(f"{len(labels) - named} rows of {what} name images that are not there (first: {first})")
    return packed


def _add(labels: dict[str, object], name: str, label: object, file: Location) -> None:
    """Takes a row.

    Raises:
        InputError: an earlier row has another label for the image.
    """
    if repr(labels.setdefault(name, label)) != repr(label):
        raise InputError(
            f"{file}: {name} has several labels: {labels[name]!r} and {label!r}",
            "keep one row for each image; or name another --label-column, or null for none",
        )


def _spelled_otherwise(labels: Mapping[str, object], found: FoundFiles) -> dict[str, str]:
    """Images that metadata spells otherwise, in Unicode form, case or strokes: image -> its name there.

    macOS unpacks names in another form, and Windows writes `train\\1.PNG`. Only where one image and one name are meant.
    """
    images = {name for run, _ in found.runs for name in unpack_names(run)}
    by_metadata = _unique(name for name in labels if name not in images)
    by_image = _unique(name for name in images if name not in labels) if by_metadata else {}
    return {image: by_metadata[spelling] for spelling, image in by_image.items() if spelling in by_metadata}


def _unique(names: Iterable[str]) -> dict[str, str]:
    """Spelling in common -> the one name that has it."""
    found: dict[str, str] = {}
    twice = set()
    for name in names:
        common = unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./")).casefold()
        if found.setdefault(common, name) != name:
            twice.add(common)
    return {common: name for common, name in found.items() if common not in twice}


def _rows(file: Location, label_column: str) -> Iterator[dict[str, object]]:
    if is_parquet(file.name):
        rows: Iterator[dict[str, object]] = rows_of(file, (_FILE, label_column))
    else:
        content = file.read_bytes()
        if len(content) > _LARGEST:
            raise InputError(f"{file} has {len(content)} bytes, need {_LARGEST} or fewer", "write labels as Parquet")
        rows = _csv(file, content) if file.name.lower().endswith(".csv") else _lines(file, content)
    for i, row in enumerate(rows):
        if not isinstance(row.get(_FILE), str):
            raise InputError(
                f"{file}: row {i + 1} has no {_FILE}, its columns are {sorted(row)[:8]}",
                f"name each image, relative to this file's folder, in the column {_FILE}",
            )
        yield row


def _csv(file: Location, content: bytes) -> Iterator[dict[str, object]]:
    told = _SEP.match(content)
    content = content[told.end() :] if told else content
    line = content.partition(b"\n")[0].decode(errors="replace")
    delimiter = told[1].decode() if told else max(",;\t|", key=line.count)
    form = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        head = pacsv.open_csv(pa.BufferReader(content), parse_options=form).schema.names
        texts = pacsv.ConvertOptions(column_types=dict.fromkeys(head, pa.string()), strings_can_be_null=False)
        table = pacsv.read_csv(pa.BufferReader(content), parse_options=form, convert_options=texts)
    except (pa.ArrowException, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"cannot read {file}: {str(error)[:160]}", "write it as CSV in UTF-8") from error
    for batch in table.to_batches(4096):
        yield from batch.to_pylist()


def _lines(file: Location, content: bytes) -> Iterator[dict[str, object]]:
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: line {number} is not JSON", "write one JSON object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{file}: line {number} is no object", "write one JSON object a line")
        yield row
