"""The gate against per-row loops of the published rule and of the greedy draw, and its life cycle."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.gate import readings
from coevo_ray.core.gate.config import GateConfig
from coevo_ray.core.gate.draw import (
    GainOrder,
    by_gain,
    by_typicality,
    draw_apart,
    draw_in_proportion,
    draw_random,
    row_noise,
)
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.groups import NeighbourGroups
from coevo_ray.core.gate.rules import (
    chance_corrected,
    effective_classes,
    fuse,
    fused_distribution,
    margin_gain,
    nearest_known,
    published_gain,
    votes_of,
)
from coevo_ray.core.gate.stop import loss_left
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.growing import GrowingIndex
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.core.graph.unit_rows import unit_rows
from coevo_ray.core.probes.label_agreement import Agreement
from coevo_ray.errors import InputError, UsageError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
CLASSES = 4
RULES = pytest.mark.parametrize("rule", ["margin", "compat"])


def crowd(rows: int = 80, seed: int = 0) -> NeighbourGraph:
    """Rows in clusters, so that similarities lie on both sides of 0.85 and 0.9."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((6, 10))
    x = centres[rng.integers(6, size=rows)] + rng.uniform(0.05, 0.5, (rows, 1)) * rng.standard_normal((rows, 10))
    return build_graph(x.astype(np.float32), k=16)


def guess(rows: int, seed: int, sharpness: float = 2.0) -> Floats:
    logits = sharpness * np.random.default_rng(seed).standard_normal((rows, CLASSES))
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    p: Floats = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    return p


def make(rule: Any = "margin", rows: int = 80, seed: int = 0, **settings_: Any) -> AnnotationGate:
    values: dict[str, Any] = {"classes": CLASSES, "round_size": 10, "rule": rule, "seed": seed, "relative_gain": 0.0}
    values["validation_share"] = 0.0  # validation has tests of its own: test_validation.py
    config = GateConfig(**{**values, **settings_})
    return AnnotationGate(config, crowd(rows, seed), np.ones(rows, dtype=np.bool_))


def truth(rows: Ints) -> Ints:
    return rows * 7 % CLASSES


def gains(gate: AnnotationGate) -> Floats:
    array: Floats = gate.state()[1]["gain"]
    return array


# -- the published rule, one row at a time --------------------------------------------------------------------------


class Published:
    """The published rule row by row over the same neighbours."""

    def __init__(self, graph: NeighbourGraph, probabilities: Floats, labels: dict[int, int]) -> None:
        self.graph, self.labels = graph, dict(labels)
        self.predicted = [int(p.argmax()) for p in probabilities]
        self.confidence = [(float(p.max()) - 1 / CLASSES) / (1 - 1 / CLASSES) for p in probabilities]
        for row, label in labels.items():
            self.predicted[row], self.confidence[row] = label, 1.0
        self.gain = [self.gain_of(row) for row in range(graph.rows)]

    def vote(self, row: int, k: int = 16, threshold: float = 0.85) -> tuple[int, float]:
        sums: dict[int, float] = {}
        for j, s in zip(self.graph.indices[row, :k], self.graph.similarities[row, :k], strict=True):
            if j >= 0 and s >= np.float32(threshold):
                sums[self.predicted[j]] = sums.get(self.predicted[j], 0.0) + self.confidence[j] * float(s)
        if not sums or sum(sums.values()) == 0:
            return 0, 0.0
        best = max(sorted(sums), key=lambda c: sums[c])
        return best, sums[best] / sum(sums.values())

    @staticmethod
    def fused(first: tuple[int, float], second: tuple[int, float]) -> float:
        hi, lo = max(first[1], second[1]), min(first[1], second[1])
        if lo <= 0.5:
            return hi
        if first[0] == second[0]:
            return hi * lo / (hi * lo + (1 - hi) * (1 - lo))
        if hi == lo == 1:
            return 0.5
        return hi * (1 - lo) / (hi * (1 - lo) + (1 - hi) * lo)

    def gain_of(self, row: int) -> float:
        if row in self.labels:
            return 0.0
        return 1 - self.fused(self.vote(row), (self.predicted[row], self.confidence[row]))

    def answer(self, answers: dict[int, int]) -> None:
        for row, label in answers.items():
            self.labels[row], self.predicted[row], self.confidence[row], self.gain[row] = label, label, 1.0, 0.0
        for row, label in answers.items():
            for j, s in zip(self.graph.indices[row, :8], self.graph.similarities[row, :8], strict=True):
                if j >= 0 and s > np.float32(0.9) and j not in self.labels:
                    new = self.gain_of(j)
                    self.gain[j] = new if self.predicted[j] == label else max(self.gain[j], new)


@pytest.mark.parametrize("seed", range(5))
def test_compat_is_the_published_loop_over_rounds(seed: int) -> None:
    gate, graph = make("compat", seed=seed), crowd(seed=seed)
    first = gate.request_seed(8).positions
    gate.submit(first, truth(first))
    changed = 0
    for round_ in range(3):
        probabilities = guess(80, 10 * seed + round_)
        gate.update_predictions(probabilities)
        rows, labels, _ = gate.labels()
        oracle = Published(graph, probabilities, dict(zip(rows.tolist(), labels.tolist(), strict=True)))
        np.testing.assert_allclose(gains(gate), oracle.gain, atol=1e-5)
        for _ in range(2):  # the second round lives on the rechecked gains
            request = gate.request().positions
            before = gains(gate)
            gate.submit(request, truth(request))
            oracle.answer(dict(zip(request.tolist(), truth(request).tolist(), strict=True)))
            np.testing.assert_allclose(gains(gate), oracle.gain, atol=1e-5)
            changed += int((np.delete(before, request) != np.delete(gains(gate), request)).sum())
    assert changed > 0


def test_recheck_by_hand() -> None:
    """Row 0 is answered with 0: row 1 agrees and falls, 2 disagrees and keeps the larger, 3 is not nearer than 0.9."""
    indices = np.array([[1, 2, 3], [0, 2, -1], [0, 4, -1], [0, 4, -1], [-1, -1, -1]], dtype=np.int32)
    near = [[0.95, 0.95, 0.9], [0.95, 0.9, -1], [0.95, 0.9, -1], [0.9, 0.92, -1], [-1, -1, -1]]
    graph = NeighbourGraph(indices, np.array(near, dtype=np.float32), "exact", 1.0)
    config = GateConfig(classes=2, round_size=4, rule="compat", relative_gain=0.0)
    gate = AnnotationGate(config, graph, np.arange(5) == 0)
    first = np.array([0.55, 0.9, 0.2, 0.2, 0.45])  # confidences 0.1, 0.8, 0.6, 0.6, 0.1
    gate.update_predictions(np.stack([first, 1 - first], axis=1).astype(np.float32))
    old_1 = 1 - Published.fused((1, 0.54 / 0.635), (0, 0.8))
    old_2 = 1 - Published.fused((0, 0.095 / 0.185), (1, 0.6))
    old_3 = 1 - Published.fused((1, 0.092 / 0.182), (1, 0.6))
    np.testing.assert_allclose(gains(gate)[1:4], [old_1, old_2, old_3], atol=1e-6)
    assert gate.request().positions.tolist() == [0]
    gate.submit(np.array([0]), np.array([0]))
    new_1 = 1 - Published.fused((0, 0.95 / 1.49), (0, 0.8))
    new_2 = 1 - Published.fused((0, 0.95 / 1.04), (1, 0.6))
    assert new_1 < old_1 and new_2 < old_2
    np.testing.assert_allclose(gains(gate)[:4], [0, new_1, old_2, old_3], atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "confidence", "best"),
    [
        ((0.9, 1), (0.5, 2), 0.9, 1),  # lo <= 0.5 says nothing
        ((0.3, 1), (0.4, 2), 0.4, 2),
        ((0.9, 1), (0.8, 1), 0.72 / 0.74, 1),
        ((0.8, 2), (0.9, 1), 0.18 / 0.26, 1),
        ((0.7, 2), (0.7, 1), 0.5, 2),
        ((1.0, 1), (1.0, 2), 0.5, 1),
        ((1.0, 1), (1.0, 1), 1.0, 1),
        ((1.0, 1), (0.6, 2), 1.0, 1),
    ],
)
def test_fusion_by_hand(a: tuple[float, int], b: tuple[float, int], confidence: float, best: int) -> None:
    fused = fuse(np.array([a[0]]), np.array([a[1]]), np.array([b[0]]), np.array([b[1]]))
    assert fused[0][0] == pytest.approx(confidence)
    assert fused[1].tolist() == [best]


