"""The columns of a label file, and their names in its header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from coevo_ray.annotators.quoting import listed
from coevo_ray.annotators.spellings import folded_name, trimmed
from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

COLUMNS = ("row_id", "key", "label", "annotator")
SAVE_AS = "save it as CSV (UTF-8) or Parquet"
NEEDED = "row_id or key, and label (annotator if several people's answers are in it)"
_MOST_COLUMNS = 16_384  # of a spreadsheet


@dataclass(frozen=True, eq=False)
class AnswerTable:
    """The texts of an answer file, not yet parsed.

    Attributes:
        columns: row_id, key, label and annotator, as far as the file has them: strings without nulls; row_id and
            annotator without surrounding spaces, which keys and labels may have.
        misread: malformed lines: place and cause; of very many the first.
        misread_lines: number of malformed lines.
        places: record numbers (int64[n], from 0) -> places such as `line 7`.
        escaped: whether keys and labels may have the apostrophes of `formulas.escaped`.
    """

    columns: pa.Table
    misread: tuple[tuple[str, str], ...]
    misread_lines: int
    places: Callable[[Int64Array], list[str]]
    escaped: bool


def is_header(names: Sequence[str]) -> bool:
    """True if the names of columns include those that are needed."""
    folded = {folded_name(name) for name in names[:_MOST_COLUMNS]}
    return "label" in folded and bool(folded & {"row_id", "key"})


def wanted(location: Location, header: Sequence[str]) -> dict[str, str]:
    """Column names as written -> our names, of the columns that are read.

    Raises:
        InputError: a column is missing or occurs twice, or there are more than a spreadsheet has.
    """
    if len(header) > _MOST_COLUMNS:
        raise InputError(
            f"{location} has {len(header):,} columns, at most {_MOST_COLUMNS:,} are read", f"leave {NEEDED}"
        )
    names = {name: known for name in header if (known := folded_name(name)) in COLUMNS}
    if not is_header(header):
        raise InputError(f"{location} has columns {listed(header)}, need {NEEDED}", "correct its header")
    counts = Counter(folded_name(name) for name in header)
    doubles = [name for name in sorted(COLUMNS) if counts[name] > 1]
    if doubles:
        raise InputError(f"{location} has columns {doubles} twice", "leave one of each in its header")
    return names


def filled(columns: dict[str, pa.ChunkedArray]) -> pa.Table:
    """Replaces nulls by empty texts, and strips spaces from row_id and annotator; see `AnswerTable.columns`."""
    full = {name: pc.fill_null(column, "") for name, column in columns.items()}
    return pa.table({n: c if n in ("key", "label") else trimmed(c) for n, c in full.items()}).combine_chunks()
