"""Label files of people; invalid lines are reported with file and line, and skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coevo_ray.actors.answered import MOST_ANNOTATORS
from coevo_ray.annotators.answer_columns import AnswerTable
from coevo_ray.annotators.answer_tables import read_answer_table
from coevo_ray.annotators.base import Collected
from coevo_ray.annotators.formulas import unescaped_texts
from coevo_ray.annotators.label_set import LabelSet, whole_numbers
from coevo_ray.annotators.quoting import quoted
from coevo_ray.annotators.settling import MOST_PROBLEMS, AnswerFile, settle
from coevo_ray.annotators.spellings import Spellings, trimmed
from coevo_ray.core.arrays import BoolArray, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.unread import refuse_lfs_pointer
from coevo_ray.store.location import Location

_MOST_BYTES = (1 << 31) - 1  # of a column of texts, in Arrow
_LONGEST_ANNOTATOR = 1000  # characters
# As spreadsheets and data frames write an absent value. "none" is not among them: people mean a class by it.
_NOTHING = ("", "nan", "na", "n/a", "#n/a", "<na>", "null")


def read_answer_file(
    location: Location, pool: Pool, classes: int, class_names: Sequence[str] = (), annotator: str = ""
) -> Collected:
    """Reads a file with labels.

    Args:
        location: CSV or Parquet with `row_id` or `key`, `label` (a class name, or an index where no class name is a
            number), and optionally `annotator`. Records without a label (empty, NA, NaN, null) are not answered yet and
            are skipped. Labels and keys may be written otherwise where one alone can be meant, see `Spellings`.
        pool: the labels are for its rows.
        classes: number of classes.
        class_names: their names, where they have any.
        annotator: author of labels whose record names none; empty for the file's name without its ending.

    Returns:
        The labels, and a report of the invalid lines.

    Raises:
        InputError: the file is missing, damaged, neither CSV nor Parquet, or lacks a column.
    """
    reader = AnswerReader(pool, LabelSet(classes, class_names))
    return settle([reader.read(location, annotator or stem(location))], reader.label_set)


def stem(location: Location) -> str:
    """A file's name without its ending."""
    return location.name.rsplit(".", 1)[0] or location.name


class AnswerReader:
    """Reads label files for one pool; the pool's keys are read once.

    Args:
        pool: the labels are for its rows.
        label_set: the classes.
    """

    def __init__(self, pool: Pool, label_set: LabelSet) -> None:
        self.pool, self.label_set = pool, label_set

    def read(self, location: Location, annotator: str) -> AnswerFile:
        """Reads one file.

        Args:
            location: the file.
            annotator: author of labels whose record names none.

        Raises:
            InputError: as `read_answer_file`.
        """
        refuse_lfs_pointer(location)
        table = read_answer_table(location)
        _check_size(location, table)
        given = table.columns.column("label").combine_chunks()
        all_labels = self._labels(given, table.escaped)
        records = np.flatnonzero((all_labels >= 0) | ~_is_nothing(trimmed(given))).astype(np.int64)
        labels = all_labels[records]
        columns = {
            name: table.columns.column(name).take(pa.array(records)).combine_chunks()
            for name in table.columns.column_names
        }
        causes = _Causes()
        row_ids = self._row_ids(columns, len(records), table.escaped, causes)
        causes.add((labels < 0) & (row_ids >= 0), lambda i: self._no_class(columns["label"][i].as_py()))
        annotators, named = _annotators(columns, annotator, len(records))
        _check_number(location, annotators)
        causes.add(~named, lambda i: f"annotator {quoted(columns['annotator'][i].as_py())} is no name")
        taken = (labels >= 0) & (row_ids >= 0) & named
        return AnswerFile(
            location,
            row_ids[taken],
            labels[taken],
            annotators.filter(pa.array(taken)),
            records[taken],
            causes.told(location, table, records),
            table,
        )

    def _labels(self, texts: pa.Array, escaped: bool) -> Int64Array:
        """Class of each label, -1 for none; a cell with an apostrophe of ours counts without it first."""
        if not escaped:
            return self.label_set.read(texts)
        labels = self.label_set.read(unescaped_texts(texts))
        return np.where(labels < 0, self.label_set.read(texts), labels) if (labels < 0).any() else labels

    def _no_class(self, label: str) -> str:
        hint = " (is a quote not closed?)" if "\n" in label or "\r" in label else ""
        return f"label {quoted(label.strip())} is none of {self.label_set}{hint}"

    def _row_ids(self, columns: dict[str, pa.Array], size: int, escaped: bool, causes: _Causes) -> Int64Array:
        """row_id of each record, -1 where it is invalid."""
        ids, keys = columns.get("row_id", _repeated("", size)), columns.get("key", _repeated("", size))
        by_id, by_key = ~_is_nothing(ids), _is_filled(trimmed(keys))
        row_ids: Int64Array = pc.fill_null(whole_numbers(ids), -1).to_numpy(zero_copy_only=False)
        row_ids = np.where(row_ids < len(self.pool), row_ids, -1)
        causes.add(
            by_id & (row_ids < 0),
            lambda i: f"row_id {quoted(ids[i].as_py())} is not in the pool (0..{len(self.pool) - 1})",
        )
        causes.add(
            ~by_id & ~by_key, lambda i: f"a label without {' or '.join(sorted({'row_id', 'key'} & set(columns)))}"
        )
        if not by_key.any():
            return row_ids
        found = self._of_keys(keys, row_ids, escaped)
        causes.add(~by_id & by_key & (found < 0), lambda i: f"key {quoted(keys[i].as_py())} is not in the pool")
        # A spreadsheet that was sorted by one column only breaks pairs of row_id and key; either may be the right one.
        apart = (row_ids >= 0) & by_key & (found != row_ids)
        causes.add(
            apart,
            lambda i: (
                f"row {row_ids[i]} has key {quoted(self._keys.known[int(row_ids[i])].as_py())}, the file says "
                f"{quoted(keys[i].as_py())}: leave the right one"
            ),
        )
        return np.where(apart, -1, np.where(by_id, row_ids, found))

    def _of_keys(self, keys: pa.Array, row_ids: Int64Array, escaped: bool) -> Int64Array:
        """row_ids of keys; -1 for unknown ones.

        Keys of files that other programs wrote may begin like ours with an apostrophe: such a key counts as it stands
        where it is the key of its row_id, or where it is known in no other way.
        """
        if not escaped:
            return self._keys.find(keys)
        plain = unescaped_texts(keys)
        found = self._keys.find(plain)
        differ = np.flatnonzero(pc.not_equal(plain, keys).to_numpy(zero_copy_only=False))
        if len(differ):
            as_written = self._keys.find(keys.take(pa.array(differ)))
            better = (as_written >= 0) & ((found[differ] < 0) | (as_written == row_ids[differ]))
            found[differ] = np.where(better, as_written, found[differ])
        return found

    @cached_property
    def _keys(self) -> Spellings:
        """Key of each row of the pool; row_ids are dense, so the position is the row_id."""
        # Keys of a hundred million rows exceed the 2 GiB of one string array.
        return Spellings(self.pool.column("key").cast(pa.large_string()).combine_chunks())