def test_chance_correction_by_hand() -> None:
    np.testing.assert_allclose(chance_corrected(np.array([0.25, 1.0, 0.625, 0.2499]), 4), [0, 1, 0.5, 0])


# -- the margin rule ------------------------------------------------------------------------------------------------


def test_margin_is_the_loop() -> None:
    graph, p = crowd(), guess(80, 3)
    confidence, predicted = chance_corrected(p.max(axis=1), CLASSES), p.argmax(axis=1)
    vote = votes_of(
        graph.indices,
        graph.similarities,
        confidence[graph.indices],
        predicted[graph.indices],
        CLASSES,
        min_similarity=0.85,
    )
    found = margin_gain(fused_distribution(p, vote, 16))
    lonely = 0
    for i in range(80):
        sums = [0.0] * CLASSES
        for j, s in zip(graph.indices[i], graph.similarities[i], strict=True):
            if s >= np.float32(0.85):
                sums[predicted[j]] += confidence[j] * float(s)
        mass = sum(sums)
        lonely += mass == 0
        w = mass / 16
        fused = [(float(p[i, c]) + (w * sums[c] / mass if mass else 0)) / (1 + w) for c in range(CLASSES)]
        second, first = sorted(fused)[-2:]
        assert found[i] == pytest.approx(1 - (first - second), abs=1e-9)
        if mass == 0:
            top = np.sort(p[i])
            assert found[i] == pytest.approx(1 - (top[-1] - top[-2]), abs=1e-6)  # the model's own distribution
    assert 0 < lonely < 80


@pytest.mark.parametrize("labelled", [0, 25])
@pytest.mark.parametrize("vote", ["none", "distributions"])
def test_beliefs_are_the_loop_over_whole_distributions(labelled: int, vote: Any) -> None:
    """Half the model's distribution, half the mean of its neighbours', weighted by similarity ** 4."""
    gate, p = make(min_similarity=0.99, vote=vote, copies=False), guess(80, 3)
    graph = crowd()
    if labelled:
        asked = gate.request_seed(labelled).positions
        gate.submit(asked, truth(asked))
    gate.update_predictions(p)
    labels = dict(zip(*(a.tolist() for a in gate.labels()[:2]), strict=True))
    predicted, sure = gate.predictions(np.arange(80))
    for i in range(80):
        if i in labels:
            assert gains(gate)[i] == 0 and (predicted[i], sure[i]) == (labels[i], 1.0)
            continue
        sums, mass = [0.0] * CLASSES, 0.0
        for j, s in zip(graph.indices[i], graph.similarities[i], strict=True):
            weight = max(0.0, float(s)) ** 4
            mass += weight
            for c in range(CLASSES):
                sums[c] += weight * (float(c == labels[j]) if j in labels else float(p[j, c]))
        fused = [0.5 * float(p[i, c]) + 0.5 * sums[c] / mass for c in range(CLASSES)]
        second, first = sorted(fused if vote == "distributions" else p[i].tolist())[-2:]
        assert gains(gate)[i] == pytest.approx(1 - (first - second), abs=1e-6)
        assert predicted[i] == fused.index(max(fused)) and sure[i] == pytest.approx(max(fused), abs=1e-6)


def test_without_similar_neighbours_the_model_speaks_alone() -> None:
    alone = NeighbourGraph(np.full((4, 2), -1, np.int32), np.full((4, 2), -1.0, np.float32), "exact", 1.0)
    gate = AnnotationGate(GateConfig(classes=2, round_size=1, validation_share=0.0), alone, np.ones(4, bool))
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [1.0, 0.0]], np.float32)
    gate.update_predictions(p)
    assert gains(gate) == pytest.approx([0.2, 1.0, 0.4, 0.0], abs=1e-6)
    assert gate.predictions(np.arange(4))[1] == pytest.approx(p.max(axis=1), abs=1e-6)


def test_pseudo_labels_are_sure_unlabelled_candidates() -> None:
    for rule in ("margin", "compat"):
        gate = make(rule, copies=False)
        with pytest.raises(InputError, match="before there are predictions"):
            readings.pseudo_labels(gate.inner, 0.9)
        asked = gate.request_seed(10).positions
        gate.submit(asked, truth(asked))
        gate.update_predictions(guess(80, 4, 4.0))
        rows, labels, probability, _ = readings.pseudo_labels(gate.inner, 0.6)
        assert 0 < len(rows) < 70 and (probability >= 0.6).all() and not set(rows) & set(asked)
        everything = readings.pseudo_labels(gate.inner, 0.0)
        assert len(everything[0]) == 70
        assert np.array_equal(rows, everything[0][everything[2] >= 0.6])
        if rule == "margin":
            best, sure = gate.predictions(rows)
            assert np.array_equal(best, labels) and sure == pytest.approx(probability, abs=1e-6)
    with pytest.raises(InputError, match="0 to 1"):
        readings.pseudo_labels(gate.inner, 1.5)


def test_distance_to_what_is_known_by_hand() -> None:
    indices = np.array([[1, 2], [0, 2], [1, 0], [-1, -1]], np.int32)
    similarities = np.array([[0.9, 0.4], [0.9, 0.6], [0.6, 0.4], [-1, -1]], np.float32)
    known = np.array([False, False, True, False])
    assert nearest_known(indices, similarities, known) == pytest.approx([0.6, 0.4, 0.6, 1.0])
    assert nearest_known(indices, similarities, np.zeros(4, bool)) == pytest.approx([0.6, 0.4, 0.6, 1.0])
    plain, far = make(copies=False), make(distance_weight=0.5, copies=False)
    for gate in (plain, far):
        asked = gate.request_seed(10).positions
        gate.submit(asked, truth(asked))
        gate.update_predictions(guess(80, 4))
    sure = np.isin(np.arange(80), asked) | (plain.state()[1]["confidence"] >= 0.9)
    expected = gains(plain) + 0.5 * nearest_known(*crowd().near(np.arange(80)), sure)
    expected[asked] = 0
    assert gains(far) == pytest.approx(expected, abs=1e-6)


