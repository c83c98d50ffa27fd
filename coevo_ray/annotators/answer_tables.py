"""The columns of an answer file, CSV or Parquet, as texts, and the line of each record."""

from __future__ import annotations

from coevo_ray.annotators.answer_columns import NEEDED, AnswerTable
from coevo_ray.annotators.answer_csv import read_csv
from coevo_ray.annotators.answer_parquet import read_parquet
from coevo_ray.annotators.file_kinds import binary_kind
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

_PARQUET = b"PAR1"


def read_answer_table(location: Location) -> AnswerTable:
    """Reads a CSV or Parquet file, recognised by its content.

    Raises:
        InputError: the file is missing, damaged, of another kind, or lacks a column.
    """
    data = location.read_bytes()
    if not data.strip():
        raise InputError(f"{location} is empty", f"need a header with {NEEDED}, then a line for each label")
    if data.startswith(_PARQUET):
        return read_parquet(location, data)
    kind = binary_kind(location.name, data)
    if kind is not None:
        raise InputError(f"{location} is {kind.name}, need CSV or Parquet", kind.remedy)
    return read_csv(location, data)
