"""Label files of people; invalid lines are reported with file and line, and skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from coevo_ray.annotators.answer_tables import AnswerTable, read_answer_table
from coevo_ray.annotators.base import Answers, Collected
from coevo_ray.annotators.label_set import LabelSet, whole_numbers
from coevo_ray.core.arrays import BoolArray, Int64Array
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location

MOST_PROBLEMS = 1000  # of a file; further ones are only counted


@dataclass(frozen=True, eq=False)
class AnswerFile:
    """The labels of one file.

    Attributes:
        location: the file.
        row_ids: int64[n].
        labels: int64[n].
        annotators: string[n].
        records: int64[n], number of each label's record in the file, from 0.
        problems: invalid records, with the cause.
        table: the file as it was read.
    """

    location: Location
    row_ids: Int64Array
    labels: Int64Array
    annotators: pa.Array
    records: Int64Array
    problems: tuple[str, ...]
    table: AnswerTable


def read_answer_file(
    location: Location, pool: Pool, classes: int, class_names: Sequence[str] = (), annotator: str = ""
) -> Collected:
    """Reads a file with labels.

    Args:
        location: CSV or Parquet with `row_id` or `key`, `label` (a class name, or an index where no class name is a
            number), and optionally `annotator`. Records without a label are not answered yet and are skipped.
        pool: the labels are for its rows.
        classes: number of classes.
        class_names: their names, where they have any.
        annotator: author of labels whose record names none; empty for the file's name without its ending.

    Returns:
        The labels, and a report of the invalid lines.

    Raises:
        InputError: the file is missing, is neither CSV nor Parquet, or lacks a column.
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
        table = read_answer_table(location)
        records = np.flatnonzero(pc.not_equal(table.columns.column("label"), "").to_numpy()).astype(np.int64)
        columns = {
            name: table.columns.column(name).take(records).combine_chunks() for name in table.columns.column_names
        }
        causes = _Causes()
        row_ids = self._row_ids(columns, len(records), causes)
        labels = self.label_set.read(columns["label"])
        causes.add(
            (labels < 0) & (row_ids >= 0),
            lambda i: f"label {columns['label'][i].as_py()!r} is none of {self.label_set}",
        )
        taken = (labels >= 0) & (row_ids >= 0)
        annotators = pa.array([annotator], pa.string()).take(pa.array(np.zeros(len(records), dtype=np.int64)))
        if "annotator" in columns:
            annotators = pc.if_else(pc.equal(columns["annotator"], ""), annotators, columns["annotator"])
        return AnswerFile(
            location,
            row_ids[taken],
            labels[taken],
            annotators.filter(pa.array(taken)),
            records[taken],
            causes.told(location, table, records),
            table,
        )

    def _row_ids(self, columns: dict[str, pa.Array], size: int, causes: _Causes) -> Int64Array:
        """row_id of each record, -1 where it is invalid."""
        nothing = pa.array([""], pa.string()).take(pa.array(np.zeros(size, dtype=np.int64)))
        ids, keys = columns.get("row_id", nothing), columns.get("key", nothing)
        by_id, by_key = _filled(ids), _filled(pc.utf8_trim_whitespace(keys))
        row_ids: Int64Array = pc.fill_null(whole_numbers(ids), -1).to_numpy(zero_copy_only=False)
        row_ids = np.where(row_ids < len(self.pool), row_ids, -1)
        causes.add(
            by_id & (row_ids < 0), lambda i: f"row_id {ids[i].as_py()!r} is not in the pool (0..{len(self.pool) - 1})"
        )
        causes.add(
            ~by_id & ~by_key, lambda i: f"a label without {' or '.join(sorted({'row_id', 'key'} & set(columns)))}"
        )
        if not by_key.any():
            return row_ids
        found = self._of_keys(keys)
        causes.add(~by_id & by_key & (found < 0), lambda i: f"key {keys[i].as_py()!r} is not in the pool")
        # A spreadsheet that was sorted by one column only breaks pairs of row_id and key; either may be the right one.
        apart = (row_ids >= 0) & by_key & (found != row_ids)
        causes.add(
            apart,
            lambda i: (
                f"row {row_ids[i]} has key {self._keys[int(row_ids[i])].as_py()!r}, the file says {keys[i].as_py()!r}: "
                "leave the right one"
            ),
        )
        return np.where(apart, -1, np.where(by_id, row_ids, found))

    def _of_keys(self, keys: pa.Array) -> Int64Array:
        """row_ids of keys, compared exactly and then without surrounding spaces; -1 for unknown keys."""
        keys = keys.cast(self._keys.type)
        exact = pc.index_in(keys, value_set=self._keys)
        trimmed = pc.index_in(pc.utf8_trim_whitespace(keys), value_set=self._keys)
        found: Int64Array = (
            pc.fill_null(pc.coalesce(exact, trimmed), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        )
        return found

    @cached_property
    def _keys(self) -> pa.Array:
        """Key of each row of the pool; row_ids are dense, so the position is the row_id."""
        # Keys of a hundred million rows exceed the 2 GiB of one string array.
        return self.pool.column("key").cast(pa.large_string()).combine_chunks()


class _Causes:
    """Collects the causes of invalid records."""

    def __init__(self) -> None:
        self._found: list[tuple[int, Callable[[int], str]]] = []
        self._more = 0

    def add(self, wrong: BoolArray, tell: Callable[[int], str]) -> None:
        """Adds a cause: bool[n] of records, and record -> message."""
        places = np.flatnonzero(wrong).tolist()
        self._found += [(place, tell) for place in places[:MOST_PROBLEMS]]
        self._more += len(places[MOST_PROBLEMS:])

    def told(self, location: Location, table: AnswerTable, records: Int64Array) -> tuple[str, ...]:
        """The messages in the file's order, at most `MOST_PROBLEMS`, then a count."""
        told = [f"{location}, {place}: {cause}" for place, cause in table.misread]
        found = sorted(self._found, key=lambda item: item[0])[: max(0, MOST_PROBLEMS - len(told))]
        if found:
            places = table.places(records[np.array([i for i, _ in found], dtype=np.int64)])
            told += [f"{location}, {place}: {tell(i)}" for place, (i, tell) in zip(places, found, strict=True)]
        more = len(table.misread) + len(self._found) + self._more - len(told[:MOST_PROBLEMS])
        return (*told[:MOST_PROBLEMS], *([f"{location}: {more} more lines are invalid"] if more else []))


def settle(files: Sequence[AnswerFile], label_set: LabelSet) -> Collected:
    """Joins files: one label for each row and annotator.

    Repeated equal labels count once; conflicting labels are all reported and skipped.

    Args:
        files: in any order.
        label_set: names of the classes, for the report.
    """
    row_ids, labels = _joined([f.row_ids for f in files]), _joined([f.labels for f in files])
    names, who = _coded([f.annotators for f in files])
    order = np.lexsort((row_ids, who))
    again = (np.diff(row_ids[order]) == 0) & (np.diff(who[order]) == 0)
    starts = np.flatnonzero(np.concatenate([[True], ~again])) if len(order) else np.zeros(0, dtype=np.intp)
    torn = np.zeros(len(starts), dtype=bool)
    if len(starts):
        torn = np.minimum.reduceat(labels[order], starts) != np.maximum.reduceat(labels[order], starts)
    stops = np.append(starts[1:], len(order))
    groups = [order[i:j] for i, j in zip(starts[torn].tolist(), stops[torn].tolist(), strict=True)]
    kept = order[starts[~torn]]
    answers = [
        Answers(row_ids[mine], labels[mine], names[code])
        for code in sorted(range(len(names)), key=names.__getitem__)
        if len(mine := kept[who[kept] == code])
    ]
    problems = [problem for file in files for problem in file.problems]
    return Collected(tuple(answers), (*problems, *_torn(files, groups, label_set)))


def _torn(files: Sequence[AnswerFile], groups: Sequence[npt.NDArray[np.intp]], label_set: LabelSet) -> list[str]:
    """Reports rows with conflicting labels of one annotator; a group holds positions in the joined files."""
    sizes = np.cumsum([len(f.row_ids) for f in files])
    problems = []
    for group in groups[:MOST_PROBLEMS]:
        given = []
        for place in sorted(group.tolist()):
            source = int(np.searchsorted(sizes, place, side="right"))
            file = files[source]
            at = place - (int(sizes[source - 1]) if source else 0)
            line = file.table.places(file.records[at : at + 1])[0]
            given.append(f"{label_set.shown(int(file.labels[at]))!r} ({file.location}, {line})")
        problems.append(
            f"row {file.row_ids[at]} has different labels by {file.annotators[at].as_py()!r}: {', '.join(given)}; none "
            "is taken: leave the right one"
        )
    more = len(groups) - len(problems)
    return [*problems, *([f"{more} more rows have different labels by one annotator"] if more else [])]


def _coded(parts: Sequence[pa.Array]) -> tuple[list[str], Int64Array]:
    """The distinct texts, and the index of each text among them."""
    coded = pa.chunked_array(parts, pa.string()).combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _joined(parts: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _filled(texts: pa.Array) -> BoolArray:
    result: BoolArray = pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
    return result
