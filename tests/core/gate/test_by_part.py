"""A gate whose graph lies in parts does what it does with the graph in one piece, bit by bit."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.gate.class_blocks import class_ranges
from coevo_ray.core.gate.config import GateConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.groups import NeighbourGroups
from coevo_ray.core.gate.readings import pseudo_labels
from coevo_ray.core.graph.copies import copy_groups
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.parted import PartedGraph
from coevo_ray.core.graph.types import GraphPart, NeighbourGraph, PartWork, over_rows
from coevo_ray.errors import InputError

ROWS, CLASSES = 160, 7
Floats = npt.NDArray[np.float32]


class Apart:
    """Parts that are reached by pickles alone, and answer in any order, as in other processes."""

    def __init__(self, graph: NeighbourGraph, owner: npt.NDArray[np.int64], seed: int = 0) -> None:
        self.parts = {int(number): _part(graph, np.flatnonzero(owner == number)) for number in np.unique(owner)}
        self.random = np.random.default_rng(seed)

    def each(self, work: PartWork, shared: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        return self.some(work, dict.fromkeys(self.parts, shared))

    def some(self, work: PartWork, given: Mapping[int, Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        for number in self.random.permutation(list(given)).tolist():
            function, arguments = pickle.loads(pickle.dumps((work, given[number])))
            for each in arguments:
                if isinstance(each, np.ndarray):
                    each.flags.writeable = False  # as in an object store
            yield number, pickle.loads(pickle.dumps(function(self.parts[number], *arguments)))


def _part(graph: NeighbourGraph, rows: npt.NDArray[np.int64]) -> GraphPart:
    return GraphPart(graph.rows, rows.astype(np.int32), graph.indices[rows], graph.similarities[rows])


class Blocks:
    """Predictions by blocks of classes."""

    def __init__(self, probabilities: Floats, cells: int) -> None:
        self.probabilities, self.ranges = probabilities, class_ranges(len(probabilities), CLASSES, cells)

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        for first, end in self.ranges:
            yield first, self.probabilities[:, first:end]


def features(seed: int) -> Floats:
    x = np.random.default_rng(seed).normal(size=(ROWS, 5)).astype(np.float32)
    x[1::9] = x[: len(x[1::9]) * 9 : 9]  # copies, which share labels
    return x


def whole(seed: int = 0) -> NeighbourGraph:
    return build_graph(features(seed), k=8)


def parted(graph: NeighbourGraph, owner: npt.NDArray[np.int64]) -> PartedGraph:
    return PartedGraph((graph.rows, graph.k), Apart(graph, owner))


def guesses(seed: int) -> Floats:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(CLASSES, 0.3), ROWS)
    p[::7] = random.multinomial(8, np.full(CLASSES, 1 / CLASSES), len(p[::7])) / 8  # ties
    return p.astype(np.float32)


def run(graph: NeighbourGraph | PartedGraph, cells: int, options: dict[str, Any]) -> list[Any]:
    """All that a gate says over some rounds."""
    config = GateConfig(classes=CLASSES, round_size=9, relative_gain=0.0, **options)
    gate, said = AnnotationGate(config, graph, np.ones(ROWS, dtype=np.bool_)), list[Any]()
    asked = gate.request_seed(24).positions
    for round_ in range(4):
        gate.submit(asked, asked * 5 % CLASSES)
        gate.update_predictions(Blocks(guesses(round_), cells))
        asked = gate.request().positions
        said += [asked, gate.state(), gate.predictions(np.arange(ROWS)), pseudo_labels(gate.inner, 0.3)]
    return said


OPTIONS: list[dict[str, Any]] = [
    {},
    {"rule": "compat", "min_similarity": 0.1, "recheck_similarity": 0.1},
    {"vote": "distributions", "draw": "top"},
    {"vote": "classes", "min_similarity": 0.1, "draw": "top", "typical": 0.0, "apart": 0.5},
    {"balance": 0.5, "distance_weight": 0.3, "typical": 0.4},
    {"neighbours": 3, "power": 1.0, "copy_similarity": 0.7, "copy_margin": 0.01, "validation_share": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@given(data=st.data(), count=st.integers(1, 12), cells=st.integers(1, 3 * ROWS * CLASSES), seed=st.integers(0, 50))
@settings(max_examples=12, deadline=None)
def test_rounds_are_those_of_one_piece(
    options: dict[str, Any], data: st.DataObject, count: int, cells: int, seed: int
) -> None:
    graph = whole(seed)
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))  # parts of single rows, too
    owner = np.random.default_rng(seed).permutation(np.arange(ROWS) % sum(sizes))
    owner = np.searchsorted(np.cumsum(sizes), owner, side="right").astype(np.int64)
    np.testing.assert_equal(run(parted(graph, owner), cells, options), run(graph, 10**9, options))


@given(owner=st.lists(st.integers(0, 5), min_size=ROWS, max_size=ROWS).map(np.array), seed=st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_groups_and_neighbours_are_those_of_one_piece(owner: npt.NDArray[np.int64], seed: int) -> None:
    graph = whole(seed)
    apart, rows = parted(graph, owner), np.random.default_rng(seed).integers(0, ROWS, 37)
    np.testing.assert_equal(apart.near(rows, 3), graph.near(rows, 3))
    np.testing.assert_equal(apart.near(rows), graph.near(rows))
    assert apart.near(rows[:0]).indices.shape == (0, graph.k)
    for numbers in ((None, None), (0.7, 0.2)):
        assert np.array_equal(copy_groups(apart, *numbers), copy_groups(graph, *numbers))
    here, there = NeighbourGroups.of(graph), NeighbourGroups.of(apart)
    np.testing.assert_equal([there.first, *there.parents], [here.first, *here.parents])
    assert apart.parts == len(set(owner.tolist())) and (apart.rows, apart.k) == (graph.rows, graph.k)


def _names(part: GraphPart, add: int) -> tuple[npt.NDArray[np.integer[Any]]]:
    return (part.names(slice(0, len(part))) + add,)


def test_results_stand_at_the_rows_of_their_parts() -> None:
    graph = whole()
    for each in (graph, parted(graph, np.arange(ROWS) * 7 % 5)):
        assert over_rows(each, _names, 3)[0].tolist() == list(range(3, ROWS + 3))


def test_parts_that_are_not_the_graphs_are_refused() -> None:
    graph, half = whole(), np.arange(ROWS) % 2
    lacking = Apart(graph, half)
    del lacking.parts[1]
    with pytest.raises(InputError, match=f"have {ROWS // 2} of {ROWS} rows, with repeats {ROWS // 2}"):
        PartedGraph((ROWS, graph.k), lacking)
    twice = Apart(graph, half)
    twice.parts[1] = twice.parts[0]
    with pytest.raises(InputError, match=f"have {ROWS // 2} of {ROWS} rows, with repeats {ROWS}"):
        PartedGraph((ROWS, graph.k), twice)


def test_a_wrong_prediction_in_any_part_changes_nothing() -> None:
    graph = whole()
    gate = AnnotationGate(
        GateConfig(classes=CLASSES, round_size=9), parted(graph, np.arange(ROWS) % 4), np.ones(ROWS, dtype=np.bool_)
    )
    before, wrong = gate.state(), guesses(0)
    wrong[[3, 90]] *= 2
    with pytest.raises(InputError, match=r"2 of 160 .*\[3, 90\]"):
        gate.update_predictions(wrong)
    np.testing.assert_equal(gate.state(), before)
