"""Labels that near-duplicates share: how often they agree, what confidence follows, and when nothing is shared."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from coevo_ray.core.gate import readings
from coevo_ray.core.gate.config import GateConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.graph.copies import copy_groups
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.growing import GrowingIndex
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.probes.label_agreement import Agreement

ROWS, TWICE, CLASSES = 300, 60, 3


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=25))
def test_agreement_is_that_of_all_pairs(rows: list[tuple[int, int]]) -> None:
    group, labels = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1))
    pairs, agreeing = 0, 0.0
    for each in set(group.tolist()):
        own = labels[group == each].tolist()
        both = list(permutations(own, 2))
        pairs += len(own) - 1
        agreeing += (len(own) - 1) * sum(a == b for a, b in both) / max(1, len(both))
    found = Agreement.of(group, labels)
    assert found.pairs == pairs and found.agreeing == pytest.approx(agreeing)
    assert found.precision == pytest.approx((9 + agreeing) / (10 + pairs))


def twins() -> NeighbourGraph:
    """Row 300 + i is a near-copy of row i; all groups are found."""
    x = np.random.default_rng(0).standard_normal((ROWS, 12))
    near = x[:TWICE] + 0.01 * np.random.default_rng(1).standard_normal((TWICE, 12))
    graph = build_graph(np.concatenate([x, near]), 16, "exact")
    assert copy_groups(graph).tolist() == [*range(ROWS), *range(TWICE)]
    return graph


def gate_of(agree: int, differ: int, **settings: Any) -> AnnotationGate:
    """Twins labelled both, alike and otherwise; and of ten more pairs the first one."""
    gate = AnnotationGate(
        GateConfig(classes=CLASSES, round_size=30, validation_share=0.0, **settings),
        twins(),
        np.ones(ROWS + TWICE, dtype=np.bool_),
    )
    both, one = np.arange(agree + differ), np.arange(agree + differ, agree + differ + 10)
    gate.volunteer(np.concatenate([both, one]), np.zeros(len(both) + 10, dtype=np.int64))
    gate.volunteer(both + ROWS, np.repeat([0, 1], [agree, differ]))
    gate.update_predictions(certainly(gate, 0, 0.999))
    return gate


def certainly(gate: AnnotationGate, label: int, sure: float) -> npt.NDArray[np.float32]:
    p = np.full((gate.rows, CLASSES), (1 - sure) / (CLASSES - 1), dtype=np.float32)
    p[:, label] = sure
    return p


def shared(gate: AnnotationGate) -> dict[int, float]:
    found = readings.pseudo_labels(gate.inner, 0.0)
    of = zip(found.positions[found.shared].tolist(), found.confidence[found.shared].tolist(), strict=True)
    return dict(of)


@pytest.mark.parametrize(("agree", "differ", "expected"), [(0, 0, 0.9), (20, 0, 29 / 30), (18, 2, 27 / 30)])
def test_a_shared_label_is_as_sure_as_the_measured_agreement(agree: int, differ: int, expected: float) -> None:
    gate = gate_of(agree, differ)
    found = shared(gate)
    assert sorted(found) == [ROWS + agree + differ + i for i in range(10)]
    assert list(found.values()) == pytest.approx([expected] * 10)
    sure = readings.pseudo_labels(gate.inner, 0.95)
    assert sure.shared.sum() == (10 if expected >= 0.95 else 0), "one copy is no certainty"
    assert not sure.shared.all(), "what the model is sure of is told apart"


def test_a_shared_label_is_no_surer_than_the_model_leaves_room_for() -> None:
    gate = gate_of(20, 0)
    gate.update_predictions(certainly(gate, 2, 0.8))
    believed = {p: 1 - c for p, c in zip(*(gate.inner.beliefs.believed()[i].tolist() for i in (0, 2)), strict=True)}
    labels = readings.pseudo_labels(gate.inner, 0.0)
    assert (labels.labels[labels.shared] == 0).all(), "of the twin, not of the model"
    for row, confidence in shared(gate).items():
        assert confidence == pytest.approx(min(29 / 30, believed[row]), abs=1e-6)


def test_gates_of_version_0_1_0_go_on_with_their_confidence() -> None:
    gate = gate_of(0, 0, shared_confidence=0.95)
    assert list(shared(gate).values()) == pytest.approx([max(0.95, c) for c in believed_of(gate)], abs=1e-6)
    gate.update_predictions(certainly(gate, 0, 0.4))
    assert list(shared(gate).values()) == pytest.approx([0.95] * 10)


def believed_of(gate: AnnotationGate) -> list[float]:
    rows, _, sure = gate.inner.beliefs.believed()
    known = dict(zip(rows.tolist(), sure.tolist(), strict=True))
    return [known[ROWS + i] for i in range(10)]


def test_copies_that_disagree_too_often_share_nothing_and_are_asked_about() -> None:
    gate = gate_of(6, 6)
    assert gate.inner.beliefs.agreement().precision == pytest.approx(15 / 22)
    assert len(readings.copied_labels(gate.inner)[0]) == 0 and not gate.inner.beliefs.covered().any()
    assert (gate.inner.beliefs.gain[gate.inner.unlabelled()] > 0).all()
    given = gate_of(6, 6, copy_similarity=0.7, copy_margin=0.2)
    copied = readings.copied_labels(given.inner)[0]
    assert set(range(ROWS + 12, ROWS + 22)) <= set(copied.tolist()), "who gives numbers has decided"


def test_no_digit_is_taken_for_another_ones_copy() -> None:
    """None is one; fixed numbers called hundreds so, and gave out free labels, some of them wrong, as 95 % sure."""
    digits = load_digits()
    graph, rows = build_graph(digits.data, 16, "exact", centre=True), np.arange(len(digits.data))
    numbers: dict[str, Any] = {"copy_similarity": 0.7, "copy_margin": 0.2}
    own, given = (
        AnnotationGate(
            GateConfig(classes=10, round_size=50, validation_share=0.0, **settings), graph, np.ones(len(rows), bool)
        )
        for settings in (dict[str, Any](), numbers)
    )
    for gate in (own, given):
        gate.volunteer(rows[::5], digits.target[::5].astype(np.int64))
    assert len(readings.copied_labels(given.inner)[0]) > 50
    assert len(readings.copied_labels(own.inner)[0]) == 0 and not own.inner.beliefs.covered().any()


def test_groups_are_those_of_the_graph_and_rows_that_arrived_are_alone() -> None:
    gate = gate_of(0, 0)
    assert readings.groups(gate.inner, np.array([5, ROWS + 5, 6, 200])).tolist() == [5, 5, 6, 200]
    x = np.random.default_rng(0).standard_normal((ROWS + TWICE, 12)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = GrowingIndex(x, twins())
    gate.use_graph(index)
    index.append(x[:2], *index.search(x[:2]))
    gate.grow(np.zeros(2, np.int64), np.zeros(2, np.float32), np.zeros(2, np.float32))
    last = ROWS + TWICE
    assert readings.groups(gate.inner, np.array([last, last + 1])).tolist() == [last, last + 1]


def test_torn_groups_are_covered_and_give_no_label() -> None:
    """A third copy of two rows whose labels differ: nobody needs to ask again, and nobody knows."""
    x = np.random.default_rng(0).standard_normal((ROWS, 12))
    near = x[np.repeat(np.arange(TWICE), 2)] + 0.01 * np.random.default_rng(1).standard_normal((2 * TWICE, 12))
    graph = build_graph(np.concatenate([x, near]), 16, "exact")
    gate = AnnotationGate(
        GateConfig(classes=CLASSES, round_size=30, validation_share=0.0), graph, np.ones(ROWS + 2 * TWICE, bool)
    )
    gate.volunteer(np.array([0, ROWS, 1, ROWS + 2]), np.array([0, 1, 2, 2]))
    alike = np.arange(2, 12)  # pairs that agree, so that groups are trusted
    gate.volunteer(np.concatenate([alike, ROWS + 2 * alike, ROWS + 2 * alike + 1]), np.zeros(30, np.int64))
    gate.update_predictions(np.full((gate.rows, CLASSES), 1 / CLASSES, dtype=np.float32))
    covered = gate.inner.beliefs.covered()
    assert np.flatnonzero(covered).tolist() == [ROWS + 1, ROWS + 3]
    assert gate.inner.beliefs.gain[[ROWS + 1, ROWS + 3]].tolist() == [0, 0]
    positions, labels = readings.copied_labels(gate.inner)
    assert (positions.tolist(), labels.tolist()) == ([ROWS + 3], [2])


def test_the_stop_counts_no_row_whose_copy_is_labelled() -> None:
    """Loss that 360 rows would still take off is worth going on for, that of the 300 which are no copies is not."""
    gate = AnnotationGate(
        GateConfig(
            classes=CLASSES,
            round_size=30,
            relative_gain=0.0,
            loss_rounds=1,
            loss_tolerance=0.17,
            validation_share=0.0,
        ),
        twins(),
        np.ones(ROWS + TWICE, dtype=np.bool_),
    )
    gate.volunteer(np.arange(TWICE), np.zeros(TWICE, dtype=np.int64))
    gate.update_predictions(np.full((gate.rows, CLASSES), 1 / CLASSES, dtype=np.float32))
    gate.request()
    gate.inner.measured = {-1: (30, 1.0), 0: (TWICE, 1.0 - 0.1 * np.log(2))}  # a tenth of a nat for each e-fold
    assert 0.1 * np.log(ROWS / TWICE) < 0.17 < 0.1 * np.log((ROWS + TWICE) / TWICE)
    assert gate.stopped_by == "validation"
