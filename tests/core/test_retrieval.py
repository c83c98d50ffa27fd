"""Retrieval against one row, and one pair, at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.core import retrieval
from coevo_ray.core.gate.rules import margin_gain
from coevo_ray.core.graph.graph import build_graph
from coevo_ray.core.graph.search import pair_similarities
from coevo_ray.core.graph.unit_rows import UnitRows
from coevo_ray.core.probes.calibration import apply_temperature
from coevo_ray.core.probes.probe import LinearProbe
from coevo_ray.core.retrieval import (
    Linear,
    choose,
    choose_anchors,
    copy_margin,
    find_copies,
    more_similar,
    rank,
    score_rows,
)

DIM = 8


def unit(rows: int, seed: int = 0, spread: float = 1.0) -> npt.NDArray[np.float32]:
    """Rows of length 1; a small spread makes near-duplicates."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((5, DIM))
    rows_of = centres[random.integers(0, 5, rows)] + spread * random.standard_normal((rows, DIM))
    return np.asarray(rows_of / np.linalg.norm(rows_of, axis=1, keepdims=True), np.float32)


def slow_choice(rows: npt.NDArray[np.float32], budget: int, same: float, apart: float) -> list[int]:
    similar = rows.astype(np.float64) @ rows.T.astype(np.float64)
    picks: list[int] = []
    for i in range(len(rows)):
        far = all(similar[i, p] <= apart for p in picks)
        if len(picks) < budget and far:
            picks.append(i)
    for i in range(len(rows)):
        if len(picks) < budget and i not in picks and all(similar[i, p] <= same for p in picks):
            picks.append(i)
    return picks


@given(
    st.integers(0, 2**31),
    st.integers(1, 60),
    st.integers(1, 70),
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([(0.95, 0.65), (0.9, 0.9), (0.97, 0.97)]),
    st.integers(1, 20),
)
def test_choice_is_that_of_one_row_at_a_time(
    seed: int, count: int, budget: int, spread: float, limits: tuple[float, float], block: int
) -> None:
    rows, (same, apart) = unit(count, seed, spread), limits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_BLOCK", block)
        made = choose(lambda places: rows[places], count, budget, same=same, apart=apart)
    assert made.tolist() == slow_choice(rows, budget, same, apart)


@pytest.mark.parametrize("near", [0.0, 0.5, 2.0])
def test_score_of_one_row_at_a_time(near: float) -> None:
    rows, anchors = unit(200), unit(40, 1)
    gains = np.random.default_rng(2).random(40).astype(np.float32)
    own = np.random.default_rng(3).random(200).astype(np.float32)
    for given_gain in (None, own):
        made = score_rows(rows, anchors, gains, given_gain, near)
        for i, row in enumerate(rows.astype(np.float64)):
            similar = [float(row @ a) for a in anchors.astype(np.float64)]
            nearest = int(np.argmax(similar))
            worth = gains[nearest] if given_gain is None else own[i]
            assert made.anchor[i] == nearest and made.similarity[i] == pytest.approx(similar[nearest], abs=1e-6)
            assert made.score[i] == pytest.approx(worth * max(0.0, similar[nearest]) ** near, abs=1e-6)