def test_a_copy_of_a_labelled_row_is_worth_no_label_and_has_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 32))
    x[50:] = x[:10] + 0.01 * rng.standard_normal((10, 32))  # row 50 + i is a near-duplicate of row i
    graph, p = build_graph(x.astype(np.float32), k=8), guess(60, 1)
    copying, plain = (
        AnnotationGate(
            GateConfig(classes=CLASSES, round_size=60, copies=on, validation_share=0.0), graph, np.ones(60, bool)
        )
        for on in (True, False)
    )
    for gate in (copying, plain):
        gate.volunteer(np.arange(5), np.arange(5) % CLASSES)
        gate.update_predictions(p)
    copies = np.arange(50, 55)
    others = np.setdiff1d(np.arange(60), copies)
    assert (gains(copying)[copies] == 0).all() and (gains(plain)[copies] > 0).all()
    assert np.array_equal(gains(copying)[others], gains(plain)[others])
    assert set(copying.draw().positions.tolist()) == set(range(5, 50)) | set(range(55, 60))
    rows, labels = readings.copied_labels(copying.inner)
    assert rows.tolist() == copies.tolist() and labels.tolist() == (np.arange(5) % CLASSES).tolist()
    assert len(readings.copied_labels(plain.inner)[0]) == 0
    found = readings.pseudo_labels(copying.inner, 0.0)
    sure = dict(zip(found.positions.tolist(), found.labels.tolist(), strict=True))
    assert {row: sure[row] for row in copies.tolist()} == {50 + i: i % CLASSES for i in range(5)}
    assert found.positions[found.shared].tolist() == copies.tolist()
    copying.relabel(np.array([0]), np.array([3]))
    assert readings.copied_labels(copying.inner)[1][0] == 3


def test_balance_raises_the_gain_of_scarce_classes() -> None:
    plain, balanced = make(), make(balance=1.0)
    for gate in (plain, balanced):
        asked = gate.request_seed(20).positions
        gate.submit(asked, np.where(np.arange(20) < 15, 0, 1))
        gate.update_predictions(guess(80, 4))
    predicted = plain.predictions(np.arange(80))[0]
    factor = np.array([5 / 15, 5 / 5, 5 / 1, 5 / 1])[predicted]  # classes without a label count as one
    assert gains(balanced) == pytest.approx(gains(plain) * factor, rel=1e-5)


def test_a_power_draws_in_proportion_and_anneals() -> None:
    gate = make(power=2.0, last_power=10.0, round_size=5)
    gate.update_predictions(guess(80, 4))
    expected = draw_in_proportion(np.arange(80), gains(gate) ** 2, 5, row_noise(80, 0, 0))
    first = gate.request().positions
    assert np.array_equal(first, expected)
    gate.submit(first, truth(first))
    rest = np.setdiff1d(np.arange(80), first)
    expected = draw_in_proportion(rest, gains(gate) ** np.float32(2.0 + 8.0 * 5 / 80), 5, row_noise(80, 0, 1))
    assert np.array_equal(gate.request().positions, expected)


def test_labels_unasked_and_corrected() -> None:
    gate = make()
    asked = gate.request_seed(6).positions
    free = np.setdiff1d(np.arange(80), asked)[:3]
    assert gate.volunteer(free, np.array([0, 1, 2])) == 3
    assert gate.volunteer(free, np.array([0, 1, 2])) == 0
    with pytest.raises(InputError, match="were not requested"):
        gate.volunteer(asked[:1], np.array([0]))  # it is open: that is an answer
    gate.submit(asked, truth(asked))
    assert gate.labels()[2].tolist() == [-1] * 3 + [0] * 6 and gate.rounds == 1
    assert gate.rounds_of(np.concatenate([free[:1], asked[:1]])).tolist() == [-1, 0]
    gate.relabel(free[:1], np.array([3]))
    assert gate.labels()[1][0] == 3 and gate.labelled_rows == 9
    for rows, labels, message in ((np.array([79]), [0], "no label to replace"), (free[:1], [9], "outside")):
        with pytest.raises(InputError, match=message):
            gate.relabel(
                np.setdiff1d(np.arange(80), gate.labels()[0])[:1] if message[0] == "n" else rows, np.array(labels)
            )


@RULES
@given(seed=st.integers(0, 500))
@settings(max_examples=20, deadline=None)
def test_gains_move_with_the_rows(rule: Any, seed: int) -> None:
    rows = 40
    graph, p = crowd(rows, seed), guess(rows, seed)
    order = np.random.default_rng(seed).permutation(rows)
    place = np.argsort(order).astype(np.int32)
    permuted = NeighbourGraph(place[graph.indices[order]], graph.similarities[order], "exact", 1.0)
    config = GateConfig(classes=CLASSES, round_size=5, rule=rule, validation_share=0.0)
    found = []
    for g, q in ((graph, p), (permuted, p[order])):
        gate = AnnotationGate(config, g, np.ones(rows, dtype=np.bool_))
        gate.update_predictions(q)
        found.append(gains(gate))
    np.testing.assert_allclose(found[1], found[0][order], atol=1e-6)


@RULES
def test_blocks_do_not_change_gains(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = make(rule), make(rule)
    whole.update_predictions(guess(80, 1))
    monkeypatch.setattr("coevo_ray.core.rows.chunks._WORKED_ON", 7 * CLASSES)
    parts.update_predictions(guess(80, 1))
    np.testing.assert_array_equal(gains(whole), gains(parts))


# -- draws ----------------------------------------------------------------------------------------------------------


def test_draw_in_proportion_matches_the_probabilities() -> None:
    """Against the exact probabilities of two draws without replacement, over 20 000 rounds."""
    gain, rows = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.9], dtype=np.float32), np.arange(5)  # row 5 may not be drawn
    p = gain[:5].astype(np.float64) / gain[:5].sum()
    expected = np.array([[0 if i == j else p[i] * p[j] / (1 - p[i]) for j in range(5)] for i in range(5)])
    counts = np.zeros((5, 5))
    for round_ in range(20_000):
        i, j = draw_in_proportion(rows, gain, 2, row_noise(6, 1, round_))
        counts[i, j] += 1
    spread = np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(counts / 20_000 - expected) <= 4.5 * spread).all()


def test_rows_without_gain_come_last() -> None:
    gain = np.array([0.0, 0.5, 0.0, 0.1], dtype=np.float32)
    for round_ in range(20):
        drawn = draw_in_proportion(np.arange(4), gain, 4, row_noise(4, 0, round_))
        assert set(drawn[:2].tolist()) == {1, 3} and set(drawn.tolist()) == {0, 1, 2, 3}


def greedy(rows: Ints, gain: Floats, count: int, noise: Any, graph: NeighbourGraph, taken: set[int]) -> list[int]:
    """One row at a time, best first."""
    order = sorted(rows.tolist(), key=lambda r: (-gain[r], noise[r]))
    picks: list[int] = []
    for row in order:
        near = {int(j) for j, s in zip(graph.indices[row, :8], graph.similarities[row, :8], strict=True) if s > 0.9}
        if len(picks) < count and not near & (set(picks) | taken):
            picks.append(row)
    return picks + [row for row in order if row not in picks][: count - len(picks)]


