"""Arriving rows: decided by the rules one at a time, taken into the same graph and gate as if they had been there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from coevo_ray.core.gate.config import GateConfig, OfferConfig
from coevo_ray.core.gate.gate import AnnotationGate
from coevo_ray.core.gate.online import ACTIONS, REASONS, OnlineGate
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.growing import GrowingIndex
from coevo_ray.core.graph.unit_rows import UnitRows
from coevo_ray.errors import InputError, UsageError

ROWS, CLASSES, DIM, K = 200, 3, 8, 6
RULES = pytest.mark.parametrize("rule", ["margin", "compat"])


def cloud(rows: int, seed: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float32]]:
    """Features about the classes' corners, and a model's predictions that follow from them."""
    random = np.random.default_rng(seed)
    true = random.integers(0, CLASSES, rows)
    features = (np.eye(DIM)[true] + 0.3 * random.standard_normal((rows, DIM)) + 0.5).astype(np.float16)
    logits = 3.0 * features[:, :CLASSES].astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return features, (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def online(rule: Any = "margin", *, offer: OfferConfig | None = None, **settings: Any) -> OnlineGate:
    features, p = cloud(ROWS, 0)
    rows = UnitRows.of(features, centre=True)
    index = GrowingIndex(rows.read(slice(None)), build_graph(features, K, centre=True))
    config = GateConfig(**{"classes": CLASSES, "round_size": 20, "rule": rule, "validation_share": 0.0, **settings})
    gate = AnnotationGate(config, index, np.ones(ROWS, bool))
    asked = gate.request_seed(30).positions
    gate.submit(asked, asked % CLASSES)
    gate.update_predictions(p)
    return OnlineGate(gate, index, rows.mean, offer or OfferConfig())


def by_hand(subject: OnlineGate, features: Any, p: Any) -> list[tuple[str, str]]:
    """The rules, one row at a time, from the state before the batch."""
    gate, index = subject.gate, subject.index
    raw = features.astype(np.float64) - subject._mean
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    known = index.unit.astype(np.float64)
    asked, unseen = set(gate.inner.asked().tolist()), set(gate.inner.asked(unseen=True).tolist())
    gains = np.sort(gate.state()[1]["gain"][:ROWS][~gate.is_labelled(np.arange(ROWS))])  # of when predictions came
    level, left = gains[-gate.config.round_size], gate.labels_left
    picked: list[int] = []
    said: list[tuple[str, str]] = []
    for i in range(len(features)):
        similar = known @ unit[i]
        order = np.argsort(-similar)[:K]
        top2 = np.sort(p[i])[-2:]
        gain = 1 - (top2[1] - top2[0])
        weight = np.maximum(similar[order], 0) ** 4
        votes = np.zeros(CLASSES)
        for j, w in zip(order, weight, strict=True):
            (best,), (sure,) = gate.predictions(np.array([j]))
            votes += w * np.where(np.arange(CLASSES) == best, sure, (1 - sure) / (CLASSES - 1))
        fused = 0.5 * p[i] + 0.5 * votes / weight.sum()
        copies = any(similar[j] > 0.95 and j in asked for j in order)
        near = copies or any(similar[j] > gate.config.apart and j in unseen for j in order)
        near = near or any(unit[i] @ unit[j] > min(0.95, gate.config.apart) for j in picked)
        if gain >= level and left > 0 and not near:
            said.append(("annotate", "gain"))
            picked.append(i)
            left -= 1
        elif fused.max() >= subject.config.sure:
            said.append(("pseudo_label", "sure"))
        else:
            said.append(("skip", "low_gain" if gain < level else "stopped" if left <= 0 else "near"))
    return said


def named(decisions: Any) -> list[tuple[str, str]]:
    return [(ACTIONS[a], REASONS[r]) for a, r in zip(decisions.action, decisions.reason, strict=True)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("left", [None, 3])
def test_decisions_are_the_rules_one_row_at_a_time(seed: int, left: int | None) -> None:
    subject = online(offer=OfferConfig(sure=0.8), max_labels=None if left is None else 30 + left, apart=0.9)
    seen = set()
    for batch in range(3):
        features, p = cloud(40, 100 * seed + batch + 1)
        expected = by_hand(subject, features, p)
        assert named(subject.offer(features, p)) == expected
        seen |= {reason for _, reason in expected}
    assert seen >= {"gain", "low_gain", "sure"} and ("stopped" in seen) == (left is not None)


def test_rows_join_the_graph_as_if_they_had_been_there() -> None:
    subject = online()
    batches = [cloud(25, seed) for seed in (1, 2)]
    for features, p in batches:
        subject.offer(features, p)
    everything = np.concatenate([cloud(ROWS, 0)[0], *(features for features, _ in batches)]).astype(np.float32)
    first = UnitRows.of(cloud(ROWS, 0)[0], centre=True)
    assert first.mean is not None
    whole = build_graph(everything - first.mean, K)
    assert np.array_equal(subject.index.indices, whole.indices)
    assert subject.index.similarities == pytest.approx(whole.similarities, abs=1e-6)
    assert len(subject.gate.state()[1]["gain"]) == ROWS + 50


def test_annotated_rows_are_requested_and_learned_like_others() -> None:
    subject = online()
    features, p = cloud(60, 3)
    decisions = subject.offer(features, p)
    asked = ROWS + np.flatnonzero(decisions.action == 0)
    assert len(asked) > 0
    gate = subject.gate
    assert sorted(gate.request().positions.tolist()) == asked.tolist() and gate.outstanding == len(asked)
    gate.submit(asked, np.zeros(len(asked), dtype=np.int64))
    assert gate.rounds == 2 and gate.is_labelled(asked).all()
    assert gate.stopped_by is None
    gate.update_predictions(np.concatenate([cloud(ROWS, 0)[1], p]))
    assert not set(gate.request().positions) & set(asked.tolist())


def test_a_copy_of_an_asked_row_is_not_asked_about() -> None:
    subject = online(offer=OfferConfig(sure=1.0), apart=1.0)
    level = np.full((2, CLASSES), 1 / CLASSES, np.float32)  # nobody could be less sure
    stranger = np.zeros((1, DIM), np.float16)
    stranger[0, -1] = 4.0
    twice = np.repeat(stranger, 2, axis=0)
    assert named(subject.offer(twice, level)) == [("annotate", "gain"), ("skip", "near")]
    assert named(subject.offer(twice[:1], level[:1])) == [("skip", "near")]


def test_a_stopped_gate_asks_nothing() -> None:
    subject = online(max_rounds=1)
    features, p = cloud(30, 3)
    decisions = subject.offer(features, p)
    assert "annotate" not in {action for action, _ in named(decisions)}
    assert ("skip", "stopped") in named(decisions) and subject.gate.outstanding == 0


@RULES
def test_unusable_rows_are_skipped_and_not_taken_in(rule: Any) -> None:
    subject = online(rule)
    features, p = cloud(6, 3)
    features[3, 2], features[4, 0] = np.nan, np.inf
    subject._mean = features[1].astype(np.float32)  # so that one row has no direction
    decisions = subject.offer(features, p)
    assert decisions.usable.tolist() == [True, False, True, False, False, True]
    assert named(decisions)[1] == ("skip", "unusable") and decisions.label[3] == -1
    assert subject.index.rows == ROWS + 3
    assert len(subject.offer(features[:0], p[:0]).action) == 0
    assert not subject.offer(features[[1, 3]], p[:2]).usable.any() and subject.index.rows == ROWS + 3


@RULES
def test_accepting_what_was_decided_before_is_the_same(rule: Any) -> None:
    first, second = online(rule), online(rule)
    for seed in (1, 2):
        features, p = cloud(20, seed)
        decisions = first.offer(features, p)
        second.accept(features, decisions)
    for a, b in zip(first.gate.state(), second.gate.state(), strict=True):
        np.testing.assert_equal(a, b)
    assert np.array_equal(first.index.indices, second.index.indices)


def test_offers_that_do_not_fit_are_refused() -> None:
    subject = online()
    features, p = cloud(4, 1)
    for wrong, message in (
        ((features[:, :-1], p), "have 8 dimensions"),
        ((features[:, :, None], p), "give float16"),
        ((features.astype(np.float32), p), "give float16"),
        ((features, p[:3]), "for 4 offered rows"),
        ((features, p[:, :-1]), "3 classes"),
        ((features, 2 * p), "no distribution"),
        ((features, p + np.array([-1, 1, 0], np.float32)), "no distribution"),
    ):
        with pytest.raises(InputError, match=message):
            subject.offer(*wrong)
    assert subject.index.rows == ROWS
    fresh = AnnotationGate(
        GateConfig(classes=CLASSES, round_size=5, validation_share=0.0), subject.index, np.ones(ROWS, bool)
    )
    with pytest.raises(InputError, match="has no predictions"):
        OnlineGate(fresh, subject.index, None, OfferConfig()).offer(features, p)
    with pytest.raises(UsageError, match=r"offer\.sure"):
        OfferConfig(sure=2)


def nearly_done(left: int, **settings: Any) -> OnlineGate:
    """A gate with labels of all rows but a few, which is fewer than a round asks for."""
    subject = online(**settings)
    rest = np.flatnonzero(~subject.gate.is_labelled(np.arange(ROWS)))[left:]
    subject.gate.volunteer(rest, rest % CLASSES)
    subject.gate.update_predictions(cloud(ROWS, 0)[1])
    return subject


def certain(rows: int) -> npt.NDArray[np.float32]:
    p: npt.NDArray[np.float32] = np.eye(CLASSES, dtype=np.float32)[np.arange(rows) % CLASSES]
    return p


@pytest.mark.parametrize("left", [0, 4])
@RULES
def test_rows_that_teach_nothing_are_not_asked_about_when_few_are_left(rule: Any, left: int) -> None:
    """Fewer rows than a round's: what the last full round asked for stays the measure."""
    subject = nearly_done(left, rule=rule, round_size=20)
    level = online(rule, round_size=20).gate.inner.level
    assert subject.gate.inner.level == level > 0, "the level of the last full round"
    features, p = cloud(40, 7)[0], certain(40)
    decisions = subject.decide(features, p)
    annotated = decisions.action == ACTIONS.index("annotate")
    assert (decisions.gain[annotated] >= level).all()
    if rule == "margin":
        assert decisions.gain.max() == 0 and not annotated.any()


