"""Predictions that come a block of classes at a time give what all of them at once give, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.gate.class_blocks import ClassBlocks, Leaders, checked, class_ranges
from coevo_ray.core.gate.config import GateConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.rules import chance_corrected, neighbours_distribution
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.errors import InputError

Floats = npt.NDArray[np.float32]
ROWS = 90


class Cut:
    """Blocks of an array, in one buffer that the next block overwrites, as a service has them."""

    def __init__(self, probabilities: Floats, cells: int) -> None:
        self.probabilities, self.ranges = probabilities, class_ranges(len(probabilities), probabilities.shape[1], cells)
        self.buffer = np.empty((len(probabilities), max(b - a for a, b in self.ranges)), dtype=np.float32)

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        for first, end in self.ranges:
            self.buffer[:] = np.nan
            self.buffer[:, : end - first] = self.probabilities[:, first:end]
            yield first, self.buffer[:, : end - first]


def guesses(seed: int, classes: int, rows: int = ROWS) -> Floats:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(classes, 0.3), rows)
    p[::7] = random.multinomial(8, np.full(classes, 1 / classes), len(p[::7])) / 8  # ties, in one block and in several
    return p.astype(np.float32)


def make(classes: int, **settings_: Any) -> AnnotationGate:
    x = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
    x[1::9] = x[::9]  # copies, which share labels
    values: dict[str, Any] = {"relative_gain": 0.0, "validation_share": 0.0, **settings_}
    config = GateConfig(classes=classes, round_size=9, **values)
    gate = AnnotationGate(config, build_graph(x, k=8), np.ones(ROWS, dtype=np.bool_))
    rows = gate.request_seed(20).positions
    gate.submit(rows, rows * 5 % classes)
    return gate


@given(rows=st.integers(1, 10**6), classes=st.integers(2, 70_000), cells=st.integers(1, 10**9))
def test_ranges_cover_the_classes_in_order_and_stay_small(rows: int, classes: int, cells: int) -> None:
    ranges = class_ranges(rows, classes, cells)
    assert ranges[0][0] == 0 and ranges[-1][1] == classes
    assert all(end == start for (_, end), (start, _) in pairwise(ranges))
    widths = [end - first for first, end in ranges]
    assert min(widths) >= 2 and max(widths) - min(widths) <= 1
    assert max(widths) * rows <= cells or max(widths) <= 3


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "compat"},
        {},
        {"vote": "distributions"},
        {"vote": "classes", "min_similarity": 0.1},
        {"balance": 0.5, "distance_weight": 0.3},
        {"neighbours": 3, "vote_weight": 0.8, "validation_share": 0.3},
        {"vote": "classes", "min_similarity": 0.1, "validation_share": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize(("classes", "cells"), [(2, 1), (5, ROWS * 2), (23, 1), (23, ROWS * 5), (150, ROWS * 64)])
def test_blocks_of_classes_give_the_beliefs_of_all_classes(options: dict[str, Any], classes: int, cells: int) -> None:
    whole, cut = make(classes, **options), make(classes, **options)
    for round_ in range(3):
        probabilities = guesses(round_, classes)
        whole.update_predictions(probabilities)
        cut.update_predictions(Cut(probabilities, cells))
        np.testing.assert_equal(cut.state(), whole.state())
        asked = whole.request().positions
        assert cut.request().positions.tolist() == asked.tolist()
        for gate in (whole, cut):
            gate.submit(asked, asked * 3 % classes)


def test_margins_beliefs_are_the_fused_distributions_row_by_row() -> None:
    classes, gate = 23, make(23)
    p = guesses(4, classes)
    gate.update_predictions(Cut(p, ROWS * 5))
    state, known = gate.state()[1], gate.inner.beliefs.labelled
    labels = dict(zip(*(part.tolist() for part in gate.labels()[:2]), strict=True))
    for row in np.flatnonzero(~known).tolist():
        weights, said = 0.0, np.zeros(classes)
        for j, s in zip(*gate.inner.graph.near(np.array(row)), strict=True):
            weights += max(0.0, float(s)) ** 4
            said += max(0.0, float(s)) ** 4 * (np.eye(classes)[labels[j]] if j in labels else p[j].astype(np.float64))
        fused = 0.5 * p[row].astype(np.float64) + 0.5 * said / weights
        assert state["best"][row] == fused.argmax()
        assert state["confidence"][row] == pytest.approx((fused.max() - 1 / classes) / (1 - 1 / classes), abs=1e-6)
        first, second = sorted(p[row].astype(np.float64))[:-3:-1]
        assert state["gain"][row] in (pytest.approx(1 - (first - second), abs=1e-6), 0.0)


@given(
    values=st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5]), min_size=9, max_size=9), min_size=1, max_size=6),
    cells=st.integers(2, 60),
)
@settings(max_examples=60)
def test_leaders_are_the_two_largest_of_all_classes(values: list[list[float]], cells: int) -> None:
    array = np.array(values)
    found = Leaders(len(array), np.float64, second=True)
    for first, end in class_ranges(len(array), 9, cells):
        found.look(slice(0, len(array)), first, array[:, first:end])
    assert found.best.tolist() == array.argmax(axis=1).tolist()
    ordered = np.sort(array, axis=1)
    assert found.second is not None
    assert (found.first.tolist(), found.second.tolist()) == (ordered[:, -1].tolist(), ordered[:, -2].tolist())


class Broken:
    """Ends after a block, as an object that is lost, or with classes that do not fit."""

    def __init__(self, *blocks: tuple[int, Floats] | Exception) -> None:
        self.blocks = blocks

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        for block in self.blocks:
            if isinstance(block, Exception):
                raise block
            yield block


@pytest.mark.parametrize("rule", ["margin", "compat"])
def test_a_call_that_fails_half_way_leaves_the_gate_as_it_was(rule: Any) -> None:
    gate, p = make(6, rule=rule), guesses(1, 6)
    gate.update_predictions(p)
    before = gate.state()
    other, late = guesses(2, 6), guesses(2, 6)
    late[[3, 50], 5] += 0.5  # in the last block
    wrong: list[tuple[ClassBlocks, type[Exception], str]] = [
        (Broken((0, other[:, :3]), OSError("lost")), OSError, "lost"),
        (Broken((0, other[:, :3])), InputError, "of 3 classes"),
        (Broken((0, other[:, :3]), (2, other[:, 2:])), InputError, "need float"),
        (Broken((0, other), (6, other)), InputError, "of 12 classes"),
        (Broken((0, other[:, :3]), (3, other[1:, 3:])), InputError, r"need float\[90, 6\]"),
        (Cut(late, 2 * ROWS), InputError, r"2 of 90 .*\[3, 50\]"),
    ]
    for predictions, error, message in wrong:
        with pytest.raises(error, match=message):
            gate.update_predictions(predictions)
        np.testing.assert_equal(gate.state(), before)


def test_blocks_are_not_read_beyond_the_last_class() -> None:
    p = guesses(0, 4)
    read = list(checked(Cut(p, ROWS * 2), ROWS, 4))
    assert [first for first, _ in read] == [0, 2]


def test_a_neighbours_label_counts_in_the_block_of_its_class_alone() -> None:
    p, graph = guesses(0, 6), make(6).inner.graph
    known, labels = np.arange(ROWS) % 2 == 0, np.arange(ROWS) % 6
    near = graph.near(np.arange(ROWS))
    whole, mass = neighbours_distribution(*near, p, known, labels)
    parts = [
        neighbours_distribution(*near, p[:, a:b], known, labels, first_class=a)
        for a, b in class_ranges(ROWS, 6, 2 * ROWS)
    ]
    assert np.array_equal(np.concatenate([part for part, _ in parts], axis=1), whole)
    assert all(np.array_equal(other, mass) for _, other in parts)
    assert chance_corrected(whole.max(axis=1), 6).max() <= 1.0