@given(seed=st.integers(0, 1000), count=st.integers(1, 45), levels=st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_diverse_draw_is_the_greedy_loop(seed: int, count: int, levels: int) -> None:
    graph, rng = crowd(60, seed % 7), np.random.default_rng(seed)
    gain = (rng.integers(levels, size=60) / levels).astype(np.float32)
    rows, taken = np.sort(rng.permutation(60)[:45]), rng.permutation(60)[: seed % 4]
    rows = np.setdiff1d(rows, taken)
    count, noise = min(count, len(rows)), row_noise(60, seed, 1)
    expected = greedy(rows, gain, count, noise, graph, set(taken.tolist()))
    for order in (by_gain(rows, gain, noise), GainOrder(rows, gain, noise)):
        assert draw_apart(order, count, graph, taken=taken).tolist() == expected


@given(seed=st.integers(0, 10_000), n=st.integers(0, 40), count=st.integers(0, 45), levels=st.integers(1, 30))
def test_beginnings_of_an_order_are_those_of_the_sorted_rows(seed: int, n: int, count: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    gain = (random.integers(levels, size=60) / levels).astype(np.float32)
    rows, noise = np.sort(random.permutation(60)[:n]), random.integers(1, levels + 1, 60) / levels  # ties in both
    order = GainOrder(rows, gain, noise)
    assert len(order) == n
    assert order[:count].tolist() == by_gain(rows, gain, noise)[:count].tolist()
    assert order[:count].tolist() == sorted(rows.tolist(), key=lambda row: (-gain[row], noise[row], row))[:count]
    drawn = draw_random(rows, min(count, n), noise)
    assert drawn.tolist() == sorted(rows.tolist(), key=lambda row: (noise[row], row))[:count]


def test_a_long_chain_of_better_neighbours_is_followed() -> None:
    """Row i + 1 is near the better row i: every other one is picked."""
    rows = 40
    indices = np.arange(-1, rows - 1, dtype=np.int32)[:, None]
    graph = NeighbourGraph(indices, np.full((rows, 1), 0.95, dtype=np.float32), "exact", 1.0)
    gain = np.linspace(1, 0.1, rows, dtype=np.float32)
    found = draw_apart(by_gain(np.arange(rows), gain, row_noise(rows, 0, 0)), 20, graph)
    assert found.tolist() == list(range(0, rows, 2))


def test_rows_of_a_round_are_apart_from_the_eight_nearest() -> None:
    """Row 0 is the eighth neighbour of row 1 and the ninth of row 2; the others have none."""
    indices = np.full((20, 9), -1, dtype=np.int32)
    indices[1, :8], indices[2] = [*range(10, 17), 0], [*range(10, 18), 0]
    graph = NeighbourGraph(indices, np.where(indices >= 0, 0.8, -1.0).astype(np.float32), "exact", 1.0)
    config = GateConfig(classes=2, round_size=2, draw="top", typical=0.0, copies=False, relative_gain=0.0)
    gate = AnnotationGate(config, graph, np.ones(20, dtype=np.bool_))
    first = np.linspace(0.5, 0.9, 20)
    gate.update_predictions(np.stack([first, 1 - first], axis=1).astype(np.float32))
    assert gate.draw().positions.tolist() == [0, 2]
    wide = AnnotationGate(replace(config, apart=0.8), graph, np.ones(20, dtype=np.bool_))
    wide.update_predictions(np.stack([first, 1 - first], axis=1).astype(np.float32))
    assert wide.draw().positions.tolist() == [0, 1], "as similar as the limit is no nearer than it"


def test_a_crowd_at_the_top_is_followed_to_its_end() -> None:
    """Of the first 20 rows only one is far from the others: the other picks come from below them, and none fills up."""
    rows = 24
    indices = np.zeros((rows, 2), dtype=np.int32)
    indices[0], indices[20:] = [1, 2], -1
    graph = NeighbourGraph(indices, np.where(indices >= 0, 0.95, -1.0).astype(np.float32), "exact", 1.0)
    assert draw_apart(np.arange(rows), 2, graph).tolist() == [0, 20]
    assert draw_apart(np.arange(rows), 4, graph).tolist() == [0, 20, 21, 22]
    assert draw_apart(np.arange(rows), 7, graph).tolist() == [0, 20, 21, 22, 23, 1, 2]


def test_margin_keeps_away_from_answers_that_predictions_have_not_seen() -> None:
    gate, graph = make(draw="top", round_size=6, apart=0.9, typical=0.0), crowd()
    p = guess(80, 5)
    gate.update_predictions(p)
    first = gate.request().positions
    gate.submit(first, truth(first))
    stale = gate.request().positions
    own = set(
        greedy(np.setdiff1d(np.arange(80), first), gains(gate), 6, row_noise(80, 0, 1), graph, set(first.tolist()))
    )
    assert set(stale.tolist()) == own
    fresh = make(draw="top", round_size=6, apart=0.9, typical=0.0)
    fresh.update_predictions(p)
    fresh.submit(fresh.request().positions, truth(first))
    fresh.update_predictions(p)
    free = greedy(np.setdiff1d(np.arange(80), first), gains(fresh), 6, row_noise(80, 0, 1), graph, set())
    assert fresh.request().positions.tolist() == free


def typical_first(
    order: list[int], count: int, group: list[int], labelled: set[int], typicality: Floats, share: float
) -> list[int]:
    """The same order from repeated looks at all groups: those with the fewest labels, of these the largest."""
    left = order[: max(3 * count, round(share * len(order)))]
    known = {g: sum(group[row] == g for row in labelled) for g in set(group)}
    chosen = []
    while left:
        g = min(
            {group[row] for row in left}, key=lambda g: (known[g], -group.count(g), own(g, left, group, typicality))
        )
        row = own(g, left, group, typicality)
        chosen.append(row)
        left = [other for other in left if other != row]
        known[g] += 1
    return chosen


def own(g: int, left: list[int], group: list[int], typicality: Floats) -> int:
    return min((row for row in left if group[row] == g), key=lambda row: (-typicality[row], row))


@given(seed=st.integers(0, 1000), count=st.integers(1, 20), groups=st.integers(1, 20), share=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_typical_rows_are_those_of_the_loop(seed: int, count: int, groups: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    group, typicality = rng.integers(groups, size=60), (rng.integers(9, size=60) / 9).astype(np.float32)
    labelled = rng.random(60) < 0.3
    order = rng.permutation(np.flatnonzero(~labelled))
    found = by_typicality(order, count, group, labelled, typicality, share=share)
    known = set(np.flatnonzero(labelled).tolist())
    assert found.tolist() == typical_first(order.tolist(), count, group.tolist(), known, typicality, share)


def test_the_gate_begins_with_typical_rows_and_goes_on_from_the_top() -> None:
    config: dict[str, Any] = {"draw": "top", "round_size": 5, "typical": 0.1, "copies": False, "apart": 1.0}
    gate, graph = make(**config), crowd()
    gate.submit(gate.request_seed(7).positions, truth(gate.open_positions))
    gate.update_predictions(guess(80, 3))
    first = gate.request().positions
    labelled = gate.labels()[0]
    free = np.setdiff1d(np.arange(80), labelled)
    order = by_gain(free, gains(gate), row_noise(80, 0, 1)).tolist()
    group = NeighbourGroups.of(graph).about(7 + 5).tolist()
    expected = typical_first(order, 5, group, set(labelled.tolist()), graph.similarities.mean(axis=1), 0.25)
    assert first.tolist() == expected[:5] and first.tolist() != order[:5]
    gate.submit(first, truth(first))
    gate.update_predictions(guess(80, 4))  # 12 of 80 labels: beyond a tenth
    order = by_gain(np.setdiff1d(free, first), gains(gate), row_noise(80, 0, 2)).tolist()
    assert gate.request().positions.tolist() == order[:5]


@pytest.mark.parametrize(("labels", "typical"), [([0, 1, 2, 3] * 5, True), ([0] * 14 + [1, 2, 3] * 2, False)])
def test_where_classes_are_skewed_rows_come_from_the_top(labels: list[int], typical: bool) -> None:
    drawn = []
    for share in (0.9, 0.0):
        gate = make(draw="top", round_size=5, typical=share, copies=False, apart=1.0)
        gate.submit(gate.request_seed(20).positions, np.array(labels))
        gate.update_predictions(guess(80, 3))
        drawn.append(gate.request().positions.tolist())
    assert (drawn[0] != drawn[1]) == typical


def test_effective_classes_by_hand() -> None:
    assert effective_classes(np.array([2, 2])) == pytest.approx(4 * 3 / 4)  # of 12 ordered pairs 4 are alike
    assert effective_classes(np.array([5, 0, 0])) == 1
    assert effective_classes(np.array([1, 1, 1])) == effective_classes(np.zeros(3, dtype=np.int64)) == np.inf
    rng = np.random.default_rng(0)
    chances = [1 / effective_classes(rng.multinomial(8, [0.25] * 4)) for _ in range(2000)]
    assert np.mean(chances) == pytest.approx(0.25, abs=0.01)


def test_groups_stay_as_they_were_when_rows_arrive() -> None:
    """A gate that is restored over its first graph draws what one draws that has known all rows as they came."""
    rng = np.random.default_rng(3)
    x = unit_rows(rng.standard_normal((60, 6)).astype(np.float32))
    graph = build_graph(x, 8)
    config = GateConfig(
        classes=CLASSES,
        round_size=6,
        relative_gain=0.0,
        draw="top",
        typical=1.0,
        copies=False,
        validation_share=0.0,
    )
    drawn = []
    for early in (True, False):
        gate = AnnotationGate(config, graph, np.ones(60, dtype=np.bool_))
        gate.submit(gate.request_seed(6).positions, truth(gate.open_positions))
        gate.update_predictions(guess(60, 1))
        if early:
            gate.draw()  # looks at the groups before others arrive
        index = GrowingIndex(x, graph)
        gate.use_graph(index)
        arrived = unit_rows(np.random.default_rng(4).standard_normal((30, 6)).astype(np.float32))
        index.append(arrived, *index.search(arrived))
        gate.inner.grow(np.zeros(30, dtype=np.int64), np.full(30, 0.2, np.float32), np.full(30, 0.9, np.float32))
        drawn.append(gate.draw().positions.tolist())
    assert drawn[0] == drawn[1] and max(drawn[0]) >= 60


# -- life cycle -----------------------------------------------------------------------------------------------------


def advance(gate: AnnotationGate, step: int) -> list[list[int]]:
    """A whole run in small steps, from wherever it stands; every list of requests on the way."""
    seen = []
    while len(request := (gate.request_seed(7) if gate.labelled_rows == 0 else gate.request()).positions):
        seen.append(request.tolist())
        part = request[:step]
        gate.submit(part, truth(part))
        if not gate.outstanding:
            gate.update_predictions(guess(80, gate.rounds))
            gate.note_loss(gate.rounds - 1, 1.5)
    return seen


@RULES
@given(after=st.integers(0, 25))
@settings(max_examples=20, deadline=None)
def test_restored_at_any_point_it_goes_on_the_same(rule: Any, after: int) -> None:
    gate = make(rule, max_labels=50)
    for i in range(after):  # ask, answer a part, answer the rest, predict
        request = gate.request_seed(7) if gate.rounds == 0 else gate.request()
        if i % 3 == 0:
            gate.submit(request.positions[:3], truth(request.positions[:3]))
        elif i % 3 == 1:
            gate.submit(request.positions, truth(request.positions))
            if gate.rounds == 1 or rule == "margin":
                gate.update_predictions(guess(80, gate.rounds))
        elif gate.rounds:
            gate.note_loss(gate.rounds - 1, 0.1 * (i % 7))
    fields, arrays = gate.state()
    fields = json.loads(json.dumps(fields))
    again = AnnotationGate.from_state(gate.config, crowd(), fields, arrays)
    third = make(rule, max_labels=50)
    third.restore(fields, arrays)
    for other in (again, third):
        assert (other.rounds, other.labelled_rows, other.outstanding) == (
            gate.rounds, gate.labelled_rows, gate.outstanding,
        )  # fmt: skip
        assert (other.mean_gain, other.stopped_by) == (gate.mean_gain, gate.stopped_by)
    rest = advance(gate, 4)
    assert advance(again, 4) == rest and advance(third, 4) == rest
    for mine, theirs in zip(gate.labels(), again.labels(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@RULES
def test_rows_that_nobody_can_label_are_set_aside(rule: Any) -> None:
    gate = make(rule, rows=40)
    assert gate.set_aside() == 0  # nothing is open
    asked = gate.request_seed(10).positions
    with pytest.raises(InputError, match="none of the 10 rows of round 0 has a label"):
        gate.set_aside()
    gate.submit(asked[:7], truth(asked[:7]))
    assert gate.set_aside() == 3 and gate.rounds == 1 and gate.outstanding == 0 and gate.aside_rows == 3
    late = asked[7:8]
    seen = set(asked.tolist())
    while len(rows := advance_one(gate)):
        assert not seen & set(rows.tolist())
        seen |= set(rows.tolist())
        if gate.rounds == 2:  # somebody knows one of them after all
            assert gate.volunteer(late, truth(late)) == 1 and gate.aside_rows == 2
        fields, arrays = gate.state()
        gate = AnnotationGate.from_state(gate.config, crowd(40), json.loads(json.dumps(fields)), arrays)
    assert (gate.stopped_by, gate.labelled_rows, gate.aside_rows) == ("exhausted", 38, 2)
    before = {name: array for name, array in gate.state()[1].items() if name != "aside"}
    assert AnnotationGate.from_state(gate.config, crowd(40), gate.state()[0], before).aside_rows == 0


def advance_one(gate: AnnotationGate) -> Ints:
    """A round: predictions, requests, and an answer to each."""
    gate.update_predictions(guess(gate.rows, gate.rounds))
    rows = gate.request().positions
    gate.submit(rows, truth(rows))
    return rows


@RULES
def test_parts_and_order_of_answers_do_not_matter(rule: Any) -> None:
    finals = []
    for variant in range(3):
        gate = make(rule)
        gate.update_predictions(guess(80, 1))
        rows = np.random.default_rng(variant).permutation(gate.request().positions)
        for part in np.array_split(rows, variant + 1):
            gate.submit(part, truth(part))
        finals.append((gains(gate), gate.request().positions))
    for gain, rows in finals[1:]:
        np.testing.assert_array_equal(gain, finals[0][0])
        np.testing.assert_array_equal(rows, finals[0][1])


@RULES
def test_requests_repeat_until_answered_and_never_name_a_labelled_row(rule: Any) -> None:
    gate, labelled = make(rule), set[int]()
    rounds = []
    while gate.stopped_by is None:
        first = gate.request_seed(7) if gate.rounds == 0 else gate.request()
        assert first.round == gate.rounds
        assert not labelled & set(first.positions.tolist())
        again = gate.request()
        np.testing.assert_array_equal(first.positions, again.positions)
        np.testing.assert_array_equal(first.gains, again.gains)
        half = first.positions[::2]
        assert gate.submit(half, truth(half)) == len(half)
        assert gate.submit(half, truth(half)) == 0
        if len(first.positions) > 1:  # else the round is closed
            np.testing.assert_array_equal(gate.request().positions, first.positions[1::2])
        assert gate.submit(first.positions, truth(first.positions)) == len(first.positions) - len(half)
        labelled |= set(first.positions.tolist())
        rounds += [first.round] * len(first.positions)
        gate.update_predictions(guess(80, gate.rounds))
    assert gate.stopped_by == "exhausted" and len(labelled) == 80
    assert len(gate.request().positions) == 0 and gate.mean_gain == 0
    rows, labels, of_round = gate.labels()
    np.testing.assert_array_equal(labels, truth(rows))
    assert sorted(of_round.tolist()) == sorted(rounds)
    assert gate.submit(rows, labels) == 0


def test_only_candidates_are_asked_about() -> None:
    candidates = np.arange(80) % 2 == 0
    gate = AnnotationGate(make(copies=False).config, crowd(), candidates)
    asked = [row for request in advance(gate, 99) for row in request]
    assert sorted(asked) == np.flatnonzero(candidates).tolist()


def test_seed_rows_are_random_and_repeat() -> None:
    a, b = (make().request_seed(20).positions for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert len(set(a.tolist())) == 20
    counts, graph, config = np.zeros(80), crowd(), make().config
    for seed in range(400):
        gate = AnnotationGate(replace(config, seed=seed), graph, np.ones(80, dtype=np.bool_))
        counts[gate.request_seed(20).positions] += 1
    assert (np.abs(counts / 400 - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / 400)).all()


def test_seed_rows_that_are_drawn_again_are_the_open_ones() -> None:
    gate = make()
    asked = gate.request_seed(6).positions
    gate.submit(asked[:2], truth(asked[:2]))
    for again in (gate.draw_seed(3), gate.request_seed(3), gate.draw()):
        assert again.round == 0 and again.positions.tolist() == asked[2:].tolist()
    stopped = make(max_labels=2)
    stopped.volunteer(np.array([0, 1]), np.array([0, 1]))
    assert stopped.stopped_by == "max_labels" and len(stopped.draw_seed(3).positions) == 0


# -- stop -----------------------------------------------------------------------------------------------------------


def sure(share: float) -> Floats:
    """Predictions whose margin gain is `1 - share` for rows without neighbours."""
    p = np.zeros((80, CLASSES), dtype=np.float32)
    p[:, 0], p[:, 1] = (1 + share) / 2, (1 - share) / 2
    return p


def lonely(**settings_: Any) -> AnnotationGate:
    graph = NeighbourGraph(np.full((80, 1), -1, np.int32), np.full((80, 1), -1, np.float32), "exact", 1.0)
    config = GateConfig(**{"classes": CLASSES, "round_size": 5, "validation_share": 0.0, **settings_})
    return AnnotationGate(config, graph, np.ones(80, dtype=np.bool_))


def play(gate: AnnotationGate, share: float, loss: float | None = None) -> str | None:
    """One round, then new predictions and a measured loss."""
    rows = gate.request().positions
    gate.submit(rows, truth(rows))
    gate.update_predictions(sure(share))
    if loss is not None:
        gate.note_loss(gate.rounds - 1, loss)
    return gate.stopped_by


def test_gain_stops_relative_to_the_first_round() -> None:
    gate = lonely(relative_gain=0.3)
    assert gate.mean_gain is None and gate.stopped_by is None
    gate.update_predictions(sure(0.2))
    assert gate.mean_gain == pytest.approx(0.8)
    assert play(gate, 0.7) is None  # 0.3 / 0.8
    assert play(gate, 0.75) is None
    assert play(gate, 0.77) == "gain"
    assert len(gate.request().positions) == 0
    gate.update_predictions(sure(0.5))  # new data may make a gate go on
    assert gate.stopped_by is None


def test_no_gain_at_all_stops() -> None:
    gate = lonely(relative_gain=0.3)
    gate.update_predictions(sure(1.0))
    assert play(gate, 1.0) == "gain"


def test_validation_stops_once_all_further_labels_are_worth_little() -> None:
    gate = lonely(relative_gain=0.0, loss_tolerance=0.1, loss_rounds=2)
    gate.update_predictions(sure(0.0))
    assert [play(gate, 0.4, loss) for loss in (2.0, 1.0, 0.9)] == [None] * 3
    # 5, 10, 15, 20 of 80 labels, and so on: the steep steps count until there are three times as many labels.
    assert [play(gate, 0.4, 0.88) for _ in range(3)] == [None] * 3
    assert play(gate, 0.4, 0.88) == "validation"
    gate.note_loss(gate.rounds - 1, 0.6)  # measured again, and better
    assert gate.stopped_by is None


def test_the_loss_that_is_left_by_hand() -> None:
    # 1 nat off for each e-fold of labels, and there are e times as many candidates.
    curve = [(100, 3.0), (271.8281828, 2.0), (738.9056099, 1.0)]
    assert loss_left(curve, round(100 * np.e**3), 2) == pytest.approx(1.0, abs=1e-3)
    assert loss_left(curve, round(100 * np.e**3), 3) is None  # three steps need four points
    assert loss_left([(50, 9.0), *curve], round(100 * np.e**3), 2) == pytest.approx(1.0, abs=1e-3)
    assert loss_left([(10, 1.0), (10, 2.0)], 100, 1) is None
    rising = loss_left([(10, 1.0), (20, 1.1)], 100, 1)
    assert rising is not None and rising < 0
    x, y = np.log([10, 15, 20, 25, 30]), [2.0, 1.4, 1.2, 1.25, 1.1]
    slope = np.polyfit(x, y, 1)[0]
    measured = list(zip([10, 15, 20, 25, 30], y, strict=True))
    assert loss_left(measured, 90, 4) == pytest.approx(-slope * np.log(3))
    assert loss_left(measured, 90, 1) == pytest.approx(-slope * np.log(3))  # 10 is a third of 30
    later = [*measured, (33, 1.0)]  # 10 is less than a third of it
    slope = np.polyfit(np.log([15, 20, 25, 30, 33]), [*y[1:], 1.0], 1)[0]
    assert loss_left(later, 99, 1) == pytest.approx(-slope * np.log(3))


def test_limits_stop_and_cut_the_last_round() -> None:
    gate = lonely(max_labels=7, relative_gain=0.0)
    gate.update_predictions(sure(0.1))
    assert play(gate, 0.1) is None
    assert len(gate.request().positions) == 2
    assert play(gate, 0.1) == "max_labels" and gate.labelled_rows == 7
    gate = lonely(max_rounds=2, relative_gain=0.0)
    gate.update_predictions(sure(0.1))
    assert [play(gate, 0.1), play(gate, 0.1)] == [None, "max_rounds"]
    assert len(lonely(max_labels=3).request_seed(10).positions) == 3
    assert len(lonely(max_labels=1).request_seed(10).positions) == 1


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([999], [0], "not among"),
        ([-1], [0], "not among"),
        (["other"], [0], "not requested"),
        (["first"], [CLASSES], "outside 0..3"),
        (["first"], [-1], "outside 0..3"),
        (["answered"], [3], "another label"),
        (["first", "first"], [0, 1], "two labels"),
        (["first", "second"], [0], "one integer label"),
    ],
)
def test_bad_answers_are_refused_and_nothing_is_taken(rows: list[Any], labels: list[int], message: str) -> None:
    gate = make()
    asked = gate.request_seed(6).positions
    gate.submit(asked[:1], np.array([2]))
    names = {"answered": asked[0], "first": asked[1], "second": asked[2]}
    names["other"] = np.setdiff1d(np.arange(80), asked)[0]
    given_rows = np.array([names.get(row, row) for row in rows], dtype=np.int64)
    with pytest.raises(InputError, match=message):
        gate.submit(np.concatenate([asked[3:4], given_rows]), np.array([0, *labels]))
    assert gate.labelled_rows == 1 and gate.outstanding == 5


def test_an_answer_given_twice_in_one_submission_counts_once() -> None:
    gate = make()
    asked = gate.request_seed(6).positions
    assert gate.submit(asked[[0, 1, 0]], np.array([1, 2, 1])) == 2
    assert gate.submit(asked[:0], asked[:0]) == 0
    with pytest.raises(InputError, match="float64"):
        gate.submit(asked, np.ones(6))  # type: ignore[arg-type]  # that is the test


def test_bad_predictions_are_refused() -> None:
    gate = make()
    with pytest.raises(InputError, match=r"need float\[80, 4\]"):
        gate.update_predictions(guess(79, 0))
    for value in (np.nan, -0.5, 3.0):
        p = guess(80, 0)
        p[[5, 9], 1] = value
        with pytest.raises(InputError, match=r"2 of 80 .*\[5, 9\]"):
            gate.update_predictions(p)
    assert gate.mean_gain is None


def test_calls_out_of_turn_are_refused() -> None:
    gate = make()
    with pytest.raises(InputError, match="no predictions"):
        gate.request()
    with pytest.raises(InputError, match="81 random first rows are wanted of 80"):
        gate.request_seed(81)
    with pytest.raises(InputError, match="round 0; 0 rounds are closed"):
        gate.note_loss(0, 0.5)
    gate.note_loss(-1, 0.5)
    rows = gate.request_seed(5).positions
    gate.submit(rows, truth(rows))
    with pytest.raises(InputError, match="round 1 is open"):
        gate.request_seed(5)
    for wrong in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="0 or more"):
            gate.note_loss(0, wrong)


def test_gates_that_cannot_be_are_refused() -> None:
    config, graph = make().config, crowd()
    with pytest.raises(InputError, match="80 rows"):
        AnnotationGate(config, graph, np.ones(79, dtype=np.bool_))
    with pytest.raises(InputError, match="no row may be asked"):
        AnnotationGate(config, graph, np.zeros(80, dtype=np.bool_))
    fields, arrays = make().state()
    with pytest.raises(InputError, match="does not fit"):
        AnnotationGate(config, graph, np.arange(80) > 3).restore(fields, arrays)
    with pytest.raises(InputError, match="does not fit"):
        AnnotationGate(replace(config, classes=5), graph, np.ones(80, dtype=np.bool_)).restore(fields, arrays)
    with pytest.raises(InputError, match="seen"):
        make().restore({k: v for k, v in fields.items() if k != "seen"}, arrays)
    with pytest.raises(InputError, match="candidates"):
        AnnotationGate.from_state(config, graph, fields, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", 1),
        ("classes", 70_000),
        ("round_size", 0),
        ("rule", "entropy"),
        ("neighbours", 0),
        ("min_similarity", 1.5),
        ("recheck_neighbours", 0),
        ("recheck_similarity", -0.1),
        ("relative_gain", float("nan")),
        ("loss_rounds", 0),
        ("loss_tolerance", -0.1),
        ("max_labels", 0),
        ("max_rounds", 0),
        ("seed", -1),
    ],
)
def test_settings_out_of_bounds_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name.removeprefix("max_")):
        make(**{name: value})


def test_published_gain_without_neighbours_is_the_models_doubt() -> None:
    gate = lonely(rule="compat")
    gate.update_predictions(sure(0.6))
    confidence = (0.8 - 1 / CLASSES) / (1 - 1 / CLASSES)
    np.testing.assert_allclose(gains(gate), 1 - confidence, atol=1e-6)
    near = crowd().near(np.arange(80))
    unsure, first = np.zeros(near.indices.shape), np.zeros(near.indices.shape, dtype=np.int64)
    vote = votes_of(*near, unsure, first, CLASSES, min_similarity=0.85)
    assert not vote.distribution.any() and not vote.share.any()
    assert published_gain(np.full(80, 0.6), np.ones(80, dtype=np.int64), vote) == pytest.approx(np.full(80, 0.4))


@pytest.mark.parametrize("skewed", [False, True])
def test_skew_is_told_by_the_random_first_labels_alone(skewed: bool) -> None:
    """Later labels are chosen, by the gate or by whoever gives them unasked: they say nothing of the classes."""
    drawn = []
    for share in (0.9, 0.0):
        gate = make(draw="top", round_size=5, typical=share, copies=False, apart=1.0)
        asked = gate.request_seed(20).positions
        gate.submit(asked, np.array([0] * 20 if skewed else [0, 1, 2, 3] * 5))
        more = gate.inner.unlabelled()[:24]
        gate.volunteer(more, np.array([1, 2, 3] * 8 if skewed else [0] * 24))
        gate.update_predictions(guess(80, 3))
        drawn.append(gate.request().positions.tolist())
    assert (drawn[0] != drawn[1]) != skewed


# The least and the largest value of each number among the settings; None for no limit.
BOUNDS: dict[str, tuple[float, float | None]] = {
    "classes": (2, 65_536),
    "round_size": (1, None),
    "max_labels": (1, None),
    "max_rounds": (1, None),
    "neighbours": (1, None),
    "typical": (0, 1),
    "apart": (0, 1),
    "copy_similarity": (0, 1),
    "copy_margin": (0, 2),
    "vote_weight": (0, 1),
    "balance": (0, None),
    "power": (0, None),
    "last_power": (0, None),
    "distance_weight": (0, None),
    "min_similarity": (0, 1),
    "recheck_neighbours": (1, None),
    "recheck_similarity": (0, 1),
    "relative_gain": (0, 1),
    "loss_tolerance": (0, None),
    "loss_rounds": (1, None),
    "seed": (0, None),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_settings_reach_to_their_bounds_and_no_further(name: str) -> None:
    given_: dict[str, Any] = {"classes": CLASSES, "round_size": 10} | ({"power": 1.0} if name == "last_power" else {})
    low, high = BOUNDS[name]
    for taken in (low, low + 1e9 if high is None else high):
        assert getattr(GateConfig(**{**given_, name: taken}), name) == taken
    for refused in (low - 1e-3, -math.inf if high is None else high + 1e-3):
        with pytest.raises(UsageError, match=f"{name} is "):
            GateConfig(**{**given_, name: refused})


def test_a_gate_without_copies_has_no_agreement_to_tell() -> None:
    gate = make(copies=False)
    gate.volunteer(np.arange(20), np.zeros(20, dtype=np.int64))
    assert gate.inner.beliefs.agreement() == Agreement(0, 0.0)


def test_compat_believes_what_model_and_neighbours_say_together() -> None:
    """Pseudo-labels are of the published fusion: class and confidence, row by row."""
    gate, graph, p = make("compat"), crowd(), guess(80, 4, 4.0)
    gate.submit(gate.request_seed(10).positions, truth(gate.open_positions))
    gate.update_predictions(p)
    rows, labels, _ = gate.labels()
    oracle = Published(graph, p, dict(zip(rows.tolist(), labels.tolist(), strict=True)))
    found, swayed = readings.pseudo_labels(gate.inner, 0.0), 0
    assert found.positions.tolist() == np.setdiff1d(np.arange(80), rows).tolist()
    for row, label, sure in zip(*(column.tolist() for column in found[:3]), strict=True):
        vote, own = oracle.vote(row), (oracle.predicted[row], oracle.confidence[row])
        assert sure == pytest.approx(Published.fused(vote, own) * (1 - 1 / CLASSES) + 1 / CLASSES, abs=1e-5)
        assert label == (vote[0] if vote[1] >= own[1] else own[0])
        swayed += label != own[0]
    assert swayed > 0


def test_a_labelled_row_among_labels_of_another_class_has_no_gain_after_all() -> None:
    """Row 1 has label 1, all around it have 0: the published fusion of two certainties would be a gain of a half."""
    indices = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]], dtype=np.int32)
    graph = NeighbourGraph(indices, np.full((4, 3), 0.95, dtype=np.float32), "exact", 1.0)
    gate = AnnotationGate(
        GateConfig(classes=2, round_size=1, rule="compat", relative_gain=0.0), graph, np.ones(4, bool)
    )
    gate.volunteer(np.array([1, 2, 3]), np.array([1, 0, 0]))
    gate.update_predictions(np.array([[0.6, 0.4]] * 4, dtype=np.float32))
    gate.submit(gate.request().positions, np.array([0]))
    assert gains(gate).tolist() == [0.0] * 4