def test_before_a_full_round_the_few_rows_that_are_left_are_the_measure() -> None:
    subject = online(round_size=ROWS)
    gains = subject.gate.inner.beliefs.gain
    assert subject.gate.inner.level == gains[gains > 0].min()


def test_covered_rows_make_no_level() -> None:
    """Many rows without a label, but hardly any of them is worth one."""
    subject = online(round_size=20)
    p = certain(ROWS)
    p[:5] = 1 / CLASSES
    level = subject.gate.inner.level
    subject.gate.update_predictions(p)
    assert subject.gate.inner.level == level > 0


@pytest.mark.parametrize("why", ["exhausted", "gain", "validation"])
def test_a_gate_that_has_ended_stays_so_when_rows_arrive(why: str) -> None:
    """More rows would change what each of these rules sees."""
    terms: dict[str, dict[str, Any]] = {
        "exhausted": {},
        "gain": {"relative_gain": 0.9},
        "validation": {"relative_gain": 0.0, "loss_tolerance": 0.5},
    }
    subject = nearly_done(0) if why == "exhausted" else online(loss_rounds=1, **terms[why])
    gate = subject.gate
    if why != "exhausted":
        asked = gate.request().positions
        gate.submit(asked, asked % CLASSES)
        gate.update_predictions(certain(ROWS))
    if why == "validation":
        gate.inner.measured = {-1: (10, 1.0), 0: (40, 0.66)}  # a slope that leaves 0.4 nats in 200 rows, 0.9 in 1 800
    assert gate.stopped_by == why
    for seed in range(40):
        features = cloud(40, 100 + seed)[0]
        decisions = subject.offer(features, np.full((40, CLASSES), 1 / CLASSES, np.float32))
        assert ACTIONS.index("annotate") not in decisions.action, seed
        assert gate.stopped_by == why and gate.outstanding == 0
    again = AnnotationGate.from_state(gate.config, subject.index, *gate.state())
    assert again.stopped_by == why and len(again.request().positions) == 0


