"""Visits of whole runs against what was planned, and the factors that an epoch covers, beside random rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.rows.row_set import ids_of
from coevo_ray.core.selection.coverage import random_coverage
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import KeptShares, make_policy

SCHEDULES = st.builds(
    KeptShares, st.floats(0.05, 1.0), st.none() | st.floats(0.05, 1.0), st.sampled_from([0.0, 0.1, 0.25])
)


def visits(policy: str, shares: KeptShares, epochs: int, rows: int) -> list[int]:
    """Rows of every epoch of a run whose losses are random numbers."""
    rule, random = make_policy(policy), np.random.default_rng(rows)
    ledger = SelectionLedger(rows=rows, candidates=np.ones(rows, bool), policy=rule, keep=shares, epochs=epochs, seed=3)
    ledger.set_labels(np.zeros(rows, np.int64))
    counts = []
    for epoch in range(rule.epochs_to_run(epochs, shares, rows)):
        taken = ids_of(ledger.select(epoch).row_ids)
        counts.append(len(taken))
        if rule.needs_losses:
            ledger.report_losses(epoch, taken, random.gamma(1.0, size=len(taken)).astype(np.float32))
        ledger.commit(epoch)
    return counts


@settings(deadline=None, max_examples=40)
@given(shares=SCHEDULES, epochs=st.integers(1, 12), rows=st.integers(40, 300))
@pytest.mark.parametrize("policy", ["full_budget", "rotation", "random"])
def test_a_run_visits_as_many_rows_as_are_planned(policy: str, shares: KeptShares, epochs: int, rows: int) -> None:
    counts = visits(policy, shares, epochs, rows)
    assert counts == planned_visits(make_policy(policy), shares, epochs, rows)
    # Every policy has the visits of the schedule, the one that takes whole epochs too.
    assert sum(counts) == sum(max(1, min(rows, round(shares.at(e, epochs) * rows))) for e in range(epochs))


@pytest.mark.parametrize(
    ("shares", "epochs", "rows"),
    [(KeptShares(0.5), 20, 1000), (KeptShares(0.3, 0.7), 20, 1000), (KeptShares(0.4, full_tail=0.25), 20, 1000)],
)
def test_infobatch_visits_what_the_schedule_says(shares: KeptShares, epochs: int, rows: int) -> None:
    """Its own rule decides how many rows an epoch prunes; over a run they are those of the schedule."""
    wanted = sum(round(shares.at(epoch, epochs) * rows) for epoch in range(epochs))
    assert sum(visits("infobatch", shares, epochs, rows)) == wanted


def test_random_rows_miss_factors_as_the_binomials_say() -> None:
    sizes, rows = np.array([1, 2, 5, 30]), 60
    for drawn in (1, 7, 31, 60):
        slow = [1 - math.comb(rows - size, drawn) / math.comb(rows, drawn) for size in sizes.tolist()]
        assert random_coverage(sizes, rows, drawn) == pytest.approx(sum(slow) / len(slow), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_factors_of_many_classes_are_covered_as_well_as_by_random_rows(seed: int) -> None:
    """40 classes that share their factors: with the same phase of a factor in all of them an epoch had 60 to 70 %."""
    random = np.random.default_rng(seed)
    rows, classes, factors, keep = 6000, 40, 1200, 0.3
    label = np.repeat(np.arange(classes), rows // classes)
    # A factor's rows are spread over some classes, and few rows have it.
    factor = random.zipf(1.3, rows) % factors
    columns: dict[str, Any] = {"representativeness": np.full(rows, 0.5, np.float16), "diversity": np.full(rows, 0.5)}
    ledger = SelectionLedger(
        rows=rows, candidates=np.ones(rows, bool), policy=make_policy("factors"), keep=keep, epochs=20, seed=seed
    )
    ledger.set_scores(columns["representativeness"], columns["diversity"].astype(np.float16), factor.astype(np.int32))
    ledger.set_labels(label)
    sizes = np.unique(factor, return_counts=True)[1]
    for epoch in range(8):
        taken = ids_of(ledger.select(epoch).row_ids)
        ledger.commit(epoch)
        covered = len(np.unique(factor[taken])) / len(sizes)
        assert covered >= random_coverage(sizes, rows, len(taken)), epoch
