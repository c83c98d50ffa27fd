"""The label of a row by several annotators' answers.

The rule: of each annotator the latest answer counts; the label with most annotators wins; of level labels the one that
was given first stays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coevo_ray.core.arrays import Int64Array, IntArray


class Resolved(NamedTuple):
    """The labels that follow from answers, one for each row.

    Attributes:
        row_ids: int64[r], increasing.
        labels: int64[r].
        first: int64[r], place of the first answer that counts and says so: its annotator and time are the label's.
        votes: int64[r], annotators who say so.
        annotators: int64[r], annotators who answered.
    """

    row_ids: Int64Array
    labels: Int64Array
    first: Int64Array
    votes: Int64Array
    annotators: Int64Array


def standing_answers(row_ids: Int64Array, annotators: IntArray) -> Int64Array:
    """Places of the answers that count: the latest of each annotator about each row.

    Args:
        row_ids: int64[n], in the order in which the answers came.
        annotators: int[n], >= 0.

    Returns:
        int64[s], increasing.
    """
    order = np.lexsort((np.arange(len(row_ids)), annotators, row_ids))
    row, who = row_ids[order], annotators[order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = (row[1:] != row[:-1]) | (who[1:] != who[:-1])
    return np.sort(order[last]).astype(np.int64)


def resolve(row_ids: Int64Array, labels: IntArray, annotators: IntArray) -> Resolved:
    """Labels of all answered rows.

    Args:
        row_ids: int64[n], in the order in which the answers came.
        labels: int[n], >= 0.
        annotators: int[n], >= 0.
    """
    counts = standing_answers(row_ids, annotators)
    row, label = row_ids[counts], labels[counts].astype(np.int64)
    order = np.lexsort((counts, label, row))
    row, label, place = row[order], label[order], counts[order]
    start = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (label[1:] != label[:-1])][: len(row)])
    votes = np.diff(np.r_[start, len(row)])
    row, label, place = row[start], label[start], place[start]  # one for each label of a row; its first answer
    best = np.lexsort((place, -votes, row))
    head = np.ones(len(best), dtype=bool)
    head[1:] = row[best][1:] != row[best][:-1]
    chosen = best[head]
    answered = np.add.reduceat(votes, np.flatnonzero(np.r_[True, row[1:] != row[:-1]])) if len(row) else votes
    return Resolved(row[chosen], label[chosen], place[chosen], votes[chosen], answered)