def test_groups_of_typical_rows_are_as_many_as_there_are_labels_after_the_round() -> None:
    gate = make(rows=600, draw="top", round_size=6, typical=1.0, copies=False, apart=1.0)
    graph = gate.inner.graph
    gate.submit(gate.request_seed(6).positions, np.arange(6) % CLASSES)
    gate.update_predictions(guess(600, 3))
    levels = NeighbourGroups.of(graph)
    few, many = levels.about(6 + 6), levels.about(6 * 6)
    assert few.max() < many.max()
    labelled = gate.labels()[0]
    order = by_gain(np.setdiff1d(np.arange(600), labelled), gains(gate), row_noise(600, 0, 1)).tolist()
    similar = graph.near(np.arange(600)).similarities
    expected = typical_first(order, 6, few.tolist(), set(labelled.tolist()), similar.mean(axis=1), 0.25)
    assert gate.request().positions.tolist() == expected[:6]


def test_noise_of_rows_stays_as_it_is() -> None:
    """A gate that is opened by another version draws the rows that it would have drawn."""
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence([3, 2]))).random(4)
    assert np.array_equal(row_noise(4, 3, 2), expected)
    assert row_noise(4, 3, 2) == pytest.approx(
        [0.025540150666, 0.743307414364, 0.813441403034, 0.126236184758], abs=1e-12
    )
    assert np.array_equal(row_noise(9, 3, 2)[:4], expected), "more rows change nothing for the first"
    assert draw_random(np.array([2, 0, 3]), 2, np.array([0.5, 0.0, 0.1, 0.3])).tolist() == [2, 3]