class _Causes:
    """Collects the causes of invalid records."""

    def __init__(self) -> None:
        self._found: list[tuple[int, Callable[[int], str]]] = []
        self._more = 0

    def add(self, wrong: BoolArray, tell: Callable[[int], str]) -> None:
        """Adds a cause: bool[n] of records, and record -> message."""
        places = np.flatnonzero(wrong)
        self._found += [(place, tell) for place in places[:MOST_PROBLEMS].tolist()]
        self._more += len(places[MOST_PROBLEMS:])

    def told(self, location: Location, table: AnswerTable, records: Int64Array) -> tuple[str, ...]:
        """The messages in the file's order, at most `MOST_PROBLEMS`, then a count."""
        told = [f"{location}, {place}: {cause}" for place, cause in table.misread]
        found = sorted(self._found, key=lambda item: item[0])[: max(0, MOST_PROBLEMS - len(told))]
        if found:
            places = table.places(records[np.array([i for i, _ in found], dtype=np.int64)])
            told += [f"{location}, {place}: {tell(i)}" for place, (i, tell) in zip(places, found, strict=True)]
        more = table.misread_lines + len(self._found) + self._more - len(told[:MOST_PROBLEMS])
        return (*told[:MOST_PROBLEMS], *([f"{location}: {more} more lines are invalid"] if more else []))


def _check_size(location: Location, table: AnswerTable) -> None:
    """Refuses columns that are too long for what follows.

    Raises:
        InputError: a column holds 2 GiB of texts or more.
    """
    for name in table.columns.column_names:
        if (size := table.columns.column(name).nbytes) > _MOST_BYTES:
            raise InputError(
                f"{location} has {size:,} bytes in the column {name}, need {_MOST_BYTES:,} or fewer",
                "write it as several files",
            )


def _annotators(columns: dict[str, pa.Array], default: str, size: int) -> tuple[pa.Array, BoolArray]:
    """Name of each record's annotator, and whether it is one: not as long as a text that slipped into the column."""
    if "annotator" not in columns:
        return _repeated(default, size), np.ones(size, dtype=bool)
    given = columns["annotator"]
    named = pc.less_equal(pc.utf8_length(given), _LONGEST_ANNOTATOR).to_numpy(zero_copy_only=False)
    return pc.if_else(pc.equal(given, ""), _repeated(default, size), given), named


def _check_number(location: Location, annotators: pa.Array) -> None:
    """Refuses a file with a name for each answer, such as the answer's number."""
    different = pc.count_distinct(annotators).as_py()
    if different > MOST_ANNOTATORS:
        raise InputError(
            f"{location} has answers by {different:,} annotators, at most {MOST_ANNOTATORS:,} are taken",
            "name people in the column annotator, or leave it out",
        )


def _repeated(text: str, size: int) -> pa.Array:
    return pa.array([text], pa.string()).take(pa.array(np.zeros(size, dtype=np.int64)))


def _is_nothing(texts: pa.Array) -> BoolArray:
    """Cells that stand for no value."""
    result: BoolArray = pc.is_in(pc.utf8_lower(texts), value_set=pa.array(_NOTHING, texts.type)).to_numpy(
        zero_copy_only=False
    )
    return result


def _is_filled(texts: pa.Array) -> BoolArray:
    result: BoolArray = pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
    return result
