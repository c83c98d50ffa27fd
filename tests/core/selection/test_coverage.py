"""Factors across classes: covered by an epoch's rows at least as well as by random ones."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.rows.row_set import RowSet, ids_of
from coevo_ray.core.selection import class_strata
from coevo_ray.core.selection.class_strata import ClassStrata, spread
from coevo_ray.core.selection.coverage import random_coverage
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import make_policy
from coevo_ray.core.selection.rotation import take_turns

CLASSES, ROWS, FACTORS = 40, 8000, 1024


def codes(seed: int, classes: int = CLASSES, rows: int = ROWS) -> tuple[Int64Array, Int64Array]:
    """Labels and strongest factors, of which a few are frequent and each class has its own."""
    random = np.random.default_rng(seed)
    popular = random.pareto(1.0, FACTORS) + 0.05
    labels, factors = np.arange(rows) % classes, np.empty(rows, dtype=np.int64)
    for c in range(classes):
        chances = popular * (random.gamma(0.3, 1.0, FACTORS) + 1e-3)
        factors[labels == c] = random.choice(FACTORS, (labels == c).sum(), p=chances / chances.sum())
    return labels, factors


def covered(
    labels: Int64Array, factors: Int64Array, keep: float, epochs: int, seed: int, rules: int = 2
) -> tuple[list[float], float]:
    """Share of the factors in each epoch of `factors`, and the mean share in random rows."""
    rows = len(labels)
    made = SelectionLedger(
        rows=rows,
        candidates=np.ones(rows, bool),
        policy=make_policy("factors"),
        keep=keep,
        epochs=epochs,
        seed=seed,
        rules=rules,
    )
    made.set_labels(labels)
    made.set_scores(np.zeros(rows), np.zeros(rows), factors)
    shares, sizes = [], np.unique(factors, return_counts=True)[1]
    for epoch in range(epochs):
        ids = made.select(epoch).row_ids
        shares.append(len(np.unique(factors[ids])) / len(sizes))
        made.commit(epoch)
    return shares, random_coverage(sizes, rows, len(ids))


@pytest.mark.parametrize("seed", range(3))
def test_factors_of_many_classes_are_covered_better_than_by_random_rows(seed: int) -> None:
    labels, factors = codes(seed)
    shares, at_random = covered(labels, factors, 0.3, 10, seed)
    # Epochs 3 and 6 end a cycle and begin the next, in another order: their windows are random to each other.
    within = [share for epoch, share in enumerate(shares) if epoch not in (3, 6)]
    assert min(within) >= at_random and min(shares) >= at_random - 0.02
    # A factor of n rows has one in min(1, keep x n) of the epochs at most; most of that is there.
    sizes = np.unique(factors, return_counts=True)[1]
    assert np.mean(shares) >= at_random + 0.45 * (np.minimum(1, 0.3 * sizes).mean() - at_random)
    assert np.mean(covered(labels, factors, 0.3, 3, seed, rules=1)[0]) < at_random  # as version 0.1.0 drew


@pytest.mark.parametrize(("classes", "rows", "keep"), [(150, 4000, 0.3), (10, 5000, 0.1), (100, 1000, 0.5)])
def test_so_they_are_with_other_classes_and_shares(classes: int, rows: int, keep: float) -> None:
    shares, at_random = covered(*codes(7, classes, rows), keep, 10, 7)
    assert np.mean(shares) > at_random


def test_many_strata_have_random_phases_and_still_differ_between_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, factors = codes(0)
    for limit in ("_MOST_STRATA", "_MOST_PAIRS"):
        with monkeypatch.context() as patch:
            patch.setattr(class_strata, limit, 10)
            shares, at_random = covered(labels, factors, 0.3, 6, 0)
            assert np.mean(shares) > at_random - 0.02


def test_a_class_within_outer_quotas_has_phases_of_its_own() -> None:
    labels, factors = codes(1)
    made = SelectionLedger(
        rows=ROWS,
        candidates=np.ones(ROWS, bool),
        policy=make_policy("factors", class_power=0.0),
        keep=0.3,
        epochs=5,
        seed=1,
    )
    made.set_labels(labels)
    made.set_scores(np.zeros(ROWS), np.zeros(ROWS), factors)
    sizes = np.unique(factors, return_counts=True)[1]
    share = len(np.unique(factors[made.select(0).row_ids])) / len(sizes)
    assert share > random_coverage(sizes, ROWS, 2400) - 0.03


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=1), st.integers(-3, 2**65), st.integers(0, 5))
def test_offsets_are_evenly_spaced_within_a_factor(pairs: set[tuple[int, int]], seed: int, cycle: int) -> None:
    classes, factors = (np.array(column) for column in zip(*sorted(pairs), strict=True))
    offsets = spread(classes, factors, seed, cycle)
    assert ((offsets > 0) & (offsets < 1)).all()
    for j in np.unique(factors):
        mine = np.sort(offsets[factors == j])
        assert mine * len(mine) - np.arange(len(mine)) == pytest.approx((mine[0] * len(mine)) % 1)
    assert len(np.unique([spread(classes, factors, seed, c).sum() for c in range(4)])) == 4  # cycles are reshuffled


@pytest.mark.parametrize("bits", [False, True])
def test_a_class_finds_its_strata(bits: bool) -> None:
    labels, factors = np.array([2, 0, 2, 0, 2]), np.array([-1, 5, 3, 5, -1], dtype=np.int32)
    rows = np.arange(1, 5)
    strata = ClassStrata.of_rows(RowSet.from_ids(rows, 5) if bits else rows, labels, factors, 9)
    classes, kinds = np.array([0, 2, 2]), np.array([5, -1, 3])
    expected = dict(zip(zip(classes, kinds, strict=True), spread(classes, kinds + 1, 9, 4), strict=True))
    for label in (0, 2):
        found = strata.of_class(label)(np.array([-1, 3, 5]), 4)
        assert found.tolist() == [expected.get((label, kind), 0.5) for kind in (-1, 3, 5)]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.data())
def test_random_coverage_is_that_of_combinations(sizes: list[int], data: st.DataObject) -> None:
    rows = sum(sizes) + data.draw(st.integers(0, 9))
    drawn = data.draw(st.integers(1, rows))
    slow = np.mean([1 - comb(rows - n, drawn) / comb(rows, drawn) for n in sizes])
    assert random_coverage(np.array(sizes), rows, drawn) == pytest.approx(slow)


def test_no_factors_are_covered_by_nothing() -> None:
    assert random_coverage(np.zeros(0, dtype=np.int64), 10, 3) == 0


def test_a_factor_of_copies_comes_evenly_over_a_cycle() -> None:
    """Of groups of four, one row a cycle counts: their factor is not left for the cycle's end."""
    copies = np.where(np.arange(80) < 40, 4, 1)
    turns = np.where(np.arange(80) < 40, np.arange(80) % 4, 0)
    factors, taken = np.where(np.arange(80) < 40, 0, 1), []
    for _ in range(20):  # four cycles of ten groups and forty lone rows, ten at a time
        ids = ids_of(take_turns(np.arange(80), turns, 10, 0, factors, turns=copies))
        turns[ids] += copies[ids]
        taken.append(int((factors[ids] == 0).sum()))
    assert sum(taken) == 40
    assert set(taken) <= {1, 2, 3}