def far_neighbours(**settings_: Any) -> AnnotationGate:
    """Row 0 has one neighbour of similarity 0.8, weight 0.41; the others have none."""
    indices = np.array([[1], [-1], [-1]], dtype=np.int32)
    graph = NeighbourGraph(indices, np.where(indices >= 0, 0.8, -1.0).astype(np.float32), "exact", 1.0)
    config = GateConfig(**{"classes": 2, "round_size": 1, "copies": False, "relative_gain": 0.0, **settings_})
    return AnnotationGate(config, graph, np.ones(3, dtype=np.bool_))


def test_a_single_far_neighbour_is_heard_as_much_as_many() -> None:
    gate = far_neighbours()
    gate.update_predictions(np.array([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]], np.float32))
    best, sure = gate.predictions(np.arange(3))
    assert best[:2].tolist() == [1, 1] and sure == pytest.approx([0.65, 0.9, 0.5], abs=1e-6)


def test_balance_waits_for_labels() -> None:
    p = np.array([[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]], np.float32)
    plain, balanced = far_neighbours(), far_neighbours(balance=1.0)
    for gate in (plain, balanced):
        gate.update_predictions(p)
    assert gains(plain).min() > 0 and np.array_equal(gains(balanced), gains(plain))


def test_sure_rows_count_as_known_for_the_distance() -> None:
    """Row 0 is 0.2 off row 1 and 0.7 off row 2: where neither is sure, it is as far from what is known as from both."""
    indices = np.array([[1, 2], [-1, -1], [-1, -1]], dtype=np.int32)
    graph = NeighbourGraph(indices, np.array([[0.8, 0.3], [-1, -1], [-1, -1]], np.float32), "exact", 1.0)
    config = GateConfig(classes=2, round_size=1, copies=False, vote_weight=0.0, distance_weight=0.5)
    for probability, distance in ((0.99, 0.2), (0.6, 0.7)):
        gate = AnnotationGate(config, graph, np.ones(3, dtype=np.bool_))
        gate.update_predictions(np.array([[0.6, 0.4], [1 - probability, probability], [0.5, 0.5]], np.float32))
        assert gains(gate)[0] == pytest.approx(0.8 + 0.5 * distance, abs=1e-5)


