"""Joins the labels of several files: one for each row and annotator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coevo_ray.annotators.answer_columns import AnswerTable
from coevo_ray.annotators.base import Answers, Collected
from coevo_ray.annotators.label_set import LabelSet
from coevo_ray.annotators.quoting import quoted
from coevo_ray.core.arrays import Int64Array
from coevo_ray.store.location import Location

MOST_PROBLEMS = 1000  # of a file; further ones are only counted
_MOST_GIVEN = 10  # conflicting labels of a row that are told


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
    kept = order[starts[~torn]]  # by annotator, then by row
    ends = np.flatnonzero(np.diff(who[kept])) + 1
    parts = sorted(np.split(kept, ends), key=lambda mine: names[who[mine[0]]]) if len(kept) else []
    answers = [Answers(row_ids[mine], labels[mine], names[who[mine[0]]]) for mine in parts]
    problems = [problem for file in files for problem in file.problems]
    return Collected(tuple(answers), (*problems, *_torn(files, groups, label_set)))


def _torn(files: Sequence[AnswerFile], groups: Sequence[npt.NDArray[np.intp]], label_set: LabelSet) -> list[str]:
    """Reports rows with conflicting labels of one annotator; a group holds positions in the joined files."""
    sizes = np.cumsum([len(f.row_ids) for f in files])
    problems = []
    for group in groups[:MOST_PROBLEMS]:
        given = []
        for place in np.sort(group)[:_MOST_GIVEN].tolist():
            source = int(np.searchsorted(sizes, place, side="right"))
            file = files[source]
            at = place - (int(sizes[source - 1]) if source else 0)
            line = file.table.places(file.records[at : at + 1])[0]
            given.append(f"{quoted(label_set.shown(int(file.labels[at])))} ({file.location}, {line})")
        more = f" and {len(group) - len(given):,} more" if len(group) > len(given) else ""
        problems.append(
            f"row {file.row_ids[at]} has different labels by {quoted(file.annotators[at].as_py())}: {', '.join(given)}"
            f"{more}; none is taken: leave the right one"
        )
    left = len(groups) - len(problems)
    return [*problems, *([f"{left} more rows have different labels by one annotator"] if left else [])]


def _coded(parts: Sequence[pa.Array]) -> tuple[list[str], Int64Array]:
    """The distinct texts, and the index of each text among them."""
    coded = pa.chunked_array(parts, pa.string()).combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _joined(parts: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
