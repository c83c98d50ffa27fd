"""Passes over rows, cut evenly, and positions in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core.feed.cycles import Cycle
from coevo_ray.errors import InputError


@given(rows=st.integers(1, 400), most=st.integers(1, 90))
def test_a_pass_is_cut_into_as_few_batches_as_fit_and_evenly(rows: int, most: int) -> None:
    cycle = Cycle(rows, most)
    sizes = [min(cycle.batch, rows - first) for first in range(0, rows, cycle.batch)]
    assert len(sizes) == cycle.steps == -(-rows // most)
    assert sum(sizes) == rows
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) < max(2, cycle.steps)


@given(rows=st.integers(1, 60), most=st.integers(1, 20), steps=st.integers(0, 100))
def test_positions_are_those_of_a_slow_walk(rows: int, most: int, steps: int) -> None:
    cycle, number, inside, visits = Cycle(rows, most), 0, 0, 0
    for step in range(steps):
        assert cycle.at(step) == (number, inside)
        assert cycle.visits(step) == visits
        visits += min(cycle.batch, rows - inside)
        inside += cycle.batch
        if inside >= rows:
            number, inside = number + 1, 0


@pytest.mark.parametrize(("rows", "most"), [(0, 4), (4, 0)])
def test_nothing_cannot_be_cycled(rows: int, most: int) -> None:
    with pytest.raises(InputError, match=f"a cycle of {rows} rows in batches of {most}"):
        Cycle(rows, most)