def test_predictions_below_nothing_are_refused_though_they_sum_to_one() -> None:
    gate = far_neighbours()
    with pytest.raises(InputError, match="no distribution"):
        gate.update_predictions(np.array([[0.6, 0.4], [-0.1, 1.1], [0.5, 0.5]], np.float32))


def test_answers_are_checked_before_they_are_requested() -> None:
    gate = AnnotationGate(make().config, crowd(), np.arange(80) != 7)
    gate.check_answers(np.array([3, 5]), np.array([0, 1]))
    with pytest.raises(InputError, match=r"1 of 2 .*\[7\]"):
        gate.check_answers(np.array([3, 7]), np.array([0, 1]))
    with pytest.raises(InputError, match=r"1 of 2 .*\[107\]"):
        gate.check_answers(np.array([3, 7]), np.array([0, 1]), np.array([103, 107]))
    with pytest.raises(InputError, match="outside"):
        gate.check_answers(np.array([3, 5]), np.array([0, CLASSES]))


def test_answers_change_no_other_gain_by_the_margin_rule() -> None:
    gate = make(copies=False)
    gate.update_predictions(guess(80, 2))
    before, asked = gains(gate), gate.request().positions
    gate.submit(asked, truth(asked))
    assert gate.rounds == 1
    expected = before.copy()
    expected[asked] = 0
    assert np.array_equal(gains(gate), expected)