def test_an_ended_gate_opens_when_its_terms_change() -> None:
    subject = online(max_rounds=1)
    subject.offer(*cloud(10, 1))
    assert subject.gate.stopped_by == "max_rounds"
    raised = AnnotationGate.from_state(replace(subject.gate.config, max_rounds=2), subject.index, *subject.gate.state())
    assert raised.stopped_by is None


@pytest.mark.parametrize(("same", "apart"), [(0.9, 1.0), (1.0, 0.9)])
def test_rows_of_a_batch_are_near_by_either_limit(same: float, apart: float) -> None:
    """Two strangers of similarity 0.95, both of most gain: the first is asked about."""
    subject = online(offer=OfferConfig(sure=1.0, same=same), apart=apart)
    assert subject._mean is not None
    first, other = np.zeros(DIM), np.zeros(DIM)
    first[-1] = other[-1] = 4.0
    other[-2] = 4.0 * np.tan(np.arccos(0.95))
    rows = (np.stack([first, other]) + subject._mean).astype(np.float16)
    level = np.full((2, CLASSES), 1 / CLASSES, np.float32)
    assert named(subject.decide(rows, level)) == [("annotate", "gain"), ("skip", "near")]


def test_confidence_is_the_fused_probability_to_the_digit() -> None:
    """What a neighbour leaves to the other classes is shared among C - 1 of them."""
    subject = online()
    features, p = cloud(20, 5)
    decisions = subject.decide(features, p)
    known = subject.index.unit.astype(np.float64)
    for i in range(len(features)):
        raw = features[i].astype(np.float64) - subject._mean
        similar = known @ (raw / np.linalg.norm(raw))
        votes, mass = np.zeros(CLASSES), 0.0
        for j in np.argsort(-similar)[:K]:
            (best,), (sure,) = subject.gate.predictions(np.array([j]))
            weight = max(similar[j], 0.0) ** 4
            mass += weight
            votes += weight * np.where(np.arange(CLASSES) == best, sure, (1 - sure) / (CLASSES - 1))
        fused = 0.5 * p[i] + 0.5 * votes / mass
        assert decisions.confidence[i] == pytest.approx(fused.max(), abs=1e-4)
        assert decisions.label[i] == fused.argmax()


