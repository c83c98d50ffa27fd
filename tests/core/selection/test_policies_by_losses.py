"""RHO-LOSS, OrderDP, RePB, RCAP and SeTa against their papers' formulas in plain loops, and what they claim."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Float64Array, Int64Array
from coevo_ray.core.rows import chunks
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.core.rows.row_set import RowSet, ids_of
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.losses import relative_losses
from coevo_ray.core.selection.policies import RCAP, KeptShares, OrderDP, Policy, RhoLoss, SelectionContext, SeTa
from coevo_ray.core.selection.policies import make_policy as make
from coevo_ray.core.selection.policies.groups import divided
from coevo_ray.core.selection.policies.order_dp import order_chances
from coevo_ray.core.selection.policies.rcap import class_rows
from coevo_ray.core.selection.policies.seta import loss_clusters
from coevo_ray.core.selection.rotation import noise, stream_seed
from coevo_ray.errors import InputError, UsageError

NAMES = ("rho_loss", "order_dp", "repb", "rcap", "seta")
CLASSES = 4
cases = settings(deadline=None, max_examples=40)


def columns(rows: int, seed: int, unseen: float = 0.2, ties: bool = False) -> dict[str, Any]:
    """A pool whose every fifth row is no candidate; some rows have no loss, and losses may be few values."""
    random = np.random.default_rng(seed)
    loss = random.exponential(1.0, rows)
    loss = np.round(2 * loss) / 2 if ties else loss
    hidden = random.random(rows) < unseen
    candidates = np.flatnonzero(np.arange(rows) % 5 != 0).astype(np.int64)
    last = random.permutation(candidates)[: max(1, len(candidates) // 3)]
    return {
        "candidates": candidates,
        "usage": random.integers(0, 4, rows).astype(np.uint8),
        "label": np.minimum(random.geometric(0.5, rows) - 1, CLASSES - 1),
        "loss": np.where(hidden, np.nan, loss).astype(np.float16),
        "relative_loss": np.where(hidden, np.nan, random.normal(size=rows)).astype(np.float16),
        "irreducible": random.exponential(1.0, rows).astype(np.float16),
        "last": RowSet.from_ids(np.sort(last), rows),
    }


def context_of(given: dict[str, Any], *, epoch: int = 3, epochs: int = 10, keep: float, seed: int) -> SelectionContext:
    return SelectionContext(epoch, epochs, keep, seed, **given)


def by_hash(rows: list[int], seed: int) -> list[int]:
    """Rows in the order of their hash."""
    keys = dict(zip(rows, hash_rows(np.array(rows, np.int64), seed).tolist(), strict=True))
    return sorted(rows, key=keys.__getitem__)


def largest(rows: list[int], value: Callable[[int], float], count: int, tie_seed: int) -> list[int]:
    """The rows with the largest values, of equal ones those with the smallest hash."""
    return sorted(by_hash(rows, tie_seed), key=lambda row: -value(row))[:count]


def slow_division(budget: int, shares: list[float], sizes: list[int]) -> list[int]:
    """Groups taken whole one round after the other; then the largest remainders."""
    parts = [0.0] * len(sizes)
    full: set[int] = {g for g in range(len(sizes)) if sizes[g] == 0}
    while len(full) < len(sizes):
        left = budget - sum(sizes[g] for g in full)
        mine = {g: shares[g] for g in range(len(sizes)) if g not in full}
        if sum(mine.values()) == 0:
            mine = {g: float(sizes[g]) for g in mine}
        parts = [float(sizes[g]) if g in full else left * mine[g] / sum(mine.values()) for g in range(len(sizes))]
        over = {g for g in mine if parts[g] >= sizes[g]}
        if not over:
            break
        full |= over
    parts = [min(part, size) for part, size in zip(parts, sizes, strict=True)]
    whole = [math.floor(part + 1e-9) for part in parts]
    for g in sorted(range(len(sizes)), key=lambda g: round(whole[g] - parts[g], 9)) * 2:
        if sum(whole) < budget and whole[g] < sizes[g]:
            whole[g] += 1
    return whole


def loss_or_uniform(given: dict[str, Any], row: int) -> float:
    loss = float(given["loss"][row])
    return math.log(max(2, int(given["label"].max()) + 1)) if math.isnan(loss) else loss


# -- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@cases
@given(rows=st.integers(3, 200), keep=st.floats(0.01, 1.0), seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
def test_repeats_and_forms_of_the_candidates_change_nothing(
    name: str, rows: int, keep: float, seed: int, epoch: int
) -> None:
    given, policy = columns(rows, seed % 97), make(name)

    def selected(of: Policy, **changed: Any) -> Int64Array:
        return ids_of(of.select(context_of({**given, **changed}, epoch=epoch, keep=keep, seed=seed)))

    context, chosen = context_of(given, epoch=epoch, keep=keep, seed=seed), selected(policy)
    assert len(chosen) == len(set(chosen.tolist())) == context.budget == policy.rows_planned(context)
    assert np.isin(chosen, given["candidates"]).all()
    assert np.array_equal(selected(make(name)), chosen)
    assert np.array_equal(selected(policy, candidates=RowSet.from_ids(given["candidates"], rows)), chosen)
    # What is known of other rows does not matter.
    others = {name: given[name].copy() for name in ("usage", "loss", "relative_loss", "irreducible")}
    for values in others.values():
        values[np.setdiff1d(np.arange(rows), given["candidates"])] = 7
    assert np.array_equal(selected(policy, **others), chosen)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 3000
    given = columns(rows, 1, ties=True)
    context = context_of({**given, "candidates": RowSet.from_ids(given["candidates"], rows)}, keep=0.3, seed=5)
    whole = ids_of(make(name).select(context))
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 64)
    assert np.array_equal(ids_of(make(name).select(context)), whole)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_policy_needs_is_named(name: str) -> None:
    given = columns(30, 0)
    for missing in make(name).needs:
        with pytest.raises(InputError, match=missing):
            make(name).select(context_of({**given, missing: None}, keep=0.5, seed=0))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rho_loss", {"large_batch": 0}),
        ("order_dp", {"exploitation": 0}),
        ("order_dp", {"exploitation": 1.1}),
        ("repb", {"least": 0}),
        ("rcap", {"beta": 0}),
        ("rcap", {"beta": math.nan}),
        ("seta", {"clusters": 0}),
        ("seta", {"window": 0}),
        ("seta", {"annealing": 2}),
    ],
)
def test_options_out_of_bounds_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{name}: .*{next(iter(options))}"):
        make(name, **options)


def ledger_of(policy: Policy, rows: int, keep: float | KeptShares, epochs: int, seed: int = 0) -> SelectionLedger:
    given = columns(rows, seed)
    made = SelectionLedger(
        rows=rows, candidates=np.arange(rows) % 5 != 0, policy=policy, keep=keep, epochs=epochs, seed=seed
    )
    made.set_labels(given["label"])
    made.set_doubt(np.zeros(rows), given["irreducible"])
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shares", [KeptShares(0.3), KeptShares(0.9, 0.2), KeptShares(0.4, full_tail=0.25)])
def test_counted_visits_are_those_of_the_plan(name: str, shares: KeptShares) -> None:
    rows, epochs = 300, 12
    made, random = ledger_of(make(name), rows, shares, epochs), np.random.default_rng(0)
    n = int((np.arange(rows) % 5 != 0).sum())
    planned = [max(1, round(shares.at(epoch, epochs) * n)) for epoch in range(epochs)]
    for epoch in range(epochs):
        chosen = made.select(epoch).row_ids
        made.report_losses(epoch, chosen, random.exponential(0.9**epoch, len(chosen)))
        made.commit(epoch)
        assert len(chosen) == planned[epoch]
    assert int(made.usage().sum()) == sum(planned)
    assert made.usage()[np.arange(rows) % 5 == 0].sum() == 0


@cases
@given(data=st.data())
def test_a_budget_is_divided_as_by_the_slow_loop(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any))
    shares = data.draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 2.5, 7.0]), min_size=len(sizes), max_size=len(sizes)))
    budget = data.draw(st.integers(1, sum(sizes)))
    got = divided(budget, np.array(shares), np.array(sizes)).tolist()
    assert got == slow_division(budget, shares, sizes)
    assert sum(got) == budget
    assert all(0 <= g <= size for g, size in zip(got, sizes, strict=True))


# -- RHO-LOSS ------------------------------------------------------------------------------------------------------


@cases
@given(rows=st.integers(3, 150), keep=st.floats(0.05, 1.0), seed=st.integers(0, 300), large=st.integers(1, 50))
def test_rho_loss_takes_the_largest_reducible_losses_of_each_large_batch(
    rows: int, keep: float, seed: int, large: int
) -> None:
    given = columns(rows, seed)
    context = context_of(given, keep=keep, seed=seed)
    shuffled = by_hash(given["candidates"].tolist(), stream_seed(seed, 7))
    batches = [shuffled[first : first + large] for first in range(0, len(shuffled), large)]
    sizes = [len(batch) for batch in batches]
    expected: list[int] = []
    for batch, count in zip(batches, slow_division(context.budget, [float(s) for s in sizes], sizes), strict=True):
        expected += largest(
            batch,
            lambda row: loss_or_uniform(given, row) - float(given["irreducible"][row]),
            count,
            stream_seed(seed, 8),
        )
    assert ids_of(RhoLoss(large).select(context)).tolist() == sorted(expected)


def test_rho_loss_ranks_wrong_labels_low_where_loss_ranks_them_high() -> None:
    """A learnt network and a reference both find a wrong label unlikely; what is not learnt only the network does."""
    rows, random = 2000, np.random.default_rng(0)
    wrong, hard = np.arange(rows) < 400, (np.arange(rows) >= 400) & (np.arange(rows) < 1000)
    loss = np.where(wrong, 3.0, np.where(hard, 2.0, 0.1)) + 0.1 * random.random(rows)
    irreducible = np.where(wrong, 3.0, 0.2) + 0.1 * random.random(rows)
    given = {
        "candidates": np.arange(rows),
        "usage": np.ones(rows, np.uint8),
        "label": np.arange(rows) % 10,
        "loss": loss,
        "irreducible": irreducible,
    }
    context = context_of(given, keep=0.2, seed=0)
    rho, naive = ids_of(make("rho_loss").select(context)), ids_of(make("loss").select(context))
    assert hard[rho].all()
    assert wrong[naive].all()
    # Before any loss is known, too: all have ln C, and the reference alone decides.
    unseen = {**given, "loss": np.full(rows, np.nan)}
    assert not wrong[ids_of(make("rho_loss").select(context_of(unseen, epoch=0, keep=0.2, seed=0)))].any()


# -- OrderDP -------------------------------------------------------------------------------------------------------


@cases
@given(rows=st.integers(3, 150), keep=st.floats(0.05, 1.0), seed=st.integers(0, 300), q_of_s=st.floats(0.1, 1.0))
def test_order_dp_takes_the_largest_losses_of_random_rows(rows: int, keep: float, seed: int, q_of_s: float) -> None:
    given, policy = columns(rows, seed), OrderDP(q_of_s)
    context = context_of(given, keep=keep, seed=seed)
    n, q = len(given["candidates"]), context.budget
    s = min(max(q, round(q / q_of_s)), math.ceil((q + n) / 2))
    explored = by_hash(given["candidates"].tolist(), stream_seed(seed, 7))[:s]

    def value(row: int) -> float:
        loss = float(given["loss"][row])
        return math.inf if math.isnan(loss) else loss

    assert ids_of(policy.select(context)).tolist() == sorted(largest(explored, value, q, stream_seed(seed, 7) + 1))


@given(n=st.integers(1, 14), data=st.data())
def test_chances_of_ranks_are_those_of_theorem_1(n: int, data: st.DataObject) -> None:
    s = data.draw(st.integers(1, n))
    q = data.draw(st.integers(1, s))
    gamma = []
    for j in range(1, n + 1):
        terms = [
            Fraction(math.comb(j - 1, k - 1) * math.comb(n - j, s - k), math.comb(n, s))
            for k in range(max(1, s - n + j), min(q, j) + 1)
        ]
        gamma.append(float(sum(terms)))
    assert order_chances(n, s, q) == pytest.approx(gamma, abs=1e-12)
    assert sum(gamma) == pytest.approx(q)


def test_order_dp_selects_each_rank_as_often_as_its_chance() -> None:
    n, runs = 40, 4000
    given = {"candidates": np.arange(n), "usage": np.zeros(n, np.uint8), "loss": np.arange(n)[::-1] / 10}
    given["loss"][30:] = 0.5  # ten rows of one loss share their ranks' chances
    policy, counts = OrderDP(), np.zeros(n)
    for seed in range(runs):
        context = context_of(given, keep=0.3, seed=seed)
        counts[ids_of(policy.select(context))] += 1
    chances = policy.inclusion(context, np.arange(n))
    assert policy.explored(context) == 20 and context.budget == 12
    assert np.abs(counts / runs - chances).max() < 5 * 0.5 / runs**0.5
    assert chances.sum() == pytest.approx(12) and np.ptp(chances[30:]) == 0
    assert (np.diff(chances[:30]) <= 1e-12).all()
    assert chances[0] == pytest.approx(0.5), "the largest loss is taken whenever it is drawn"


def test_order_dp_with_inverse_chances_is_unbiased() -> None:
    n = 60
    given = {"candidates": np.arange(n), "usage": np.zeros(n, np.uint8), "loss": np.random.default_rng(0).random(n)}
    policy, values = make("order_dp", unbiased=True, exploitation=0.9), np.random.default_rng(1).random(n)
    estimates, chances = [], OrderDP(0.9).inclusion(context_of(given, keep=0.5, seed=0), np.arange(n))
    for seed in range(4000):
        context = context_of(given, keep=0.5, seed=seed)
        rows = ids_of(policy.select(context))
        weights = policy.weights(context, rows)
        assert weights is not None
        estimates.append(float((weights * values[rows]).mean()))
    # Rows that are never taken are the ones no weight makes up for.
    expected = values[chances > 0].sum() / n
    assert np.mean(estimates) == pytest.approx(expected, abs=5 * np.std(estimates) / 4000**0.5)
    assert make("order_dp").weights(context, rows) is None


# -- RePB ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 9) | st.just(math.nan), max_size=40), st.integers(1, 12))
@example([1.0, 2.0, math.nan], 2)
def test_losses_are_relative_to_the_mean_of_their_window(losses: list[float], window: int) -> None:
    expected = []
    for i, loss in enumerate(losses):
        first = i // window * window
        known = [x for x in losses[first : first + window] if not math.isnan(x)]
        expected.append(math.nan if math.isnan(loss) else loss - sum(known) / len(known))
    assert relative_losses(np.array(losses), window) == pytest.approx(expected, nan_ok=True, abs=1e-12)


@cases
@given(rows=st.integers(3, 150), keep=st.floats(0.02, 1.0), seed=st.integers(0, 300))
def test_repb_keeps_what_is_above_its_window_and_draws_the_rest(rows: int, keep: float, seed: int) -> None:
    given = columns(rows, seed)
    context = context_of(given, keep=keep, seed=seed)
    candidates, budget = given["candidates"].tolist(), context.budget
    last = set(ids_of(given["last"]).tolist())
    stays = [row for row in candidates if row in last and float(given["relative_loss"][row]) >= 0]
    others = [row for row in candidates if row not in stays]
    chance = dict(zip(candidates, noise(np.array(candidates), seed, 4).tolist(), strict=True))
    drawn = max(1, round(0.1 * budget))
    certain = min(len(stays), budget - min(drawn, len(others)))
    expected = sorted(stays, key=chance.__getitem__)[:certain]
    expected += sorted(others, key=chance.__getitem__)[: budget - certain]
    policy = make("repb")
    chosen = ids_of(policy.select(context))
    assert chosen.tolist() == sorted(expected)
    # Cumulative temporal reweighting: E / N_i(E), E counted from 1 and this epoch's selection among N_i.
    weights = [4 / (int(given["usage"][row]) + 1) for row in chosen.tolist()]
    assert policy.weights(context, chosen) == pytest.approx(np.array(weights) / np.mean(weights), rel=1e-5)


def test_repb_compares_losses_within_windows_alone() -> None:
    """All losses fall in the course of an epoch: what came late is below the mean, and stays as often."""
    made = ledger_of(make("repb"), 2560, KeptShares(0.5), 3)
    order = np.random.default_rng(0).permutation(made.select(0).row_ids)
    falling = np.linspace(4, 0, 1024)
    assert len(order) == 1024
    made.report_losses(0, order, falling)
    made.commit(0)
    taken = np.isin(order, made.select(1).row_ids).reshape(4, 256)
    # A window's first half, which has the larger losses of it, stays; the others have their chance, in each alike.
    assert taken[:, :128].all()
    share = (1024 - 4 * 128) / (2048 - 4 * 128)
    assert taken[:, 128:].mean(axis=1) == pytest.approx([share] * 4, abs=4 * 0.5 / 128**0.5)


@pytest.mark.parametrize("loss", [0.0, 1.0])
def test_repb_never_ceases_to_draw(loss: float) -> None:
    """Where all losses are equal, all rows of an epoch would stay for ever."""
    made = ledger_of(make("repb"), 100, KeptShares(0.2), 60)
    for epoch in range(60):
        chosen = made.select(epoch).row_ids
        made.report_losses(epoch, chosen, np.full(len(chosen), loss))
        made.commit(epoch)
    assert (made.usage()[np.arange(100) % 5 != 0] > 0).mean() > 0.7


# -- RCAP ----------------------------------------------------------------------------------------------------------


@cases
@given(rows=st.integers(3, 150), keep=st.floats(0.02, 1.0), seed=st.integers(0, 300), beta=st.sampled_from([0.3, 1, 3]))
def test_rcap_draws_by_the_closed_form_and_the_softmax(rows: int, keep: float, seed: int, beta: float) -> None:
    given = columns(rows, seed)
    context = context_of(given, keep=keep, seed=seed)
    candidates, top = given["candidates"].tolist(), math.log(max(2, int(given["label"].max()) + 1))
    clipped = {row: min(max(loss_or_uniform(given, row), 0.0), top) for row in candidates}
    members = [[row for row in candidates if given["label"][row] == c] for c in range(CLASSES)]
    means = [sum(clipped[row] for row in mine) / max(1, len(mine)) for mine in members]
    shares = [math.sqrt(mean * len(mine) / len(candidates)) for mean, mine in zip(means, members, strict=True)]
    counts = slow_division(context.budget, shares, [len(mine) for mine in members])
    u = dict(zip(candidates, noise(np.array(candidates), seed, 4).tolist(), strict=True))
    expected: list[int] = []
    for mine, count in zip(members, counts, strict=True):
        expected += largest(mine, lambda row: clipped[row] / beta - math.log(-math.log(u[row])), count, 0)
    assert ids_of(RCAP(beta).select(context)).tolist() == sorted(expected)


def test_the_closed_form_is_the_minimum_that_it_claims() -> None:
    """No rows moved from one class to another lower sum_c P_c L_c / b_c, up to rounding."""
    random = np.random.default_rng(0)
    labels = random.choice(3, 3000, p=[0.7, 0.2, 0.1]).astype(np.int64)
    losses = random.exponential(1.0, 3000) * np.array([0.3, 1.0, 2.0])[labels]
    sizes, budget = np.bincount(labels), 300
    rows = class_rows(labels, losses, budget)
    risks = np.bincount(labels, weights=losses) / 3000

    def objective(b: npt.NDArray[Any]) -> float:
        return float((risks / b).sum())

    exact = budget * np.sqrt(risks) / np.sqrt(risks).sum()
    assert np.abs(rows - exact).max() < 1 and (rows <= sizes).all()
    for a in range(3):
        for b in range(3):
            moved = rows.copy()
            moved[a] += 3
            moved[b] -= 3
            assert a == b or objective(moved) > objective(rows)


def test_rcap_favours_classes_and_rows_of_larger_loss() -> None:
    rows, random = 4000, np.random.default_rng(0)
    labels = np.arange(rows) % 4
    given = {
        "candidates": np.arange(rows),
        "usage": np.zeros(rows, np.uint8),
        "label": labels,
        "loss": random.random(rows) * np.array([0.1, 0.4, 0.9, 1.3])[labels],
    }
    chosen = ids_of(make("rcap", beta=0.3).select(context_of(given, keep=0.2, seed=0)))
    counts = np.bincount(labels[chosen])
    means = np.array([given["loss"][labels == c].mean() for c in range(4)])
    assert np.abs(counts - 800 * np.sqrt(means) / np.sqrt(means).sum()).max() < 1
    for c in (2, 3):
        mine = chosen[labels[chosen] == c]
        assert given["loss"][mine].mean() > 1.2 * means[c]
    # Equal losses: the square root of the sizes, so that a rare class has more than its share.
    rare = np.where(np.arange(rows) % 100 == 0, 1, 0)
    equal = {**given, "label": rare, "loss": np.full(rows, 0.5)}
    taken = np.bincount(rare[ids_of(make("rcap").select(context_of(equal, keep=0.1, seed=0)))])
    assert taken[1] == 37  # of 40: 400 sqrt(0.01) / (sqrt(0.01) + sqrt(0.99)) = 36.5, the larger remainder


def test_within_a_class_rcap_draws_by_the_softmax() -> None:
    losses = np.array([0.0, 0.2, 0.4, 0.6])
    given = {"candidates": np.arange(4), "usage": np.zeros(4, np.uint8), "label": np.zeros(4, np.int64), "loss": losses}
    drawn = [ids_of(RCAP(0.5).select(context_of(given, keep=0.25, seed=seed)))[0] for seed in range(6000)]
    expected = np.exp(losses / 0.5) / np.exp(losses / 0.5).sum()
    assert np.abs(np.bincount(drawn, minlength=4) / 6000 - expected).max() < 0.03


def test_a_class_of_one_row_has_that_rows_loss() -> None:
    # Of two rows sqrt(1 / 10) / (sqrt(1 / 10) + sqrt(0.6 x 9 / 10)), 0.6, are of class 1.
    assert class_rows(np.repeat([0, 1], [9, 1]), np.array([0.6] * 9 + [1.0]), 2).tolist() == [1, 1]
    assert slow_division(2, [math.sqrt(0.54), math.sqrt(0.1)], [9, 1]) == [1, 1]


def test_rcap_takes_negative_losses_for_none() -> None:
    given = columns(80, 1)
    given["loss"] = np.where(np.arange(80) % 3 == 0, np.float16(-2), given["loss"])
    none = {**given, "loss": np.where(given["loss"] < 0, np.float16(0), given["loss"])}
    chosen, expected = (ids_of(make("rcap").select(context_of(of, keep=0.3, seed=2))).tolist() for of in (given, none))
    assert chosen == expected


def test_rcap_refuses_candidates_without_a_label() -> None:
    given = columns(50, 0)
    given["label"][given["candidates"][:2]] = -1
    with pytest.raises(InputError, match="2 of 40"):
        make("rcap").select(context_of(given, keep=0.5, seed=0))


# -- SeTa ----------------------------------------------------------------------------------------------------------


@cases
@given(
    losses=st.lists(st.sampled_from([0.0, 0.1, 0.11, 0.5, 1.0, 1.2, 3.0, 9.0]) | st.floats(0, 10), min_size=1),
    k=st.integers(1, 10),
)
def test_clusters_are_a_fixed_point_of_k_means(losses: list[float], k: int) -> None:
    ranges = loss_clusters(np.array(losses), k)
    assert 1 <= len(ranges) <= min(k, len(set(losses)))
    members = [[x for x in losses if low <= x <= high] for low, high in ranges.tolist()]
    assert sorted(x for mine in members for x in mine) == sorted(losses)
    centres = [sum(mine) / len(mine) for mine in members]
    for mine, centre in zip(members, centres, strict=True):
        for x in mine:
            assert abs(x - centre) <= min(abs(x - other) for other in centres) + 1e-9


@cases
@given(
    rows=st.integers(3, 150),
    keep=st.floats(0.02, 1.0),
    seed=st.integers(0, 300),
    epoch=st.integers(0, 9),
    ties=st.booleans(),
)
def test_seta_draws_from_its_window(rows: int, keep: float, seed: int, epoch: int, ties: bool) -> None:
    given, policy = columns(rows, seed, ties=ties), SeTa(clusters=4, window=0.5)
    context = context_of(given, epoch=epoch, keep=keep, seed=seed)
    candidates = given["candidates"].tolist()
    known = [float(given["loss"][row]) for row in candidates if not math.isnan(float(given["loss"][row]))]
    chosen = ids_of(policy.select(context)).tolist()
    if epoch >= 10 - round(0.125 * 10) or not known:
        assert policy.window(context) is None
        assert chosen == sorted(by_hash(candidates, stream_seed(seed, epoch + 1))[: context.budget])
        return
    ranges = loss_clusters(np.array(known), 4).tolist()
    width = max(1, round(0.5 * len(ranges)))
    start = epoch % (len(ranges) - width + 1)
    low, high = ranges[start][0], ranges[start + width - 1][1]

    def nearness(row: int) -> float:
        loss = float(given["loss"][row])
        return 0.0 if math.isnan(loss) or low <= loss <= high else -max(low - loss, loss - high)

    assert chosen == sorted(largest(candidates, nearness, context.budget, stream_seed(seed, epoch + 1)))


def test_the_window_of_seta_moves_from_easy_to_hard_and_begins_anew() -> None:
    rows = 5000
    losses = np.random.default_rng(0).uniform(0, 3, rows)
    given = {"candidates": np.arange(rows), "usage": np.zeros(rows, np.uint8), "loss": losses}
    policy = make("seta")
    means = []
    for epoch in range(40):
        chosen = ids_of(policy.select(context_of(given, epoch=epoch, epochs=40, keep=0.3, seed=0)))
        means.append(losses[chosen].mean())
    # 10 clusters, 5 of them in the window: six places, 0.3 apart.
    for first in range(0, 30, 6):
        assert (np.diff(means[first : first + 6]) > 0.2).all()
        assert means[first] == pytest.approx(0.75, abs=0.1) and means[first + 5] == pytest.approx(2.25, abs=0.1)
    # The last eighth, partial annealing: random rows of all.
    assert means[35:] == pytest.approx([1.5] * 5, abs=0.1)


def test_a_window_with_too_few_rows_takes_the_nearest_too() -> None:
    losses = np.concatenate([np.full(90, 0.01), np.linspace(1, 3, 10)])
    given = {"candidates": np.arange(100), "usage": np.zeros(100, np.uint8), "loss": losses}
    policy = SeTa(clusters=4, window=0.5, annealing=0)
    context = context_of(given, epoch=2, keep=0.3, seed=0)
    window = policy.window(context)
    assert window is not None and window[0] > 1
    chosen = ids_of(policy.select(context))
    assert set(range(90, 100)) <= set(chosen.tolist()) and len(chosen) == 30


def chances(policy: str, given: dict[str, Any], rows: Int64Array, runs: int) -> Float64Array:
    """Share of runs in which each row is selected."""
    counts = np.zeros(len(given["usage"]))
    for seed in range(runs):
        counts[ids_of(make(policy).select(context_of(given, epoch=1, keep=0.25, seed=seed)))] += 1
    return counts[rows] / runs


def test_rows_without_a_loss_come_in() -> None:
    """First with `order_dp`, as within the window with `seta`, as of a uniform prediction with `rcap`."""
    rows = 400
    losses = np.where(np.arange(rows) < 40, np.nan, np.linspace(0, 2, rows))
    labels = np.arange(rows) % 2
    given = {"candidates": np.arange(rows), "usage": np.zeros(rows, np.uint8), "loss": losses, "label": labels}
    unseen = np.arange(40)
    assert chances("order_dp", given, unseen, 200).mean() > 0.4
    inside = np.flatnonzero((losses > 0.4) & (losses < 1))
    assert chances("seta", given, unseen, 200).mean() == pytest.approx(
        chances("seta", given, inside, 200).mean(), abs=0.04
    )
    alike = np.flatnonzero(losses >= math.log(2))  # clipped
    assert chances("rcap", given, unseen, 200).mean() == pytest.approx(
        chances("rcap", given, alike, 200).mean(), abs=0.04
    )