@given(st.integers(0, 2**31), st.integers(1, 80), st.integers(1, 30), st.integers(1, 20))
def test_scores_do_not_depend_on_what_else_is_scored(seed: int, count: int, cut: int, block: int) -> None:
    features = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float16)
    mean, anchors = np.full(DIM, 0.1, np.float32), unit(17, seed + 1)
    gains = np.random.default_rng(seed).random(17).astype(np.float32)
    weight, ones = np.random.default_rng(9).standard_normal((3, DIM)), np.ones(DIM)
    probe = Linear(weight, weight[:, 0], ones, 2 * ones, 0.7)

    def score(part: npt.NDArray[np.float16]) -> tuple[npt.NDArray[Any], ...]:
        rows, usable = UnitRows.about(part, mean)
        assert usable.all()
        made = score_rows(rows.read(slice(None)), anchors, gains, probe.gain(part), 0.5)
        return made.score, made.similarity, made.anchor

    whole = score(features)
    order = np.random.default_rng(seed).permutation(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_BLOCK", block)
        for start in range(0, count, cut):
            places = order[start : start + cut]
            for part, all_ in zip(score(features[places]), whole, strict=True):
                assert np.array_equal(part, all_[places])


def test_copies_are_those_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = (np.random.default_rng(0).standard_normal((300, DIM)) + 2).astype(np.float16)
    open_ = np.concatenate([raw[::10] + np.float16(0.01), unit(100, 5).astype(np.float16), raw[5:6]])
    mean = raw.mean(axis=0).astype(np.float32)
    rows, queries = UnitRows.about(raw, mean)[0], UnitRows.about(open_, mean)[0].read(slice(None))
    exact = np.sort(queries.astype(np.float64) @ rows.read(slice(None)).T.astype(np.float64), axis=1)
    first, crowd = exact[:, -1], exact[:, -16]
    for block in (1024, 11):
        monkeypatch.setattr(retrieval, "_BLOCK", block)
        for same in (0.9, 0.95, 0.99):
            made = find_copies(queries, rows, same)
            assert np.array_equal(made, first > same) and 30 <= made.sum() < 131
        for margin in (0.1, 0.2, 0.4):
            made = find_copies(queries, rows, 0.999, margin)
            assert np.array_equal(made, (first > 0.999) | (first - crowd > margin))
            assert (first > 0.999).sum() < made.sum() or margin == 0.4


def test_a_copy_stands_out_from_the_crowd() -> None:
    """As similar to one row as the copy is to another, but in a crowd of such rows; fewer than 16 are a crowd, too."""
    lone, centre = np.eye(40, dtype=np.float32)[:2]
    crowd = np.stack([0.8 * centre + 0.6 * axis for axis in np.eye(40, dtype=np.float32)[2:22]])
    queries = np.stack([0.8 * lone + 0.6 * np.eye(40, dtype=np.float32)[39], centre])
    rows = UnitRows.of(np.concatenate([[lone], crowd]))
    assert find_copies(queries, rows, 0.95, 0.2).tolist() == [True, False]
    assert find_copies(queries, UnitRows.of(crowd[:5]), 0.95, 0.2).tolist() == [False, False]
    assert find_copies(queries, UnitRows.of(lone[None]), 0.95, 0.2).tolist() == [False, False]


def test_the_margin_is_what_few_of_the_own_rows_pass() -> None:
    features = np.random.default_rng(0).standard_normal((200, DIM)).astype(np.float32)
    graph = build_graph(features, 16, "exact")
    length = features / np.linalg.norm(features, axis=1, keepdims=True)
    among = np.sort(length.astype(np.float64) @ length.T.astype(np.float64), axis=1)
    away = among[:, -2] - among[:, -17]
    for stray in (0.02, 0.1, 0.5):
        assert copy_margin(graph, stray) == pytest.approx(np.quantile(away, 1 - stray), abs=1e-6)
        assert (away > copy_margin(graph, stray) + 1e-6).mean() <= stray
    assert copy_margin(graph, 0.0) == np.inf
    assert copy_margin(build_graph(features[:5], 16, "exact"), 0.5) == np.inf  # nobody has a last neighbour


def test_a_threshold_is_met_the_same_in_any_company() -> None:
    """A pair at the very threshold is not above it, whatever the last bit of a matrix product says."""
    drawn = np.random.default_rng(3).standard_normal((300, 300))
    rows = np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)
    for i in range(40):
        limit = float(pair_similarities(rows[i : i + 1], rows[None, i + 1 : i + 2])[0, 0])
        for others in (rows, rows[i + 1 : i + 2], rows[i + 1 :]):
            made = more_similar(rows[: i + 1], others, limit)
            assert not made[i, i + 1 if others is rows else 0]


def test_rows_without_a_direction_are_named_and_zero() -> None:
    mean = np.full(DIM, 2, np.float32)
    features = np.random.default_rng(0).standard_normal((6, DIM)).astype(np.float16)
    features[1], features[2], features[3, 0], features[4, 1] = 0, 2, np.nan, np.inf
    before = features.copy()
    rows, usable = UnitRows.about(features, mean)
    assert usable.tolist() == [True, False, False, False, False, True]
    made = rows.read(slice(None))
    assert (made[~usable] == 0).all() and np.allclose(np.linalg.norm(made[usable], axis=1), 1, atol=1e-6)
    expected = before[5].astype(np.float64) - mean
    assert np.allclose(made[5], expected / np.linalg.norm(expected), atol=1e-6)
    assert np.array_equal(features, before, equal_nan=True)


def test_anchors_are_the_rows_of_most_gain() -> None:
    ids, gains = np.array([3, 5, 7, 9]), np.array([0.2, 0.9, 0.0, 0.2], np.float32)
    assert choose_anchors(ids, gains, 2)[0].tolist() == [3, 5]  # of equal gains the lower row
    chosen, worth = choose_anchors(ids, gains, 9)
    assert chosen.tolist() == [3, 5, 9] and worth.tolist() == [np.float32(0.2), np.float32(0.9), np.float32(0.2)]
    assert rank(ids, gains).tolist() == [1, 0, 3, 2]


def test_gain_of_a_classifier_is_that_of_the_gates_own() -> None:
    features = np.random.default_rng(0).standard_normal((300, DIM)).astype(np.float32)
    probe = LinearProbe.fit(features, (features[:, :3]).argmax(axis=1), 3)
    expected = margin_gain(apply_temperature(probe.predict_proba(features), 1.7))
    made = Linear(probe.weight, probe.bias, probe.mean, probe.scale, 1.7).gain(features)
    assert np.allclose(made, expected, atol=1e-5) and made.dtype == np.float32
