"""Rows of every epoch: those that are planned, and over a training those of the schedule of kept shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coevo_ray.core.rows.row_set import ids_of
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import POLICIES, KeptShares, SelectionContext, make_policy


def visits_of(made: SelectionLedger, epochs: int) -> list[int]:
    """Rows of each epoch of a training that reports losses."""
    random, counted = np.random.default_rng(0), []
    for epoch in range(epochs):
        ids = made.select(epoch).row_ids
        made.report_losses(epoch, ids, random.gamma(2, size=len(ids)), random.random(len(ids)))
        made.commit(epoch)
        counted.append(len(ids))
    return counted


def ledger(policy: str, rows: int, keep: KeptShares, epochs: int, **options: Any) -> SelectionLedger:
    made = SelectionLedger(
        rows=rows,
        candidates=np.ones(rows, bool),
        policy=make_policy(policy, **options),
        keep=keep,
        epochs=epochs,
        seed=1,
    )
    made.set_labels(np.arange(rows) % 5 % 3)
    made.set_doubt(np.zeros(rows), irreducible=np.zeros(rows))
    made.set_scores(np.linspace(0, 1, rows), np.linspace(1, 0, rows), np.arange(rows) % 7)
    return made


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"full"}))
@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(1, 60),
    epochs=st.integers(1, 14),
    first=st.floats(0.02, 1.0),
    last=st.none() | st.floats(0.02, 1.0),
    full_tail=st.sampled_from([0.0, 0.1, 0.25, 1.0]) | st.floats(0, 1),
    tail=st.sampled_from([0.125, 0.0, 0.5]),
    power=st.none() | st.sampled_from([0.0, 0.7]),
)
@example(rows=50, epochs=20, first=0.2, last=0.8, full_tail=0.0, tail=0.125, power=None)
@example(rows=50, epochs=20, first=0.4, last=None, full_tail=0.25, tail=0.125, power=None)
@example(rows=50, epochs=2, first=0.9, last=None, full_tail=0.0, tail=0.125, power=None)
def test_a_training_visits_as_many_rows_as_its_schedule_says(
    policy: str,
    rows: int,
    epochs: int,
    first: float,
    last: float | None,
    full_tail: float,
    tail: float,
    power: float | None,
) -> None:
    shares = KeptShares(first, last, full_tail)
    options: dict[str, Any] = {"tail": tail} if policy == "infobatch" else {}
    made = ledger(policy, rows, shares, epochs, class_power=power, **options)
    planned = planned_visits(made.policy, shares, epochs, rows)
    counted = visits_of(made, len(planned))
    assert counted == planned
    assert sum(counted) == sum(max(1, min(rows, round(shares.at(e, epochs) * rows))) for e in range(epochs))
    assert len(counted) == epochs or policy == "full_budget"


@pytest.mark.parametrize(
    ("keep", "full"),
    [
        (0.5, 1),  # round(8 / 8) epochs of 4 epochs' worth of rows: half of the visits are left, and more
        (0.2, 0),  # one full epoch of 1.6 would leave less than half
        (0.25, 1),  # exactly half
        (0.24, 0),
    ],
)
def test_a_full_tail_leaves_half_of_the_visits(keep: float, full: int) -> None:
    planned = planned_visits(make_policy("infobatch"), KeptShares(keep), 8, 100)
    assert planned.count(100) == full


def test_a_full_tail_is_halved_until_it_does() -> None:
    # 8 of 16 epochs, then 4, then 2: 3 would leave half of 6.4 too.
    assert planned_visits(make_policy("infobatch", tail=0.5), KeptShares(0.4), 16, 100).count(100) == 2


def infobatch(losses: list[float], quota: int, **options: Any) -> set[int]:
    """Rows that InfoBatch may take, from many seeds."""
    rows, taken = len(losses), set()
    for seed in range(200):
        context = SelectionContext(
            0, 4, 0.5, seed, np.arange(rows), np.zeros(rows, np.uint8), loss=np.array(losses), quota=quota
        )
        chosen = ids_of(make_policy("infobatch", **options).select(context))
        assert len(chosen) == quota
        taken |= set(chosen.tolist())
    return taken


def test_a_loss_at_the_mean_is_not_low() -> None:
    # Mean 2: the rows of loss 2 stay whenever the one below them can be pruned.
    assert infobatch([1.0, 2.0, 2.0, 3.0], 3, least=0.01) == {0, 1, 2, 3}
    context = SelectionContext(
        0, 4, 0.5, 0, np.arange(4), np.zeros(4, np.uint8), loss=np.array([1.0, 2.0, 2.0, 3.0]), quota=2
    )
    policy = make_policy("infobatch", least=0.01)
    rows = ids_of(policy.select(context))
    # One low row of one, one of the three others.
    assert policy.inclusion(context, rows).tolist() == [1.0, pytest.approx(1 / 3)]


@pytest.mark.parametrize("quota", [1, 2, 3])
def test_each_part_keeps_a_row_so_that_every_row_can_be_drawn(quota: int) -> None:
    losses = [0.1, 0.1, 0.1, 5.0, 5.0, 5.0]
    assert infobatch(losses, quota, least=0.01) == set(range(6))
    assert infobatch(losses, quota, least=1.0) == set(range(6))


@pytest.mark.parametrize(
    ("keep", "tail", "epochs", "rows", "full"),
    [
        (0.5, 0.5, 16, 100, 4),  # 8 epochs would be all visits, 4 are half of them
        (0.25, 0.125, 8, 8, 1),  # 16 visits: 8 for the tail, and more than one for each of 7 epochs
        (0.13, 0.5, 8, 8, 0),  # 8 visits, one for each epoch
    ],
)
def test_a_full_tail_is_as_long_as_it_may_be(keep: float, tail: float, epochs: int, rows: int, full: int) -> None:
    planned = planned_visits(make_policy("infobatch", tail=tail), KeptShares(keep), epochs, rows)
    assert planned.count(rows) == full and sum(planned) == round(keep * rows) * epochs


def test_without_a_tail_visits_are_those_of_the_schedule() -> None:
    policy = make_policy("infobatch", tail=0.0)
    assert planned_visits(policy, KeptShares(0.1, 0.2), 2, 10) == [1, 2]
    assert planned_visits(policy, KeptShares(0.1, 0.5), 5, 10) == [1, 2, 3, 4, 5]


def test_visits_before_a_tail_are_rounded_from_the_first_epoch_on() -> None:
    # 10 of 20 visits are left to four epochs: a row each, then 1.5 more in every one.
    assert planned_visits(make_policy("infobatch", tail=0.2), KeptShares(0.4), 5, 10) == [2, 3, 2, 3, 10]
