"""The row that is kept of each group, against a loop over the groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.graph.keeping import keep_one
from coevo_ray.errors import InputError

Ints = npt.NDArray[np.int64]


def by_hand(
    group: Ints, held: list[bool], first: Ints, second: Ints, drop: bool
) -> tuple[set[int], set[int], list[int]]:
    """Kept rows, leaks, and the row that stands for each, one group at a time."""
    kept, leaks, of = set(np.flatnonzero(held).tolist()), set(), list(range(len(group)))
    for g in set(group.tolist()):
        rows = [r for r in range(len(group)) if group[r] == g]
        test = [r for r in rows if held[r]]
        train = [r for r in rows if not held[r]]
        if test:
            leaks |= set(train)
        if test and drop:
            for r in train:
                of[r] = test[0]
        elif train:
            best = max(train, key=lambda r: (first[r], second[r], -r))
            kept.add(best)
            for r in train:
                of[r] = best
    return kept, leaks, of


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 1), st.integers(0, 3)), max_size=30),
    drop=st.booleans(),
)
def test_it_is_the_best_of_each_group(rows: list[tuple[int, bool, int, int]], drop: bool) -> None:
    group = np.array([row[0] for row in rows], dtype=np.int64)
    held = [row[1] for row in rows]
    first, second = (np.array([row[i] for row in rows], dtype=np.int64) for i in (2, 3))
    found = keep_one(group, np.array(held, dtype=bool), first, second, drop_leaks=drop)
    kept, leaks, of = by_hand(group, held, first, second, drop)
    assert set(np.flatnonzero(found.kept).tolist()) == kept
    assert set(np.flatnonzero(found.leak).tolist()) == leaks
    assert found.of.tolist() == of


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="3 groups"):
        keep_one(np.zeros(3, dtype=np.int64), np.zeros(2, dtype=bool))
