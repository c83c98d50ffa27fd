"""Guesses the columns of a Parquet source by their names, their types and their first values.

`ingest` takes what it is told. This is for `coevo-ray start`, which shows what it took before anything is made.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from coevo_ray.config import Source
from coevo_ray.config.pool import IMAGE
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.pool.cells import holds_numbers, storage
from coevo_ray.pool.entries import FoundFiles, unpack_names
from coevo_ray.pool.huggingface import hub_features
from coevo_ray.pool.image_folder import IMAGES
from coevo_ray.pool.line_tables import RECORDS, Records
from coevo_ray.pool.npy_source import NPY
from coevo_ray.pool.parquet_files import is_parquet, place_of
from coevo_ray.pool.sources import find_files
from coevo_ray.pool.text_folder import TEXTS
from coevo_ray.store.location import Location

_TEXTS = ("text", "body", "content", "sentence", "review", "document", "comment", "question", "abstract", "title")
_KEYS = ("id", "key", "uid", "uuid", "guid", "sample_id", "image_id", "row_id_of_source")
_LABELS = ("label", "labels", "class", "category", "target")
_SAMPLE_ROWS = 256
_A_SENTENCE = 20  # letters: the mean length from which a column of texts is no list of names


def guess_columns(uri: str, given: JsonObject) -> JsonObject:
    """Settings of a source whose files are Parquet, CSV or JSON Lines and that does not say what its samples are.

    Args:
        uri: of the source.
        given: its settings so far, which are left as they are.

    Returns:
        The settings with `image_column`, `text_column` or `vector_column`, `label_column` and `key_column` where a
        column stands out; `format` for matrices and text files. Unchanged for sources of other formats.

    Raises:
        InputError: the source is not there or cannot be read, or several columns may be the samples.
        UsageError: the store cannot be opened.
    """
    files = find_files(Source(uri=uri, **given), _SAMPLE_ROWS)
    if not files.found.count and not {"image_column", "vector_column"} & given.keys():
        files = find_files(Source(uri=uri, **{"text_column": _TEXTS[0], **given}), _SAMPLE_ROWS)
    if files.chosen is IMAGES and _are_texts(files.found) and not {"image_column", "format"} & given.keys():
        return {**given, "format": TEXTS.name}
    if files.chosen in (NPY, TEXTS) and "format" not in given:
        return {**given, "format": files.chosen.name}
    if not files.found.count:
        return given
    place = place_of(files.found.location, files.found.names[0])
    if files.chosen.name in RECORDS:
        head = _head_of_lines(RECORDS[files.chosen.name](place))
    elif is_parquet(files.found.names[0]):
        head = _head(place)
    else:
        return given
    found = dict(given)
    chosen = {"image_column", "text_column", "vector_column"} & given.keys()
    if not chosen and not _is_default(head):
        found |= _samples(uri, head)
    taken = {value for value in found.values() if isinstance(value, str)}
    for setting, names in (("label_column", _LABELS), ("key_column", _KEYS)):
        column = next((n for n in names if n in head.column_names and n not in taken), None)
        if setting not in given and column is not None and _fits(setting, head, column):
            found[setting] = column
    return found


def _are_texts(found: FoundFiles) -> bool:
    """Tests whether files whose names have no ending are texts, by the first of them."""
    if not found.count or found.guessed < found.count or found.location.is_file():
        return False
    try:
        text = found.location.child(unpack_names(found.runs[0][0])[0]).read_bytes().decode()
    except (InputError, UnicodeDecodeError):
        return False
    return "\0" not in text


def _head(place: Location) -> pa.Table:
    """The first rows of a file."""
    try:
        with place.file_system.open_input_file(place.path) as file:
            parquet = pq.ParquetFile(file)
            return pa.Table.from_batches(islice(parquet.iter_batches(_SAMPLE_ROWS), 1), parquet.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{place} cannot be read: {error}", "restore the file, or leave it out") from error


def _head_of_lines(records: Records) -> pa.Table:
    """The first records of CSV or JSON Lines, as texts."""
    rows = [record for _, record in zip(range(_SAMPLE_ROWS), records, strict=False) if isinstance(record, dict)]
    columns = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([_as_text(row.get(name)) for row in rows], pa.string()) for name in columns})


def _as_text(cell: object) -> str | None:
    return None if cell is None else str(cell).encode(errors="replace").decode()


def _is_default(head: pa.Table) -> bool:
    """Tests whether the settings of a source that says nothing find its samples."""
    if IMAGE in head.column_names and not _is_text(head.schema.field(IMAGE).type):
        return True
    hub = hub_features(head.schema.metadata)
    return hub is not None and len(hub.columns("Image")) == 1


def _samples(uri: str, head: pa.Table) -> JsonObject:
    """The column of samples and its setting: images before texts before vectors."""
    for setting, test, preferred in (
        ("image_column", _is_image, ("image", "img", "picture")),
        ("text_column", lambda column: _is_text(column.type) and _letters(column) >= _A_SENTENCE, _TEXTS),
        ("vector_column", lambda column: holds_numbers(column.type), ("vector", "embedding", "features")),
    ):
        columns = _which(head, test)
        named = [name for name in preferred if name in columns]
        if len(columns) == 1 or named:
            return {setting: (named or columns)[0]}
        if columns:
            raise InputError(
                f"{uri}: the samples may be any of the columns {', '.join(columns)}",
                f"name one with --{setting.replace('_', '-')}",
            )
    short = _which(head, lambda column: _is_text(column.type))
    if len(short) == 1:
        return {"text_column": short[0]}
    raise InputError(
        f"{uri}: no column holds images, texts or vectors; its columns are {', '.join(head.column_names)}",
        "name one with --image-column, --text-column or --vector-column",
    )


def _which(head: pa.Table, test: Callable[[pa.ChunkedArray], bool]) -> list[str]:
    return [name for name in head.column_names if test(storage(head.column(name)))]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_image(column: pa.ChunkedArray) -> bool:
    """Bytes, or Hugging Face's pair of bytes and path."""
    kind = column.type
    if types.is_struct(kind):
        return "bytes" in {kind.field(i).name for i in range(kind.num_fields)}
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _letters(column: pa.ChunkedArray) -> float:
    """Mean length of the texts."""
    texts = [text for text in column.to_pylist() if text]
    return sum(map(len, texts)) / len(texts) if texts else 0.0


def _fits(setting: str, head: pa.Table, column: str) -> bool:
    """Keys differ from row to row; labels are names or whole numbers."""
    cells = storage(head.column(column))
    if setting == "key_column":
        return (_is_text(cells.type) or types.is_integer(cells.type)) and len(cells.unique()) == len(cells)
    kind = cells.type.value_type if types.is_dictionary(cells.type) else cells.type
    return _is_text(kind) or types.is_integer(kind) or types.is_boolean(kind)
