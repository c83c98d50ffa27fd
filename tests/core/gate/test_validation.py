"""Rows for validation: a random part of the pool whose labels tell the gate nothing, and the stop that follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.core.gate import readings
from coevo_ray.core.gate.config import GateConfig, OfferConfig
from coevo_ray.core.gate.forecast import Forecast, Measured, potential
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.online import OnlineGate
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.growing import GrowingIndex
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.graph.unit_rows import unit_rows
from coevo_ray.errors import UsageError
from tests.core.gate.test_gate import CLASSES, crowd, guess

ROWS = 120


def make(rows: int = ROWS, graph: NeighbourGraph | None = None, **given_: Any) -> AnnotationGate:
    values: dict[str, Any] = {"classes": CLASSES, "round_size": 10, "relative_gain": 0.0, "tolerance": 0.0}
    config = GateConfig(**{**values, **given_})
    return AnnotationGate(config, crowd(rows, 0) if graph is None else graph, np.ones(rows, dtype=np.bool_))


def truth(rows: int = ROWS) -> Int64Array:
    labels: Int64Array = np.random.default_rng(7).integers(0, CLASSES, rows)
    return labels


def told_apart(gate: AnnotationGate, positions: Int64Array, other: bool) -> Int64Array:
    """Labels of rows; of those for validation other ones where wanted."""
    labels = truth(gate.rows)[positions]
    reserved = np.isin(positions, gate.inner.reserved)
    return np.where(reserved & other, (labels + 1) % CLASSES, labels)


@given(
    share=st.sampled_from([0.05, 0.1, 0.3, 0.5]),
    size=st.integers(1, 17),
    first=st.integers(2, 40),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_a_share_of_all_labels_is_for_validation_until_every_row_is_asked(
    share: float, size: int, first: int, seed: int
) -> None:
    gate = make(validation_share=share, round_size=size, seed=seed)
    reserved = gate.inner.reserved
    assert len(reserved) == round(share * ROWS) == len(set(reserved.tolist()))
    asked = gate.request_seed(first).positions
    while len(asked):
        before, left = gate.labelled_rows, gate.inner.reserved_left()
        own = np.isin(asked, reserved)
        others = ROWS - before - len(left) - int((~own).sum())
        wanted = round(share * (before + len(asked))) - int(gate.inner.validating.sum())
        assert own.sum() == min(max(wanted, 0), len(reserved)) or others == 0
        gate.submit(asked, truth()[asked])
        # Those for validation are the first ones of one order: a random sample at any time.
        done = np.isin(reserved, gate.inner.labelled)
        assert done[: done.sum()].all()
        assert np.array_equal(gate.is_validating(reserved), done)
        gate.update_predictions(guess(ROWS, gate.rounds))
        asked = gate.request().positions
    assert gate.labelled_rows == ROWS and gate.stopped_by == "exhausted"


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"draw": "top", "typical": 1.0},
        {"vote": "classes", "min_similarity": 0.0},
        {"vote": "distributions"},
        {"balance": 1.0, "distance_weight": 0.5},
        {"power": 2.0},
    ],
    ids=str,
)
def test_labels_for_validation_tell_the_gate_nothing(settings_: dict[str, Any]) -> None:
    """Two gates that are told other labels of these rows ask, believe and share alike."""
    random = np.random.default_rng(3)
    x = np.repeat(random.standard_normal((ROWS // 2, 6)), 2, axis=0) + 0.01 * random.standard_normal((ROWS, 6))
    graph = build_graph(unit_rows(x.astype(np.float32)), 8)
    gates = [make(graph=graph, validation_share=0.3, copy_similarity=0.9, copy_margin=0.1, **settings_) for _ in "ab"]
    for round_ in range(5):
        asked = [(gate.request_seed(20) if round_ == 0 else gate.request()).positions for gate in gates]
        assert np.array_equal(asked[0], asked[1])
        for gate, other in zip(gates, (False, True), strict=True):
            gate.submit(asked[0], told_apart(gate, asked[0], other))
            gate.update_predictions(guess(ROWS, round_))
    one, two = gates
    untold = one.is_validating(np.arange(ROWS))
    assert untold.sum() > 5
    assert np.array_equal(one.inner.beliefs.gain, two.inner.beliefs.gain)
    assert np.array_equal(one.inner.beliefs.best[~untold], two.inner.beliefs.best[~untold])
    assert not np.array_equal(one.inner.beliefs.best[untold], two.inner.beliefs.best[untold])
    assert np.array_equal(one.inner.beliefs.confidence, two.inner.beliefs.confidence)
    for a, b in zip(readings.copied_labels(one.inner), readings.copied_labels(two.inner), strict=True):
        assert np.array_equal(a, b)


def test_a_label_that_came_unasked_teaches_also_of_a_reserved_row() -> None:
    gate = make(validation_share=0.2)
    row = gate.inner.reserved[:1]
    gate.volunteer(row, np.array([1]))
    assert not gate.is_validating(row).any() and gate.inner.told.tolist() == row.tolist()
    asked = gate.request_seed(30).positions
    assert row[0] not in asked
    gate.submit(asked, truth()[asked])
    assert gate.is_validating(asked).sum() == 6


def test_labels_that_came_unasked_take_no_place_of_rounds() -> None:
    gate = make(validation_share=0.2)
    free = np.setdiff1d(np.arange(ROWS), gate.inner.reserved)[:60]
    gate.volunteer(free, truth()[free])
    for labels in (20, 30, 40):
        asked = (gate.request_seed(20) if labels == 20 else gate.request()).positions
        gate.submit(asked, truth()[asked])
        gate.update_predictions(guess(ROWS, labels))
        assert gate.inner.validating.sum() == round(0.2 * labels)


def test_labels_for_validation_tell_nothing_of_rows_that_arrive() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, 8)).astype(np.float16)
    unit = unit_rows(x.astype(np.float32))
    graph, found = build_graph(unit, 8), list[tuple[Any, Any]]()
    for other in (False, True):
        gate = make(graph=graph, validation_share=0.5)
        asked = gate.request_seed(60).positions
        gate.submit(asked, told_apart(gate, asked, other))
        gate.update_predictions(guess(ROWS, 0))
        own = gate.inner.reserved[gate.inner.validating]
        near = (x[own].astype(np.float32) + 0.2 * random.standard_normal((len(own), 8))).astype(np.float16)
        arrived = near if not found else found[0][0]
        online = OnlineGate(gate, GrowingIndex(unit, graph), None, OfferConfig())
        found.append((arrived, online.decide(arrived, guess(len(own), 1)).arrays()))
    assert len(found[0][0]) == 30
    for name, values in found[0][1].items():
        assert np.array_equal(values, found[1][1][name]), name


def learned(gate: AnnotationGate, rounds: int, first: int = 30, loss: float | None = None) -> AnnotationGate:
    for round_ in range(rounds):
        asked = (gate.request_seed(first) if round_ == 0 else gate.request()).positions
        gate.submit(asked, truth(gate.rows)[asked])
        gate.update_predictions(sharper(gate.rows, round_))
        if loss is not None:
            gate.note_loss(round_, loss)
    return gate


def sharper(rows: int, round_: int) -> Float32Array:
    """Predictions that know more labels from round to round."""
    probabilities = guess(rows, round_, 1.0)
    know = np.random.default_rng(1).random(rows) < 0.5 + 0.1 * round_
    probabilities[know] = np.float32(0.1 / (CLASSES - 1))
    probabilities[know, truth(rows)[know]] = np.float32(0.9)
    return probabilities


def test_the_forecast_follows_from_counts_of_the_rounds() -> None:
    gate = make(validation_share=0.2)
    plain: list[tuple[int, float]] = []
    said = []
    for round_ in range(4):
        asked = (gate.request_seed(30) if round_ == 0 else gate.request()).positions
        gate.submit(asked, truth()[asked])
        predicted = sharper(ROWS, round_)
        gate.update_predictions(predicted)
        told = gate.labelled_rows - int(gate.is_validating(np.arange(ROWS)).sum())
        free = [row for row in range(ROWS) if not gate.is_labelled(np.array([row]))[0]]
        gain = float(np.mean([gate.inner.beliefs.gain[row] for row in free]))
        plain.append((told, potential(told / (ROWS - 24), gain)))  # 24 rows are reserved
        said.append(predicted.argmax(axis=1))
    rows = [row for row in gate.inner.reserved if gate.is_labelled(np.array([row]))[0]]
    assert len(rows) == 12  # a fifth of 60 labels
    expected = Forecast.of(
        [
            Measured(n, left, np.array([each[row] == truth()[row] for row in rows]))
            for (n, left), each in zip(plain, said, strict=True)
        ],
        ROWS - 24,
    )
    found = gate.forecast
    assert found is not None and found.validation_rows == 12
    assert (found.labels, found.total) == (48, 96)
    assert tuple(found.gain(96)) == pytest.approx(tuple(expected.gain(96)), abs=1e-6)
    assert tuple(found.accuracy_at(70) or ()) == pytest.approx(tuple(expected.accuracy_at(70) or ()), abs=1e-6)


def test_a_restored_gate_foretells_and_asks_the_same() -> None:
    gate = learned(make(validation_share=0.2), 3)
    fields, arrays = gate.state()
    again = AnnotationGate.from_state(gate.config, crowd(ROWS, 0), fields, arrays)
    assert gate.forecast is not None and again.forecast is not None
    assert again.forecast.gain(again.forecast.total) == gate.forecast.gain(gate.forecast.total)
    assert np.array_equal(again.request().positions, gate.request().positions)
    assert np.array_equal(again.is_validating(np.arange(ROWS)), gate.is_validating(np.arange(ROWS)))


def test_a_state_of_version_0_1_0_keeps_no_rows_for_validation() -> None:
    gate = learned(make(validation_share=0.0), 3)
    fields, arrays = gate.state()
    for name in ("reserved", "untold", "said"):
        del arrays[name]
    del fields["learned"]
    again = AnnotationGate.from_state(replace(gate.config, validation_share=None), crowd(ROWS, 0), fields, arrays)
    assert again.forecast is None and len(again.inner.reserved) == 0
    assert np.array_equal(again.request().positions, gate.request().positions)


def test_a_corrected_label_corrects_what_was_measured() -> None:
    gate = learned(make(validation_share=0.2), 3)
    row = gate.inner.reserved[gate.inner.validating][:1]
    before = [each.right[0] for each in gate.inner.measured_rounds()]
    said = [gate.inner.said[round_][0] for round_ in sorted(gate.inner.said)]
    other = np.array([next(c for c in range(CLASSES) if c not in said)])
    gate.relabel(row, other)
    assert gate.is_validating(row).all()
    assert any(before) and not any(each.right[0] for each in gate.inner.measured_rounds())


def test_rows_set_aside_are_no_part_of_what_can_be_learned() -> None:
    gate = learned(make(validation_share=0.2), 2)
    asked = gate.request().positions
    own = np.isin(asked, gate.inner.reserved)
    keep = np.flatnonzero(~own)[:3]
    gate.submit(asked[keep], truth()[asked[keep]])
    assert gate.set_aside() == len(asked) - 3
    gate.update_predictions(sharper(ROWS, 2))
    assert gate.forecast is not None
    assert gate.forecast.total == ROWS - 24 - (len(asked) - int(own.sum()) - 3)
    following = gate.request().positions
    assert not np.isin(following, asked).any()


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.3])
def test_the_gate_stops_once_all_further_labels_would_add_too_little(tolerance: float) -> None:
    gate = learned(make(validation_share=0.2, tolerance=tolerance), 2)
    assert gate.forecast is not None
    left = gate.forecast.gain(gate.forecast.total).middle
    assert gate.stopped_by == ("tolerance" if left < tolerance else None)
    assert len(gate.draw().positions) == (0 if left < tolerance else 10)
    content = readings.forecast(gate.inner, curve=True)
    assert content is not None and content["gain"][1] == pytest.approx(left, abs=1e-6)
    assert content["curve"][0][0] == 40 and content["curve"][-1][0] == ROWS
    assert content["curve"][0][1:] == content["accuracy"] and content["curve"][-1][1:] == content["all_labels"]
    if tolerance == 0.3:
        assert content["tolerance_labels"] == 40  # enough already
    elif tolerance > 0:
        assert 40 < content["tolerance_labels"] <= ROWS


def test_the_gate_stops_once_a_round_costs_more_than_it_brings() -> None:
    gate = learned(make(validation_share=0.2), 2)
    assert gate.forecast is not None
    points = 100 * gate.forecast.gain(gate.forecast.labels + 8).middle  # of a round's ten labels two are for validation
    for factor, reason in ((0.99, "cost"), (1.01, None)):
        config = replace(gate.config, cost_per_label=2.0, worth_per_point=factor * 20 / points)
        again = AnnotationGate.from_state(config, crowd(ROWS, 0), *gate.state())
        assert again.stopped_by == reason


def test_with_validation_rows_the_loss_on_first_labels_stops_nothing() -> None:
    for share, reason in ((0.2, None), (0.0, "validation")):
        gate = make(validation_share=share, loss_tolerance=1.0, loss_rounds=1)
        assert learned(gate, 2, loss=1.0).stopped_by == reason


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="use every label"):
        GateConfig(classes=2, round_size=1, rule="compat", validation_share=0.1)
    alone: tuple[dict[str, Any], ...] = ({"cost_per_label": 1.0}, {"worth_per_point": 1.0})
    for one in alone:
        with pytest.raises(UsageError, match="give both"):
            make(**one)
    assert GateConfig(classes=2, round_size=1, rule="compat").validated_share == 0.0
    assert GateConfig(classes=2, round_size=1).validated_share == 0.1


def test_no_more_rows_are_kept_than_measure_well() -> None:
    graph = NeighbourGraph(np.full((60_000, 1), -1, np.int32), np.full((60_000, 1), -1, np.float32), "exact", 1.0)
    gate = make(60_000, graph)
    assert len(gate.inner.reserved) == 5000
    first = gate.request_seed(20_000).positions
    assert np.isin(first, gate.inner.reserved).sum() == 2000
