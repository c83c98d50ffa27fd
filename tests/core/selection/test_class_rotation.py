"""The rotation within all classes at once takes the rows that `take_turns` takes of each class by itself."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.arrays import BoolArray, Int64Array
from coevo_ray.core.rows.chunks import Chunk
from coevo_ray.core.rows.hashing import hash_from, hash_rows, seed_offset
from coevo_ray.core.rows.row_set import RowSet, ids_of
from coevo_ray.core.selection import class_rotation, smallest_hashes
from coevo_ray.core.selection.class_strata import ClassStrata, _order, random_offsets
from coevo_ray.core.selection.policies import SelectionContext, make_policy
from coevo_ray.core.selection.policies.factors import turns_taken
from coevo_ray.core.selection.policies.quotas import quotas_in_turn
from coevo_ray.core.selection.rotation import take_turns

EPOCHS = 5
# Limits under which a few rows take the ways of very many: several steps, spans, batches of classes, parts of strata,
# ranges of a sort, turns counted a bit at a time; and windows that miss.
TIGHT: dict[ModuleType, dict[str, float]] = {
    smallest_hashes: {
        "STEP_ROWS": 32,
        "SPAN_ROWS": 64,
        "_DEVIATIONS": 0.0,
        "_MOST_KEPT": 20,
        "_MOST_SORTED": 10,
    },
    class_rotation: {"_MOST_TURNS": 8, "_MOST_STRATA": 9},
}


@pytest.fixture(params=["as it is", "tight"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "tight":
        for module, values in TIGHT.items():
            for name, value in values.items():
                monkeypatch.setattr(module, name, value)


def class_by_class(context: SelectionContext, power: float, max_doubt: float) -> set[int]:
    """The rows of `factors`, each class with a rotation of its own."""
    label, copies, copy = context.label, context.copies, context.copy
    assert label is not None and copies is not None and copy is not None
    rows = ids_of(context.candidates)
    if context.doubt is not None and (context.doubt[rows] <= max_doubt).any():
        rows = rows[context.doubt[rows] <= max_doubt]
    turns = turns_taken(rows, context.usage, copies, copy)
    budgets = [min(max(1, round(context.keep * len(context.candidates))), len(rows)) for _ in range(context.epoch + 1)]
    strata = None
    if context.factor is not None and context.part is None:
        strata = ClassStrata.of_rows(rows, label, context.factor, context.seed)
    taken: set[int] = set()
    for of, quota in quotas_in_turn(np.bincount(label[rows]), budgets, power).items():
        offsets = partial(random_offsets, of, context.seed) if strata is None else strata.of_class(of)
        mine = rows[label[rows] == of]
        got = take_turns(mine, turns, quota, context.seed, context.factor, offsets=offsets, turns=copies)
        taken |= set(ids_of(got).tolist())
    return taken


def factors_of(kind: str, rows: int, random: np.random.Generator) -> Int64Array | None:
    few = random.integers(-1, 7, rows)
    # More unused numbers than are counted, so that numbers are looked up.
    return {"none": None, "few": few, "own": np.arange(rows), "far": few * 100_000}[kind]


def pool_of(seed: int, rows: int, classes: int, factors: str, copied: int) -> tuple[dict[str, Any], BoolArray]:
    random = np.random.default_rng(seed)
    candidates = random.random(rows) < 0.9
    candidates[0] = True
    copies = random.integers(1, copied + 1, rows)
    label = np.where(candidates, (classes * random.random(rows) ** 2).astype(np.int64), -1)
    columns = {
        "factor": factors_of(factors, rows, random),
        "label": label.astype(np.int8),
        "doubt": (random.random(rows) * 0.3).astype(np.float16),
        "copies": copies.astype(np.int16),
        "copy": random.integers(0, copies).astype(np.int16),
    }
    return columns, candidates


@pytest.mark.usefixtures("limits")
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 160),
    classes=st.integers(1, 9),
    factors=st.sampled_from(["none", "few", "own", "far"]),
    copied=st.sampled_from([1, 2, 5, 300]),
    keep=st.sampled_from([0.03, 0.3, 0.5, 0.9, 1.0]),
    power=st.sampled_from([0.0, 0.5, 0.9]),
    as_ids=st.booleans(),
    part=st.sampled_from([None, 3]),
)
def test_rows_are_those_of_each_class_by_itself(
    seed: int,
    rows: int,
    classes: int,
    factors: str,
    copied: int,
    keep: float,
    power: float,
    as_ids: bool,
    part: int | None,
) -> None:
    columns, candidates = pool_of(seed, rows, classes, factors, copied)
    usage = np.zeros(rows, dtype=np.uint8)
    for epoch in range(EPOCHS):
        context = SelectionContext(
            epoch=epoch,
            epochs=EPOCHS,
            keep=keep,
            seed=seed % 1000,
            candidates=np.flatnonzero(candidates) if as_ids else RowSet.from_flags(candidates),
            usage=usage,
            part=part,
            **columns,
        )
        taken = ids_of(make_policy("factors", quota_power=power).select(context))
        assert set(taken.tolist()) == class_by_class(context, power, 0.25) and len(set(taken.tolist())) == len(taken)
        # Doubt changes between epochs, so that rows that were passed over come back.
        columns["doubt"] = np.roll(columns["doubt"], 1)
        usage[taken] += 1


@pytest.mark.usefixtures("limits")
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32), size=st.integers(1, 400), groups=st.integers(1, 30), shift=st.sampled_from([0, 20, 54])
)
def test_smallest_hashes_of_any_distribution(seed: int, size: int, groups: int, shift: int) -> None:
    """Windows expect uniform hashes and as many smaller ones as they are told; the result has neither assumption."""
    random = np.random.default_rng(seed)
    # Hashes that differ in their last bits alone share keys.
    hashes = random.permutation(size).astype(np.uint64) << np.uint64(shift)
    group, state = random.integers(0, groups, size), random.integers(0, 3, size)
    there = np.bincount(group[state == 1], minlength=groups)
    take = random.integers(0, there + 1)

    def read(step: Chunk) -> smallest_hashes.HashedRows:
        at = np.flatnonzero(state[step.slice] == 1)
        rows = at + step.start
        return smallest_hashes.HashedRows(state[step.slice] == 2, at, group[rows], hashes[rows])

    asked = smallest_hashes.Quotas(take, there, random.integers(0, 9, groups))
    taken = smallest_hashes.take_smallest_hashes(size, read, lambda rows, _: hashes[rows], asked)
    expected = set(np.flatnonzero(state == 2).tolist())
    for of in range(groups):
        mine = np.flatnonzero((state == 1) & (group == of))
        expected |= set(mine[np.argsort(hashes[mine])][: take[of]].tolist())
    assert set(taken.ids().tolist()) == expected


def test_a_miss_widens_the_windows_of_its_groups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group's hashes are all small, as its smaller ones were not told; the other group's are uniform."""
    looks: list[list[int]] = []
    look = smallest_hashes._Look.outside

    def outside(self: smallest_hashes._Look) -> Int64Array:
        found = look(self)
        looks.append(found.tolist())
        return found

    monkeypatch.setattr(smallest_hashes._Look, "outside", outside)
    group = np.arange(2000) % 2
    hashes = hash_rows(np.arange(2000), 0) >> np.where(group == 0, 8, 0).astype(np.uint64)

    def read(step: Chunk) -> smallest_hashes.HashedRows:
        rows = np.arange(step.start, step.stop)
        return smallest_hashes.HashedRows(np.zeros(len(rows), bool), rows - step.start, group[rows], hashes[rows])

    asked = smallest_hashes.Quotas(np.array([300, 300]), np.array([1000, 1000]), np.zeros(2, np.int64))
    taken = smallest_hashes.take_smallest_hashes(2000, read, lambda rows, _: hashes[rows], asked)
    assert looks[0] == [0] and looks[-1] == [] and len(looks) <= 4
    for of in (0, 1):
        mine = np.flatnonzero(group == of)
        assert set(mine[np.argsort(hashes[mine])][:300].tolist()) == set(taken.ids()[group[taken.ids()] == of].tolist())


def test_hashes_from_offsets_are_those_of_their_seeds() -> None:
    rows, seeds = np.arange(50), [0, 7, -3, 2**70]
    offsets = np.concatenate([seed_offset(seed) for seed in seeds])
    for place, seed in enumerate(seeds):
        assert np.array_equal(hash_from(rows, offsets[np.full(50, place)]), hash_rows(rows, seed))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 200), groups=st.sampled_from([1, 3, 50, 2**40]))
def test_order_of_strata_is_that_of_lexsort(seed: int, size: int, groups: int) -> None:
    """Also of keys that are equal, that differ in their last bits alone, or that were rounded to 1."""
    random = np.random.default_rng(seed)
    keys = random.choice([0.0, 0.25, 0.25 + 2.0**-50, 1.0, random.random(), random.random()], size)
    if seed % 2:
        keys = random.random(size)
    group = random.integers(0, groups, size)
    assert np.array_equal(_order(group, keys), np.lexsort((keys, group)))
