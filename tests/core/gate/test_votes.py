from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.gate.votes import resolve

ANSWER = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3))


def columns(answers: list[tuple[int, int, int]]) -> list[Any]:
    table = np.array(answers, dtype=np.int64).reshape(-1, 3)
    return [table[:, 0], table[:, 1], table[:, 2]]


def by_hand(answers: list[tuple[int, int, int]]) -> dict[int, tuple[int, int, int, int]]:
    """Row -> (label, place of its first answer, votes, annotators): the rule, one answer at a time."""
    standing: dict[int, dict[int, tuple[int, int]]] = {}
    for place, (row, label, who) in enumerate(answers):
        standing.setdefault(row, {})[who] = (place, label)
    result = {}
    for row, said in standing.items():
        votes = Counter(label for _, label in said.values())
        first = {label: min(place for place, other in said.values() if other == label) for label in votes}
        label = min(votes, key=lambda each: (-votes[each], first[each]))
        result[row] = (label, first[label], votes[label], len(said))
    return result


@given(st.lists(ANSWER, max_size=40))
def test_resolving_is_the_rule(answers: list[tuple[int, int, int]]) -> None:
    got = resolve(*columns(answers))
    assert {int(r): tuple(map(int, rest)) for r, *rest in zip(*got, strict=True)} == by_hand(answers)
    assert got.row_ids.tolist() == sorted({row for row, _, _ in answers})


def test_a_tie_stays_with_the_label_that_came_first() -> None:
    assert by_hand([(7, 1, 0), (7, 2, 1)])[7] == (1, 0, 1, 2)
    got = resolve(*columns([(7, 2, 1), (7, 1, 0), (7, 1, 2), (7, 2, 3)]))
    assert got.labels.tolist() == [2]
    assert got.votes.tolist() == [2] and got.annotators.tolist() == [4]
    # A correction moves the first answer for that label behind the other's.
    got = resolve(*columns([(7, 1, 0), (7, 2, 1), (7, 2, 0), (7, 1, 0)]))
    assert got.labels.tolist() == [2] and got.first.tolist() == [1]
