"""Signs of directions do not depend on what a library, or rounding, makes of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from coevo_ray.core.alignment.signs import with_fixed_signs
from coevo_ray.core.arrays import Float64Array

_VALUES = st.floats(-10, 10).filter(lambda value: value == 0 or abs(value) > 1e-6)
_DIRECTIONS = arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(0, 4)), elements=_VALUES)


def obvious(direction: list[float]) -> list[float]:
    """By its definition, an entry at a time."""
    largest = max(abs(value) for value in direction)
    first = next(value for value in direction if abs(value) >= (1 - 1e-3) * largest)
    return [-value for value in direction] if first < 0 else direction


@given(directions=_DIRECTIONS)
def test_it_is_the_definition(directions: Float64Array) -> None:
    assert with_fixed_signs(directions).T.tolist() == [obvious(each) for each in directions.T.tolist()]


@given(directions=_DIRECTIONS, turned=st.lists(st.booleans(), min_size=4, max_size=4))
def test_either_sign_becomes_the_same(directions: Float64Array, turned: list[bool]) -> None:
    other = directions * np.where(turned[: directions.shape[1]], -1, 1)
    assert np.array_equal(with_fixed_signs(other), with_fixed_signs(directions))


@given(size=st.floats(0.01, 10), noise=arrays.arrays(np.float64, 4, elements=st.floats(-1e-6, 1e-6)))
def test_entries_that_are_equal_up_to_rounding_turn_nothing(size: float, noise: Float64Array) -> None:
    direction = np.array([[0.1], [size], [-size], [size]])
    assert (with_fixed_signs(direction * (1 + noise[:, None])) > 0).ravel().tolist() == [True, True, False, True]
