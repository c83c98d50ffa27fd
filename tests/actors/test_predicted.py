"""Predictions in parts are those of all rows at once, whatever lies elsewhere and however it is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.actors.predicted import GatheredPredictions
from coevo_ray.core.gate.class_blocks import class_ranges
from coevo_ray.errors import InputError

Floats = npt.NDArray[np.float32]
ROWS, CLASSES = 40, 7
NAMES = np.arange(ROWS, dtype=np.int64) * 3 + 5


@dataclass
class Elsewhere:
    """A part that is fetched block by block."""

    ids: npt.NDArray[np.int64]
    values: Floats
    ranges: list[tuple[int, int]]

    def row_ids(self) -> npt.NDArray[np.int64]:
        return self.ids

    def block(self, number: int) -> Floats:
        first, end = self.ranges[number]
        return self.values[:, first:end].copy()


def gathered(*parts: Any) -> GatheredPredictions:
    return GatheredPredictions(parts, NAMES, lambda row_ids: np.searchsorted(NAMES, row_ids), CLASSES)


def predictions(seed: int) -> Floats:
    return np.random.default_rng(seed).dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)


@given(seed=st.integers(0, 999), parts=st.integers(1, 5), cells=st.none() | st.integers(1, 10 * ROWS))
def test_parts_in_any_order_are_the_predictions_of_all_rows(seed: int, parts: int, cells: int | None) -> None:
    p, places = predictions(seed), np.random.default_rng(seed).permutation(ROWS)
    cut = [(NAMES[some], p[some]) for some in np.array_split(places, parts)]
    if cells is not None:
        blocks = gathered(*(Elsewhere(*part, class_ranges(ROWS, CLASSES, cells)) for part in cut))
    else:
        blocks = gathered(*cut)
    for _ in range(2):  # rules that need all confidences first go through them twice
        starts, found = zip(*((first, values.copy()) for first, values in blocks), strict=True)
        assert np.array_equal(np.concatenate(found, axis=1), p)
        assert starts == tuple(np.cumsum([0, *(values.shape[1] for values in found)])[:-1])


def test_parts_that_do_not_fit_are_refused() -> None:
    p, two = predictions(0), [(0, 3), (3, CLASSES)]
    wrong: list[tuple[tuple[Any, ...], str]] = [
        (((NAMES, p[:, 1:]),), "6.* for 40 rows and 7 classes"),
        (((NAMES[1:], p[1:]),), r"1 of 40 rows have no prediction, first \[5\]"),
        ((), "40 of 40 rows have no prediction"),
        ((Elsewhere(NAMES[:9], p[:9], two), (NAMES[9:], p[9:])), "different blocks of classes"),
    ]
    for parts, message in wrong:
        with pytest.raises(InputError, match=message):
            gathered(*parts)
