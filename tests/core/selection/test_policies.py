"""Policies: exact budgets, balanced usage, and the invariants that their docstrings prove."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.rows import chunks
from coevo_ray.core.rows.row_set import RowSet, ids_of
from coevo_ray.core.selection.policies import (
    POLICIES,
    KeptShares,
    Policy,
    Scored,
    SelectionContext,
    class_quotas,
    make_policy,
    quotas,
)
from coevo_ray.core.selection.policies.factors import turns_taken
from coevo_ray.errors import InputError, UsageError

POOL = 97


def pool(rows: int = POOL, seed: int = 0) -> dict[str, Any]:
    """Columns of a pool with skewed factors and classes; every fifth row is no candidate."""
    random = np.random.default_rng(seed)
    return {
        "candidates": np.flatnonzero(np.arange(rows) % 5 != 0).astype(np.int64),
        "usage": np.zeros(rows, dtype=np.uint16),
        "representativeness": random.random(rows).astype(np.float16),
        "diversity": random.random(rows).astype(np.float16),
        "factor": (random.geometric(0.4, rows) - 2).astype(np.int32),
        "label": random.choice(4, rows, p=[0.7, 0.2, 0.08, 0.02]).astype(np.int64),
        "loss": np.where(random.random(rows) < 0.2, np.nan, random.exponential(1.0, rows)).astype(np.float16),
        "entropy": np.where(random.random(rows) < 0.2, np.nan, random.random(rows)).astype(np.float16),
        "irreducible": random.exponential(1.0, rows).astype(np.float16),
        "relative_loss": np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows)).astype(np.float16),
    }


def run(
    policy: Policy, columns: dict[str, Any], *, keep: float, epochs: int, seed: int = 0
) -> tuple[list[Int64Array], npt.NDArray[np.uint16]]:
    """Selections of all epochs, and usage at the end."""
    usage = columns["usage"].copy()
    selections = []
    for epoch in range(epochs):
        context = SelectionContext(epoch, epochs, keep, seed, **{**columns, "usage": usage.copy()})
        rows = ids_of(policy.select(context))
        assert np.array_equal(ids_of(policy.select(context)), rows)
        selections.append(rows)
        usage[rows] += 1
    return selections, usage


def spread(usage: npt.NDArray[np.uint16], rows: Int64Array) -> int:
    return int(usage[rows].max()) - int(usage[rows].min())


def evenly(name: str) -> Policy:
    """A rotation that leaves classes alone."""
    return make_policy(name, quota_power=1.0) if name == "factors" else make_policy(name)


@pytest.mark.parametrize("name", POLICIES)
@settings(deadline=None, max_examples=20)
@given(keep=st.floats(0.001, 1.0), seed=st.integers(-3, 2**70))
def test_subsets_are_distinct_candidates_of_exact_number(name: str, keep: float, seed: int) -> None:
    columns = pool()
    n = len(columns["candidates"])
    options: dict[str, Any] = {"tail": 0.0} if name == "infobatch" else {}
    for rows in run(make_policy(name, **options), columns, keep=keep, epochs=4, seed=seed)[0]:
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert np.isin(rows, columns["candidates"]).all()
        assert len(rows) == (n if name.startswith("full") else max(1, round(keep * n)))


def test_full_budget_runs_the_share_of_the_epochs_and_others_run_all() -> None:
    assert make_policy("full_budget").epochs_to_run(20, KeptShares(0.3)) == 6
    assert make_policy("full_budget").epochs_to_run(20, KeptShares(0.001)) == 1
    # 15 epochs from 0.2 to 0.4, then 5 on all rows: 15 x 0.3 + 5 = 9.5, and even is the nearer
    assert make_policy("full_budget").epochs_to_run(20, KeptShares(0.2, 0.4, 0.25)) == 10
    others = {make_policy(name).epochs_to_run(20, KeptShares(0.3)) for name in POLICIES if name != "full_budget"}
    assert others == {20}


def test_static_random_stays_and_random_changes() -> None:
    static, _ = run(make_policy("static_random"), pool(), keep=0.3, epochs=5)
    fresh, _ = run(make_policy("random"), pool(), keep=0.3, epochs=5)
    assert len({tuple(rows.tolist()) for rows in static}) == 1
    assert len({tuple(rows.tolist()) for rows in fresh}) == 5
    others = [run(make_policy(name), pool(), keep=0.3, epochs=1, seed=1)[0][0] for name in ("static_random", "random")]
    assert not np.array_equal(others[0], static[0]) and not np.array_equal(others[1], fresh[0])


@pytest.mark.parametrize("name", ["rotation", "factors"])
@settings(deadline=None)
@given(rows=st.integers(2, 60), keep=st.floats(0.01, 1.0), seed=st.integers(0, 50))
def test_rotations_never_let_usage_differ_by_more_than_one(name: str, rows: int, keep: float, seed: int) -> None:
    columns = pool(rows, seed)
    for epochs in (1, 3, 7, 12):
        _, usage = run(evenly(name), columns, keep=keep, epochs=epochs, seed=seed)
        assert spread(usage, columns["candidates"]) <= 1
        assert usage[~np.isin(np.arange(rows), columns["candidates"])].sum() == 0


@pytest.mark.parametrize("name", ["rotation", "factors"])
def test_each_row_comes_once_a_cycle_and_cycles_are_reshuffled(name: str) -> None:
    columns = {**pool(100), "candidates": np.arange(100)}
    selections, usage = run(evenly(name), columns, keep=0.25, epochs=8)
    for cycle in (selections[:4], selections[4:]):
        assert sorted(np.concatenate(cycle).tolist()) == list(range(100))
    assert {tuple(rows.tolist()) for rows in selections[:4]}.isdisjoint(tuple(rows.tolist()) for rows in selections[4:])
    assert usage.tolist() == [2] * 100


@settings(deadline=None)
@given(seed=st.integers(0, 200), keep=st.sampled_from([0.1, 0.2, 0.25, 0.5]))
def test_factors_cover_every_factor_in_proportion_in_each_epoch(seed: int, keep: float) -> None:
    columns = pool(400, seed)
    factor = columns["factor"][columns["candidates"]]
    factors = len(np.unique(factor))
    for rows in run(evenly("factors"), columns, keep=keep, epochs=round(1 / keep), seed=seed)[0]:
        for j in np.unique(factor):
            held, fair = int((columns["factor"][rows] == j).sum()), keep * int((factor == j).sum())
            # A window of exact budget is off the width `keep` by at most factors / n; then floor or ceil.
            assert abs(held - fair) <= 1 + (factors + 1) * (factor == j).mean()


def test_factors_without_scores_is_rotation() -> None:
    columns = {**pool(), "factor": None, "representativeness": None, "diversity": None}
    ours, rotation = (run(evenly(name), columns, keep=0.4, epochs=6)[0] for name in ("factors", "rotation"))
    assert all(np.array_equal(a, b) for a, b in zip(ours, rotation, strict=True))


@pytest.mark.slow
@settings(deadline=None)
@given(seed=st.integers(0, 50), keep=st.floats(0.02, 1.0))
def test_class_quotas_are_equal_and_rotate_within_a_class(seed: int, keep: float) -> None:
    columns = pool(200, seed)
    labels, candidates = columns["label"], columns["candidates"]
    selections, usage = run(make_policy("factors", class_power=0.0), columns, keep=keep, epochs=7, seed=seed)
    for rows in selections:
        assert len(rows) == max(1, round(keep * len(candidates)))
        held = np.bincount(labels[rows], minlength=4)
        there = np.bincount(labels[candidates], minlength=4)
        assert held.max() <= held[held < there].min(initial=10**9) + 1
    for label in np.unique(labels[candidates]):
        assert spread(usage, candidates[labels[candidates] == label]) <= 1


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 50), keep=st.floats(0.02, 1.0), batch=st.sampled_from([1, 30, 90, 10**6]), bits=st.booleans()
)
def test_classes_in_batches_and_as_sets_are_those_by_hand(
    monkeypatch: pytest.MonkeyPatch, seed: int, keep: float, batch: int, bits: bool
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 64)
    monkeypatch.setattr(quotas, "BATCH_ROWS", batch)
    columns = pool(200, seed)
    labels, candidates = columns["label"], columns["candidates"]
    if bits:
        columns = {**columns, "candidates": RowSet.from_ids(candidates, 200)}
    context = SelectionContext(3, 8, keep, seed, **columns)
    found = make_policy("random", class_power=0.5).select(context)
    slow = []
    for label, quota in class_quotas(labels[candidates], context.budget, 0.5, 3).items():
        inside = {**columns, "candidates": candidates[labels[candidates] == label]}
        slow += ids_of(make_policy("random").select(SelectionContext(3, 8, keep, seed, **inside, quota=quota))).tolist()
    assert ids_of(found).tolist() == sorted(slow)


@pytest.mark.parametrize("bits", [False, True])
def test_factors_looks_at_everything_at_once(bits: bool) -> None:
    """Doubt, copies, classes and factors: as arrays, and as sets in chunks."""
    columns = pool(400, 1)
    columns["doubt"] = np.linspace(0, 1, 400).astype(np.float16)
    columns["copies"], columns["copy"] = np.tile([2, 2], 200).astype(np.int8), np.tile([0, 1], 200).astype(np.int8)
    candidates, label = columns["candidates"], columns["label"]
    if bits:
        columns = {**columns, "candidates": RowSet.from_ids(candidates, 400)}
    believed = candidates[columns["doubt"][candidates] <= 0.25]
    chosen, usage = run(make_policy("factors"), columns, keep=0.2, epochs=6)
    assert not usage[np.setdiff1d(np.arange(400), believed)].any()
    for rows in chosen:
        assert len(rows) == round(0.2 * len(candidates))
        held, there = np.bincount(label[rows], minlength=4), np.bincount(label[believed], minlength=4)
        assert held.max() <= held[held < there].min(initial=10**9) + 1
    # A pair of copies has had its turns one after the other.
    turns = usage.astype(int) * 2 + columns["copy"]
    for of in np.unique(label[believed]):
        mine = turns[believed[label[believed] == of]]
        assert mine.max() - mine.min() <= 2


def test_class_quotas_need_labels() -> None:
    policy = make_policy("factors", class_power=0.0)
    with pytest.raises(InputError, match="needs label"):
        run(policy, {**pool(), "label": None}, keep=0.5, epochs=1)
    columns = pool()
    columns["label"][columns["candidates"][:3]] = -1
    with pytest.raises(InputError, match="3 of"):
        run(policy, columns, keep=0.5, epochs=1)


@pytest.mark.parametrize(("epoch", "alpha"), [(0, 0.0), (1, 0.25), (2, 0.75), (3, 1.0), (4, 1.0)])
def test_the_literal_score_equals_its_formula(epoch: int, alpha: float) -> None:
    columns = pool()
    columns["usage"] = np.arange(POOL, dtype=np.uint16) % 3
    policy = make_policy("scored", penalty=0.3, temperature=0.0)
    assert isinstance(policy, Scored)
    context = SelectionContext(epoch, 4, 0.4, 0, **columns)
    scores = policy.score(context, context.rows)
    for row, score in zip(columns["candidates"].tolist(), scores.tolist(), strict=True):
        r, d, u = (float(columns[name][row]) for name in ("representativeness", "diversity", "usage"))
        assert math.isclose(score, (1 - alpha) * r + alpha * d - 0.3 * u, abs_tol=1e-12)
    best = columns["candidates"][np.argsort(-scores)[: context.budget]]
    assert min(scores[np.isin(columns["candidates"], ids_of(policy.select(context)))]) == pytest.approx(
        min(scores[np.isin(columns["candidates"], best)])
    )


def test_gumbel_noise_draws_in_proportion_to_the_exponential_of_the_score() -> None:
    columns = pool(5)
    columns["candidates"] = np.arange(5)
    columns["representativeness"] = np.array([0.0, 0.25, 0.5, 0.75, 1.0], dtype=np.float32)
    policy = make_policy("scored", penalty=1.0, temperature=0.5)
    drawn = [ids_of(policy.select(SelectionContext(0, 2, 0.2, seed, **columns)))[0] for seed in range(6000)]
    expected = np.exp(columns["representativeness"] / 0.5)
    assert np.allclose(np.bincount(drawn, minlength=5) / 6000, expected / expected.sum(), atol=0.03)


@settings(deadline=None)
@given(
    rows=st.integers(2, 30),
    keep=st.floats(0.02, 1.0),
    penalty=st.sampled_from([0.05, 0.1, 0.25, 0.5, 1.0, 3.0]),
    ties=st.booleans(),
    seed=st.integers(0, 100),
)
def test_without_noise_usage_stays_within_the_proven_bound(
    rows: int, keep: float, penalty: float, ties: bool, seed: int
) -> None:
    columns = pool(rows, seed)
    if ties:
        columns["representativeness"] = np.round(columns["representativeness"] * 2) / 2
    candidates, epochs = columns["candidates"], 30
    r, d = (columns[name][candidates].astype(np.float64) for name in ("representativeness", "diversity"))
    alphas = [(1 - math.cos(math.pi * t / (epochs - 1))) / 2 for t in range(epochs)]
    rho = max(float(np.ptp((1 - a) * r + a * d)) for a in alphas)
    bound = math.ceil(rho / penalty) + 1
    usage = columns["usage"]
    policy = make_policy("scored", penalty=penalty, temperature=0.0)
    for epoch in range(epochs):
        usage[policy.select(SelectionContext(epoch, epochs, keep, seed, **columns))] += 1
        assert spread(usage, candidates) <= bound


def test_a_weak_penalty_does_let_usage_drift_apart() -> None:
    columns = pool()
    _, usage = run(make_policy("scored", penalty=0.05, temperature=0.0), columns, keep=0.1, epochs=30)
    assert spread(usage, columns["candidates"]) > 2  # the bound above is not met by rotation alone


def test_equal_scores_take_turns_at_chance_not_by_row_id() -> None:
    columns = {**pool(), "representativeness": np.ones(POOL), "diversity": np.ones(POOL)}
    first, second = run(make_policy("scored", temperature=0.0), columns, keep=0.3, epochs=2)[0]
    assert not np.array_equal(first, columns["candidates"][: len(first)])
    assert set(first.tolist()).isdisjoint(second.tolist())


def test_scored_needs_finite_scores() -> None:
    with pytest.raises(InputError, match="needs diversity"):
        run(make_policy("scored"), {**pool(), "diversity": None}, keep=0.5, epochs=1)
    with pytest.raises(InputError, match="not finite"):
        run(make_policy("scored"), {**pool(), "diversity": np.full(POOL, np.nan)}, keep=0.5, epochs=1)


def test_unknown_policies_and_options_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="static_random"):
        make_policy("rotaton")
    with pytest.raises(UsageError, match="temprature"):
        make_policy("scored", temprature=1.0)
    for options in cast("list[dict[str, Any]]", [{"penalty": 0.0}, {"temperature": -1.0}]):
        with pytest.raises(UsageError, match="penalty > 0"):
            make_policy("scored", **options)


@pytest.mark.parametrize(("keep", "epochs"), [(0.0, 3), (1.5, 3), (float("nan"), 3), (0.5, 0)])
def test_bad_schedules_are_refused(keep: float, epochs: int) -> None:
    with pytest.raises(UsageError, match="keep"):
        SelectionContext(0, epochs, keep, 0, **pool())


def test_no_candidates_is_refused() -> None:
    with pytest.raises(InputError, match="no candidates"):
        SelectionContext(0, 3, 0.5, 0, **{**pool(), "candidates": np.zeros(0, dtype=np.int64)})


def test_factors_sets_aside_rows_whose_label_is_doubted() -> None:
    columns = pool()
    columns["doubt"] = np.where(np.arange(POOL) % 3 == 0, 0.3, 0.2).astype(np.float16)
    believed = columns["candidates"][columns["candidates"] % 3 != 0]
    selections, _ = run(make_policy("factors"), columns, keep=0.3, epochs=6)
    assert all(np.isin(rows, believed).all() for rows in selections)
    assert [len(rows) for rows in selections] == [round(0.3 * len(columns["candidates"]))] * 6
    _, usage = run(make_policy("factors", max_doubt=1.0), columns, keep=0.3, epochs=12)
    assert (usage[columns["candidates"]] > 0).all()
    # Where everybody is doubted, nobody is set aside.
    everybody = {**columns, "doubt": np.ones(POOL)}
    assert len(run(make_policy("factors"), everybody, keep=0.3, epochs=1)[0][0]) > 0


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(1, 30000)), min_size=1, max_size=20))
def test_turns_are_those_of_a_plain_loop(rows: list[tuple[int, int]]) -> None:
    usage = np.array([u for u, _ in rows], np.uint16)
    copies = np.array([m for _, m in rows], np.int16)
    copy = np.array([m - 1 for _, m in rows], np.int16)
    expected = [u * m + m - 1 for u, m in rows]
    assert turns_taken(RowSet.full(len(rows)), usage, copies, copy).tolist() == expected
    some = np.arange(0, len(rows), 2)
    assert turns_taken(some, usage, copies, copy)[some].tolist() == expected[::2]
    assert turns_taken(some, usage % 4, np.ones_like(copies), np.zeros_like(copy)).dtype == np.uint16


@pytest.mark.parametrize("keep", [0.1, 0.3])
def test_copies_share_the_visits_of_one_row(keep: float) -> None:
    rows = 120
    columns = {**pool(rows), "candidates": np.arange(rows), "factor": None}
    columns["copies"] = np.where(np.arange(rows) < 40, 4, 1)  # ten groups of four, then 80 lone rows
    columns["copy"] = np.where(np.arange(rows) < 40, np.arange(rows) % 4, 0)
    epochs = round(9 / keep)
    _, usage = run(make_policy("factors", quota_power=1.0), columns, keep=keep, epochs=epochs)
    groups = usage[:40].reshape(10, 4)
    assert np.ptp(groups, axis=1).max() <= 1  # members take their turns one after the other
    assert spread(np.concatenate([groups.sum(axis=1), usage[40:]]), np.arange(90)) <= 1
    _, alone = run(make_policy("factors", quota_power=1.0, share_copies=False), columns, keep=keep, epochs=epochs)
    assert spread(alone, np.arange(rows)) <= 1


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), power=st.floats(0, 1), data=st.data())
def test_quotas_grow_with_a_power_of_the_size(sizes: list[int], power: float, data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    budget = data.draw(st.integers(1, sum(sizes)))
    quotas = class_quotas(labels, budget, power)
    assert sum(quotas.values()) == budget
    # The slow way: raise one level until the classes, each up to its size, hold the budget.
    low, high = 0.0, float(sum(sizes))
    for _ in range(200):
        level = (low + high) / 2
        held = sum(min(n, level * n**power) for n in sizes)
        low, high = (level, high) if held < budget else (low, level)
    for c, n in enumerate(sizes):
        assert abs(quotas.get(c, 0) - min(n, high * n**power)) < 1 + 1e-6


@settings(deadline=None, max_examples=30)
@given(keep=st.sampled_from([0.1, 0.3, 0.6, 0.9]), seed=st.integers(0, 99))
def test_infobatch_keeps_what_is_hard_and_stays_unbiased(keep: float, seed: int) -> None:
    columns = pool(400, seed)
    columns["loss"] = np.random.default_rng(seed).exponential(1.0, 400).astype(np.float32)
    policy, values = make_policy("infobatch", tail=0.0), np.random.default_rng(seed + 1).random(400)
    candidates, loss = columns["candidates"], columns["loss"]
    estimates = []
    for epoch in range(300):
        context = SelectionContext(epoch, 400, keep, seed, **columns)
        rows = ids_of(policy.select(context))
        weights = policy.weights(context, rows)
        assert weights is not None and len(rows) == context.budget
        estimates.append(float((weights * values[rows]).mean()))
    low = loss[rows] < loss[candidates].mean()
    of_low, of_high = low.sum() / (loss[candidates] < loss[candidates].mean()).sum(), (~low).sum()
    assert of_low <= of_high / (loss[candidates] >= loss[candidates].mean()).sum() + 0.02
    assert np.mean(estimates) == pytest.approx(values[candidates].mean(), abs=5 * np.std(estimates) / 300**0.5 + 1e-3)


def test_inverse_chances_undo_class_quotas() -> None:
    columns = pool(2000)
    policy = make_policy("random", class_power=0.0, unbiased=True)
    values = columns["label"].astype(np.float64)
    estimates = []
    for epoch in range(200):
        context = SelectionContext(epoch, 200, 0.1, 0, **columns)
        rows = ids_of(policy.select(context))
        weights = policy.weights(context, rows)
        assert weights is not None
        estimates.append(float((weights * values[rows]).mean()))
    assert np.mean(estimates) == pytest.approx(values[columns["candidates"]].mean(), abs=0.01)
    assert make_policy("rotation", unbiased=True).weights(context, rows) == pytest.approx(1.0)


@pytest.mark.parametrize("batch", [1, 30, 90, 10**6])
def test_each_class_is_passed_on_once(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """However many classes are looked at together; a class without rows in this epoch only when it is asked for."""
    monkeypatch.setattr(quotas, "BATCH_ROWS", batch)
    columns = {**pool(200), "label": np.repeat([0, 1, 3, 4], [150, 40, 9, 1])}
    context = SelectionContext(0, 8, 3 / 160, 0, **columns)
    for idle in (False, True):
        parts = list(quotas.class_parts(context, 1.0, [context.budget], idle=idle))
        assert [label for label, _ in parts] == ([0, 1, 3, 4] if idle else [0, 1])
        for label, part in parts:
            of_class = columns["candidates"][columns["label"][columns["candidates"]] == label]
            assert np.array_equal(ids_of(part.candidates), of_class) and part.part == label
    policy = make_policy("rotation", class_power=1.0)
    assert policy.drawable(context) == len(columns["candidates"])
    # Rows of classes that have none in this epoch have their chance in others.
    assert policy.inclusion(context, columns["candidates"]) == pytest.approx(np.full(160, 3 / 160))


# Of each option values that are just taken, and values that are just refused.
OPTIONS: list[tuple[str, str, tuple[float, ...], tuple[float, ...]]] = [
    ("factors", "max_doubt", (0, 1), (-1e-9, 1 + 1e-9, math.nan)),
    ("factors", "quota_power", (0, 1), (-1e-9, 1 + 1e-9, math.nan)),
    ("rotation", "class_power", (0, 1), (-1e-9, 1 + 1e-9, math.nan)),
    ("scored", "penalty", (1e-9, 99), (0, -1e-9)),
    ("scored", "temperature", (0, 99), (-1e-9,)),
    ("infobatch", "tail", (0, 1 - 1e-9), (-1e-9, 1, math.nan)),
    ("infobatch", "least", (1e-9, 1), (0, -1e-9, 1 + 1e-9, math.nan)),
    ("rho_loss", "large_batch", (1, 99), (0,)),
    ("order_dp", "exploitation", (1e-9, 1), (0, -1e-9, 1 + 1e-9, math.nan)),
    ("repb", "least", (1e-9, 1), (0, -1e-9, 1 + 1e-9, math.nan)),
    ("rcap", "beta", (1e-9, 99), (0, -1e-9, math.nan)),
    ("seta", "clusters", (1, 99), (0,)),
    ("seta", "window", (1e-9, 1), (0, -1e-9, 1 + 1e-9, math.nan)),
    ("seta", "annealing", (0, 1), (-1e-9, 1 + 1e-9, math.nan)),
]


@pytest.mark.parametrize(("policy", "option", "taken", "refused"), OPTIONS)
def test_options_reach_to_their_bounds_and_no_further(
    policy: str, option: str, taken: tuple[float, ...], refused: tuple[float, ...]
) -> None:
    def make(value: Any) -> Policy:
        return make_policy(policy, **{option: value})

    assert all(make(value).name == policy for value in taken)
    for value in refused:
        with pytest.raises(UsageError, match="need"):
            make(value)


@pytest.mark.parametrize("field", ["first", "last", "full_tail"])
def test_kept_shares_reach_to_their_bounds_and_no_further(field: str) -> None:
    for value in (0.0, 1.0) if field == "full_tail" else (1e-9, 1.0):
        assert getattr(KeptShares(**{"first": 0.5, field: value}), field) == value
    for value in (-1e-9, 1 + 1e-9, math.nan, *((0.0,) if field != "full_tail" else ())):
        with pytest.raises(UsageError, match="kept shares in"):
            KeptShares(**{"first": 0.5, field: value})
    assert SelectionContext(0, 1, 1.0, 0, **pool()).budget == len(pool()["candidates"])


def test_classes_of_one_size_take_turns_from_the_first_on() -> None:
    labels = np.array([0, 1, 1, 0, 2, 2])
    assert [class_quotas(labels, 1, epoch=epoch) for epoch in range(4)] == [{0: 1}, {1: 1}, {2: 1}, {0: 1}]
    assert class_quotas(labels, 1) == {0: 1}
    # In equal parts unless told otherwise.
    assert class_quotas(np.repeat([0, 1], [90, 10]), 40) == {0: 30, 1: 10}


def test_a_policy_of_ones_own_is_found_by_module_and_class() -> None:
    assert make_policy("coevo_ray.core.selection.policies.baselines:Random").name == "random"
    for name in ("coevo_ray.nowhere:Random", "coevo_ray.errors:Nothing", "coevo_ray.errors", ":Random"):
        with pytest.raises(UsageError, match="unknown policy"):
            make_policy(name)
    with pytest.raises(UsageError, match="subclass"):
        make_policy("builtins:dict")


@pytest.mark.parametrize("name", POLICIES)
def test_what_a_policy_needs_and_has_not_is_named(name: str) -> None:
    for missing in make_policy(name).needs:
        with pytest.raises(InputError, match=missing):
            make_policy(name).select(SelectionContext(0, 4, 0.5, 0, **{**pool(), missing: None}))


def test_no_doubt_at_all_is_let_through_where_none_may_be() -> None:
    columns = {**pool(), "doubt": np.where(np.arange(POOL) % 2, 0.0, 0.01)}
    chosen = ids_of(make_policy("factors", max_doubt=0.0).select(SelectionContext(0, 4, 0.2, 0, **columns)))
    assert len(chosen) and (chosen % 2 == 1).all()


def test_scores_of_two_epochs_go_from_one_end_to_the_other() -> None:
    policy = make_policy("scored", temperature=0.0)
    assert isinstance(policy, Scored)
    rows, columns = pool()["candidates"], pool()
    for epoch, name in enumerate(("representativeness", "diversity")):
        found = policy.score(SelectionContext(epoch, 2, 0.2, 0, **columns), rows)
        assert found == pytest.approx(columns[name][rows].astype(np.float64), abs=1e-12)