def strangers(**settings: Any) -> OnlineGate:
    """Twelve rows in one corner, with labels on half of them; what arrives opposite has no similar neighbour."""
    corner = np.abs(np.random.default_rng(0).standard_normal((12, 4))).astype(np.float32)
    unit = corner / np.linalg.norm(corner, axis=1, keepdims=True)
    graph = build_graph(unit, 3)
    config = GateConfig(classes=CLASSES, round_size=3, validation_share=0.0, **settings)
    gate = AnnotationGate(config, graph, np.ones(12, bool))
    gate.submit(gate.request_seed(6).positions, gate.open_positions % CLASSES)
    gate.update_predictions(np.random.default_rng(1).dirichlet(np.ones(CLASSES), 12).astype(np.float32))
    return OnlineGate(gate, GrowingIndex(unit, graph), None, OfferConfig())


def test_a_row_without_similar_neighbours_is_believed_as_the_model_says() -> None:
    subject = strangers()
    p = np.array([[0.2, 0.7, 0.1], [0.5, 0.2, 0.3]], np.float32)
    decisions = subject.decide(-np.eye(4, dtype=np.float16)[:2], p)
    assert decisions.label.tolist() == [1, 0]
    assert decisions.confidence == pytest.approx([0.7, 0.5], abs=1e-6)


