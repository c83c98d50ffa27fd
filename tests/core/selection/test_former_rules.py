"""Runs that version 0.1.0 began go on by its rules, to the row and to the weight."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from coevo_ray.core.rows.row_set import ids_of
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import RULES, KeptShares, SelectionContext, make_policy

SHARES, EPOCHS, ROWS = KeptShares(0.23, 0.41, 0.15), 9, 210

# SHA-256, cut, of the rows (int64) and weights (float32 to four places) of all epochs, as version 0.1.0 drew them.
DRAWN: list[tuple[str, dict[str, Any], str]] = [
    ("factors", {}, "47b01464db67a6ed"),
    ("factors", {"quota_power": 1.0}, "ec4874b18e8c58b9"),
    ("factors", {"unbiased": True, "quota_power": 0.5}, "549d4c5e7bd607b3"),
    ("factors", {"class_power": 0.5, "max_doubt": 1.0}, "bff0bdd7de09e9aa"),
    ("rotation", {"class_power": 0.0}, "78c483b2bfd1ae18"),
    ("random", {"class_power": 0.3, "unbiased": True}, "9e36a3855bb4ddb7"),
    ("full_budget", {}, "3ff41dcc84e89c05"),
    ("full", {"unbiased": True}, "2708b1168e0f8835"),
    ("scored", {"unbiased": True}, "31eb90f90075d004"),
    ("infobatch", {}, "3d203d7585762787"),
    ("infobatch", {"class_power": 0.5}, "ac5a80141e3c6330"),
    ("infobatch", {"tail": 0.4, "unbiased": True}, "483d24679fe53a1e"),
]


def begun(policy: str, options: dict[str, Any], random: np.random.Generator, rules: int = 1) -> SelectionLedger:
    made = SelectionLedger(
        rows=ROWS,
        candidates=np.arange(ROWS) % 9 != 0,
        policy=make_policy(policy, **options),
        keep=SHARES,
        epochs=EPOCHS,
        seed=3,
        rules=rules,
    )
    made.set_labels(random.choice(11, ROWS, p=[0.35] + [0.065] * 10))
    made.set_scores(random.random(ROWS), random.random(ROWS), random.integers(-1, 12, ROWS))
    made.set_doubt(np.where(random.random(ROWS) < 0.1, 0.9, 0.1))
    in_four = np.arange(ROWS) < 40
    made.set_copies(np.where(in_four, 4, 1), np.where(in_four, np.arange(ROWS) % 4, 0))
    return made


@pytest.mark.parametrize(("policy", "options", "expected"), DRAWN)
def test_subsets_and_weights_are_those_of_the_first_version(
    policy: str, options: dict[str, Any], expected: str
) -> None:
    random, told = np.random.default_rng(5), hashlib.sha256()
    made = begun(policy, options, random)
    for epoch in range(len(planned_visits(made.policy, SHARES, EPOCHS, ROWS, rules=1))):
        subset = made.select(epoch)
        told.update(subset.row_ids.astype("<i8").tobytes())
        if subset.weights is not None:
            told.update(np.round(subset.weights, 4).astype("<f4").tobytes())
        made.report_losses(epoch, subset.row_ids, random.gamma(2, size=len(subset)), random.random(len(subset)))
        made.commit(epoch)
    assert told.hexdigest()[:16] == expected


@pytest.mark.parametrize("policy", ["factors", "scored"])
def test_a_state_brings_its_rules(policy: str) -> None:
    former = begun(policy, {"unbiased": True}, np.random.default_rng(5))
    former.select(0)
    former.commit(0)
    fields, arrays = former.state(scores=True)
    assert fields.pop("rules") == 1  # version 0.1.0 wrote none
    restored = begun(policy, {"unbiased": True}, np.random.default_rng(5), rules=RULES)
    restored.restore(json.loads(json.dumps(fields)), {name: array.copy() for name, array in arrays.items()})
    fresh = begun(policy, {"unbiased": True}, np.random.default_rng(5), rules=RULES)
    fresh.select(0)
    fresh.commit(0)
    assert restored.rules == former.rules == 1 and fresh.rules == RULES
    for epoch in range(1, 4):
        subsets = [made.select(epoch) for made in (former, restored, fresh)]
        assert np.array_equal(subsets[0].row_ids, subsets[1].row_ids)
        weights = [subset.weights for subset in subsets]
        assert weights[0] is not None and weights[1] is not None and weights[2] is not None
        assert np.array_equal(weights[0], weights[1])
        assert policy == "scored" or not np.array_equal(weights[2], weights[0])
        for made in (former, restored, fresh):
            made.commit(epoch)


def test_the_first_version_plans_whole_epochs() -> None:
    """3.15 epochs' worth of rows are 3 epochs; the present rules go on to the 36th visit of ten rows."""
    policy, shares = make_policy("full_budget"), KeptShares(0.35)
    assert planned_visits(policy, shares, 9, 10, rules=1) == [10, 10, 10]
    assert planned_visits(policy, shares, 9, 10) == [10, 10, 10, 6]
    assert planned_visits(policy, KeptShares(0.28), 9, 10, rules=1) == [10, 10, 10]
    assert planned_visits(policy, KeptShares(0.28), 9, 10) == [10, 10, 7]


def test_the_first_version_draws_a_single_row_among_the_hard_ones() -> None:
    taken: dict[int, set[int]] = {1: set(), 2: set()}
    for rules, rows in taken.items():
        for seed in range(60):
            context = SelectionContext(
                epoch=0,
                epochs=4,
                keep=0.5,
                seed=seed,
                candidates=np.arange(4),
                usage=np.zeros(4, np.uint8),
                loss=np.array([0.1, 0.1, 5.0, 5.0]),
                quota=1,
                rules=rules,
            )
            rows.update(ids_of(make_policy("infobatch").select(context)).tolist())
    assert taken == {1: {2, 3}, 2: {0, 1, 2, 3}}


def test_the_first_version_divides_the_epochs_own_budget_among_classes() -> None:
    """Also for `full`, which then takes every row of a class that has a quota."""
    label = np.repeat(np.arange(5), [8, 6, 4, 2, 1])
    context = SelectionContext(
        epoch=0,
        epochs=4,
        keep=0.1,
        seed=0,
        candidates=np.arange(21),
        usage=np.zeros(21, np.uint8),
        label=label,
        rules=1,
    )
    assert context.budget == 2
    chosen = ids_of(make_policy("full", class_power=1.0).select(context))
    assert np.unique(label[chosen]).tolist() == [0, 1] and len(chosen) == 14