def test_nothing_is_told_of_rows_before_there_are_predictions() -> None:
    gate = make()
    gate.volunteer(np.array([4]), np.array([2]))
    best, sure = gate.predictions(np.array([4, 5]))
    assert best.tolist() == [2, -1] and sure[0] == 1 and np.isnan(sure[1])
    with pytest.raises(InputError, match="no gains before"):
        readings.gains(gate.inner)
    gate.update_predictions(guess(80, 1))
    rows, gain = readings.gains(gate.inner)
    assert rows.tolist() == np.setdiff1d(np.arange(80), [4]).tolist() and np.array_equal(gain, gains(gate)[rows])
    assert len(readings.pseudo_labels(gate.inner, 0.0).positions) == 79
    assert len(readings.pseudo_labels(gate.inner, 1.0).positions) == 0
    for least in (-1e-6, 1 + 1e-6):
        with pytest.raises(InputError, match="0 to 1"):
            readings.pseudo_labels(gate.inner, least)


@pytest.mark.parametrize("rows", [79, 81])
def test_a_graph_of_other_rows_is_refused(rows: int) -> None:
    with pytest.raises(InputError, match=f"a graph of {rows} rows for a gate of 80"):
        make().use_graph(crowd(rows))


def test_a_loss_that_stands_still_stops_no_gate_without_a_tolerance() -> None:
    gate = lonely(relative_gain=0.0, loss_tolerance=0.0, loss_rounds=1)
    gate.update_predictions(sure(0.0))
    assert [play(gate, 0.4, loss) for loss in (1.0, 1.0, 1.0)] == [None] * 3