@pytest.mark.parametrize("vote", ["none", "classes", "distributions"])
def test_gain_is_the_margin_of_the_model_or_of_both_as_the_vote_says(vote: Any) -> None:
    subject = strangers(vote=vote, vote_weight=0.4)
    feature, p = np.array([[0.6, 0.5, 0.4, 0.3]], np.float16), np.array([[0.2, 0.7, 0.1]], np.float32)
    similar = subject.index.unit.astype(np.float64) @ (feature[0] / np.linalg.norm(feature[0].astype(np.float64)))
    said, mass = np.zeros(CLASSES), 0.0
    for j in np.argsort(-similar)[:3]:
        (best,), (sure,) = subject.gate.predictions(np.array([j]))
        mass += similar[j] ** 4
        said += similar[j] ** 4 * np.where(np.arange(CLASSES) == best, sure, (1 - sure) / (CLASSES - 1))
    fused = 0.6 * p[0] + 0.4 * said / mass
    second, first = np.sort(fused if vote == "distributions" else p[0])[-2:]
    decisions = subject.decide(feature, p)
    assert decisions.gain[0] == pytest.approx(1 - (first - second), abs=1e-3)
    assert decisions.confidence[0] == pytest.approx(fused.max(), abs=1e-3)


def test_a_gate_goes_on_with_the_index_that_grows() -> None:
    subject = strangers()
    subject.offer(-np.eye(4, dtype=np.float16)[:2], np.full((2, CLASSES), 1 / CLASSES, np.float32))
    assert subject.gate.inner.graph is subject.index and subject.gate.rows == subject.gate.inner.graph.rows == 14
    subject.gate.update_predictions(np.full((14, CLASSES), 1 / CLASSES, np.float32))


def test_a_row_near_one_that_no_predictions_have_seen_waits_for_them() -> None:
    """Similarity 0.8 is no copy, but above `apart`: asked about only once predictions know the other's label."""
    subject = online(offer=OfferConfig(sure=1.0), apart=0.65)
    assert subject._mean is not None
    first, other = np.zeros(DIM), np.zeros(DIM)
    first[-1] = other[-1] = 4.0
    other[-2] = 4.0 * np.tan(np.arccos(0.8))
    one, two = ((row + subject._mean).astype(np.float16)[None] for row in (first, other))
    level = np.full((1, CLASSES), 1 / CLASSES, np.float32)
    assert named(subject.offer(one, level)) == [("annotate", "gain")]
    assert named(subject.decide(two, level)) == [("skip", "near")]
    subject.gate.submit(np.array([ROWS]), np.array([0]))
    assert named(subject.decide(two, level)) == [("skip", "near")]
    subject.gate.update_predictions(np.concatenate([cloud(ROWS, 0)[1], level]))
    assert named(subject.decide(two, level)) == [("annotate", "gain")]


@RULES
def test_restarted_it_goes_on_as_if_it_had_not_stopped(rule: Any) -> None:
    """The graph has the rows that came, the gate's state what is known of them: see `actors.arrivals`."""
    going, again = online(rule, apart=0.9), online(rule, apart=0.9)
    came = []
    for seed in (1, 2):
        features, p = cloud(20, seed)
        came.append(features[going.offer(features, p).usable])
    going.gate.submit(going.gate.open_positions[:1], np.array([0]))
    again.rejoin(np.concatenate(came))
    again.gate.restore(*going.gate.state())
    assert np.array_equal(again.index.indices, going.index.indices)
    features, p = cloud(40, 3)
    for a, b in zip(
        going.offer(features, p).arrays().values(), again.offer(features, p).arrays().values(), strict=True
    ):
        assert np.array_equal(a, b)
    assert set(going.decide(features, p).arrays()) == {"action", "reason", "gain", "label", "confidence"}
    np.testing.assert_equal(again.gate.state(), going.gate.state())
