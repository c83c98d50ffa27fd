"""Weights against counted visits: what each row weighs over a run is the same for all rows that may be drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Float64Array
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.core.selection.inclusion import level
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import (
    POLICIES,
    ClassQuotas,
    KeptShares,
    SelectionContext,
    class_quotas,
    make_policy,
)
from coevo_ray.core.selection.policies.quotas import fair_shares, quotas_in_turn
from coevo_ray.core.selection.policies.unbiased import Unbiased

Columns = dict[str, npt.NDArray[Any]]


def ledger(
    policy: str, columns: Columns, keep: float | KeptShares, epochs: int, seed: int = 0, **options: Any
) -> SelectionLedger:
    rows = len(columns["label"])
    made = SelectionLedger(
        rows=rows,
        candidates=columns.get("candidates", np.ones(rows, bool)),
        policy=make_policy(policy, unbiased=True, **options),
        keep=keep,
        epochs=epochs,
        seed=seed,
    )
    made.set_labels(columns["label"])
    scores = np.linspace(0, 1, rows)
    made.set_scores(scores, scores[::-1].copy(), columns.get("factor", np.arange(rows) % 7))
    if "doubt" in columns:
        made.set_doubt(columns["doubt"])
    if "copies" in columns:
        made.set_copies(columns["copies"], columns["copy"])
    return made


def weighted_visits(made: SelectionLedger, epochs: int, losses: Float64Array | None = None) -> Float64Array:
    """Sum over epochs of each row's weight in the epoch's mean, float64[N], and with it 1 in all."""
    total = np.zeros(made.rows)
    for epoch in range(epochs):
        subset = made.select(epoch)
        assert subset.weights is not None
        total[subset.row_ids] += subset.weights / len(subset)
        if losses is not None:
            made.report_losses(epoch, subset.row_ids, losses[subset.row_ids], losses[subset.row_ids])
        made.commit(epoch)
    return total / epochs


def groups(*sizes: int) -> Columns:
    """Groups of near-duplicates of these sizes, one after the other."""
    return {
        "copies": np.repeat(sizes, sizes).astype(np.int64),
        "copy": np.concatenate([np.arange(size) for size in sizes]),
    }


@pytest.mark.parametrize("policy", ["factors", "rotation"])
def test_a_cycle_of_skewed_classes_weighs_all_rows_alike(policy: str) -> None:
    columns = {"label": np.repeat([0, 1], [160, 40])}
    options: dict[str, Any] = {} if policy == "factors" else {"class_power": 0.0}
    made = ledger(policy, columns, 0.25, 32, **options)
    weights = made.select(0).weights
    assert weights is not None and np.unique(weights) == pytest.approx([0.4, 1.6])  # 25 of 40, and of 160
    # 32 epochs are 5 cycles of the large class and 20 of the small one.
    assert weighted_visits(made, 32) == pytest.approx(1 / 200, rel=1e-5)


def test_copies_weigh_as_rows_and_doubted_rows_are_outside_the_mean() -> None:
    lone = 100
    columns = {"label": np.zeros(300, np.int64), **groups(*[10] * 10, *[1] * (200 - 100 + lone))}
    columns["doubt"] = np.where(np.arange(300) >= 250, 0.9, 0.0)
    made = ledger("factors", columns, 16 / 300, 100)
    # 10 groups and 150 lone rows that are believed take turns: a cycle is 10 epochs, 10 cycles use every copy.
    told = weighted_visits(made, 100)
    assert told[:250] == pytest.approx(1 / 250, rel=1e-5)
    assert not told[250:].any()


def expected_visits(made: SelectionLedger, epochs: int) -> tuple[Float64Array, Float64Array]:
    """Visits of each row, and the sum of its inclusion probabilities, by asking for every row in every epoch."""
    chances, visits, policy = np.zeros(made.rows), np.zeros(made.rows), made.policy
    assert isinstance(policy, Unbiased)
    for epoch in range(epochs):
        context = made._context(epoch)
        assert context.doubt is not None
        believes = context.doubt <= 0.25
        if isinstance(policy.policy, ClassQuotas):  # it draws in every class
            assert context.label is not None
            for c in np.unique(context.label):
                believes |= (context.label == c) & ~believes[context.label == c].any()
        believed = np.flatnonzero(believes)
        assert policy.drawable(context) == len(believed)
        chances[believed] += policy.inclusion(context, believed)
        visits[made.select(epoch).row_ids] += 1
        made.commit(epoch)
    return visits, chances


@pytest.mark.slow
@settings(deadline=None, max_examples=10)
@given(
    keep=st.floats(0.05, 0.9),
    power=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1000),
    copied=st.lists(st.integers(1, 6), min_size=0, max_size=8),
    outer=st.booleans(),
)
@example(keep=0.875, power=1.0, seed=889, copied=[], outer=True)  # all of a class doubted
@example(keep=0.05, power=0.0, seed=1, copied=[3, 2], outer=True)  # classes that many epochs leave out
def test_chances_of_factors_are_counted_visits(
    keep: float, power: float, seed: int, copied: list[int], outer: bool
) -> None:
    """With classes, copies (also some in other classes, or doubted) and doubt, in runs of many cycles."""
    random = np.random.default_rng(seed)
    sizes = [*copied, *[1] * 40]
    rows = sum(sizes)
    columns = {"label": random.choice(3, rows, p=[0.6, 0.3, 0.1]), **groups(*sizes)}
    columns["doubt"] = np.where(random.random(rows) < 0.2, 0.9, 0.0)
    options = {"quota_power": 1.0, "class_power": power} if outer else {"quota_power": power}
    epochs = 60
    made = ledger("factors", columns, keep, epochs, seed, **options)
    visits, chances = expected_visits(made, epochs)
    assert not visits[chances == 0].any()
    assert np.abs(visits - chances).max() <= 3
    assert chances.sum() == pytest.approx(visits.sum(), rel=0.05)


# Rows of small losses come once in thousands of epochs there: their chances are in test_policies_by_losses.
RARELY = {"order_dp", "rho_loss"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(POLICIES) - RARELY))
@pytest.mark.parametrize("power", [None, 0.0])
def test_every_policy_weighs_rows_alike_in_the_long_run(name: str, power: float | None) -> None:
    epochs, rows = 200, 60
    columns = {"label": np.repeat([0, 1, 2], [36, 16, 8])}
    losses = np.random.default_rng(0).random(rows) + 0.5
    options: dict[str, Any] = {"tail": 0.0} if name == "infobatch" else {}
    options |= {} if power is None else {"class_power": power}
    if name == "static_random":  # a run has the same rows throughout: alike over seeds
        told = (
            sum(weighted_visits(ledger(name, columns, 0.3, 1, seed, **options), 1) for seed in range(epochs)) / epochs
        )
    elif name in ("loss", "entropy"):
        # The largest of fixed losses stay the largest: rows that are not drawn have no weight, the others are alike.
        told = weighted_visits(ledger(name, columns, 0.3, epochs, **options), epochs, losses)
        drawn = told > 0.5 / rows
        assert drawn.any() and told[drawn] == pytest.approx(told[drawn].mean(), rel=0.05)
        return
    else:
        made = ledger(name, columns, 0.3, epochs, 1, **options)
        told = weighted_visits(made, made.policy.epochs_to_run(epochs, made.keep, rows), losses)
    within = 0.6 if name in ("random", "static_random", "infobatch", "repb") else 0.12  # drawn at chance, or in turn
    assert told == pytest.approx(1 / rows, rel=within)
    assert np.sum(told) == pytest.approx(1, abs=0.08)


def test_full_data_weighs_one() -> None:
    columns: dict[str, Any] = {"label": np.zeros(20, np.int64)}
    made = ledger("full", columns, 0.3, 3)
    assert made.select(0).weights == pytest.approx(1.0)


def test_epochs_between_uses_add_up_to_the_last() -> None:
    columns: dict[str, Any] = {"label": np.zeros(50, np.int64)}
    made, total, last = ledger("scored", columns, 0.2, 40), np.zeros(50), np.full(50, -1)
    for epoch in range(40):
        subset = made.select(epoch)
        assert subset.weights is not None
        total[subset.row_ids] += subset.weights * 50 / len(subset)
        last[subset.row_ids] = epoch
        made.commit(epoch)
        fields, arrays = made.state(scores=True)  # a restart knows when rows were used
        made = SelectionLedger.from_state(fields, {k: a.copy() for k, a in arrays.items()}, made.policy)
    assert total == pytest.approx(last + 1.0, rel=1e-5)


@given(
    st.dictionaries(st.integers(1, 12), st.integers(1, 20), min_size=1, max_size=5),
    st.floats(0.01, 1.0),
)
def test_levels_fill_the_quota(there: dict[int, int], share: float) -> None:
    copies = np.array(sorted(there))
    rows = np.array([there[m] for m in sorted(there)])
    quota = share * float(rows.sum())
    found = level(copies, rows, quota)
    assert float((rows * np.minimum(1.0, found / copies)).sum()) == pytest.approx(quota)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0),
    power=st.floats(0, 1),
    keeps=st.lists(st.floats(0.01, 1), min_size=1, max_size=40),
)
def test_quotas_are_fair_in_every_epoch_and_over_all(sizes: list[int], power: float, keeps: list[float]) -> None:
    there, got, due = np.array(sizes), np.zeros(len(sizes)), np.zeros(len(sizes))
    budgets: list[int] = []
    for keep in keeps:
        budgets.append(max(1, round(keep * sum(sizes))))
        shares = fair_shares(there, budgets[-1], power)
        quotas = quotas_in_turn(there, budgets, power)
        mine = np.array([quotas.get(c, 0) for c in range(len(sizes))])
        assert mine.sum() == budgets[-1] and (mine <= there).all()
        assert np.abs(mine - shares).max() < 1
        got += mine
        due += shares
        assert np.abs(got - due).max() < 2.5


def test_more_classes_than_rows_take_turns() -> None:
    labels = np.arange(10)
    drawn = [class_quotas(labels, 3, 0.0, epoch) for epoch in range(10)]
    assert np.bincount([c for quotas in drawn for c in quotas], minlength=10).tolist() == [3] * 10
    assert len({c for quotas in drawn[:4] for c in quotas}) == 10


def test_a_share_without_its_row_is_not_refused() -> None:
    """A policy asked outside a ledger estimates chances from usage."""
    usage = np.array([3, 0, 1, 1], dtype=np.uint8)
    context = SelectionContext(3, 8, 0.5, 0, RowSet.full(4), usage, representativeness=np.ones(4), diversity=np.ones(4))
    weights = make_policy("scored", unbiased=True).weights(context, np.array([0, 2]))
    assert weights is not None and weights.tolist() == pytest.approx([0.5, 1.0])
