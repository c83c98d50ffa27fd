"""The ledger: idempotent selection, usage counted once, exact round trips, little memory."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import POLICIES, Policy, SelectionContext, make_policy
from coevo_ray.core.selection.row_attributes import RowAttributes
from coevo_ray.errors import InputError, UsageError

ROWS = 50


def columns(rows: int = ROWS, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(seed)
    return {
        "representativeness": random.random(rows, dtype=np.float32),
        "diversity": random.random(rows, dtype=np.float32),
        "factor": random.integers(-1, 6, rows, dtype=np.int32),
    }


def ledger(policy: Policy | str = "factors", rows: int = ROWS, keep: float = 0.3, seed: int = 1) -> SelectionLedger:
    rule = make_policy(policy) if isinstance(policy, str) else policy
    made = SelectionLedger(rows=rows, candidates=np.arange(rows) % 4 != 0, policy=rule, keep=keep, epochs=10, seed=seed)
    made.set_scores(**columns(rows))
    made.set_labels(np.arange(rows) % 3)
    if "irreducible" in rule.needs:
        made.set_doubt(np.zeros(rows), np.arange(rows) % 5.0)
    return made


def through_json(made: SelectionLedger, *, scores: bool = True) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    fields, arrays = made.state(scores=scores)
    loaded: dict[str, Any] = json.loads(json.dumps(fields))
    return loaded, {name: array.copy() for name, array in arrays.items()}


@pytest.mark.parametrize("name", POLICIES)
def test_repeats_and_restarts_at_any_point_change_nothing(name: str) -> None:
    plain, worn = ledger(name), ledger(name)
    for epoch in range(6):
        rows = plain.select(epoch).row_ids
        for _ in range(2):
            assert np.array_equal(worn.select(epoch).row_ids, rows)
            worn = SelectionLedger.from_state(*through_json(worn), make_policy(name))
        assert plain.commit(epoch)
        assert [worn.commit(epoch) for _ in range(3)] == [True, False, False]
        worn = SelectionLedger.from_state(*through_json(worn), make_policy(name))
        assert np.array_equal(worn.select(epoch).row_ids, rows)  # also after its commit
        assert worn.select(epoch).epoch == epoch
        assert np.array_equal(worn.usage(), plain.usage())


class LedgerMachine(RuleBasedStateMachine):
    """Any order of calls, against a dictionary of subsets and a list of counts."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ledger("random")
        self.subsets: dict[int, list[int]] = {}
        self.counts = [0] * ROWS
        self.committed = 0

    @rule(epoch=st.integers(-1, 6))
    def select(self, epoch: int) -> None:
        if epoch in (self.committed, self.committed - 1) and epoch >= 0:
            subset = self.ledger.select(epoch)
            assert subset.epoch == epoch
            assert self.subsets.setdefault(epoch, subset.row_ids.tolist()) == subset.row_ids.tolist()
        else:
            with pytest.raises(InputError):
                self.ledger.select(epoch)

    @rule(epoch=st.integers(-1, 6))
    def commit(self, epoch: int) -> None:
        if 0 <= epoch < self.committed:
            assert self.ledger.commit(epoch) is False
        elif epoch == self.committed and epoch in self.subsets:
            assert self.ledger.commit(epoch) is True
            self.committed += 1
            for row in self.subsets[epoch]:
                self.counts[row] += 1
        else:
            with pytest.raises(InputError):
                self.ledger.commit(epoch)

    @rule()
    def restart(self) -> None:
        self.ledger = SelectionLedger.from_state(*through_json(self.ledger), make_policy("random"))

    @precondition(lambda self: self.committed in self.subsets)
    @rule(seed=st.integers(0, 3))
    def set_other_scores(self, seed: int) -> None:
        self.ledger.set_scores(**columns(seed=seed))

    @invariant()
    def counts_agree(self) -> None:
        assert self.ledger.committed == self.committed
        assert self.ledger.usage().tolist() == self.counts
        candidates = [count for row, count in enumerate(self.counts) if row % 4]
        assert self.ledger.usage_histogram() == {c: candidates.count(c) for c in set(candidates)}
        assert self.ledger.never_used_share() == pytest.approx(candidates.count(0) / len(candidates))


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase


def test_an_open_epoch_keeps_its_rows_when_scores_change() -> None:
    made = ledger("scored")
    rows = made.select(0).row_ids
    made.set_scores(**columns(seed=9))
    made.set_labels(np.zeros(ROWS, dtype=np.int64))
    assert np.array_equal(made.select(0).row_ids, rows)
    fresh = ledger("scored")
    fresh.set_scores(**columns(seed=9))
    assert not np.array_equal(fresh.select(0).row_ids, rows)  # the new scores do matter


def test_state_holds_everything_or_only_what_tables_do_not() -> None:
    made = ledger()
    made.select(0)
    made.commit(0)
    made.select(1)
    again = SelectionLedger.from_state(*through_json(made), make_policy("factors"))
    for one, other in zip(*(sorted(x.state(scores=True)[1].items()) for x in (made, again)), strict=True):
        assert one[0] == other[0]
        assert one[1].dtype == other[1].dtype and np.array_equal(one[1], other[1])
    assert again.state()[0] == made.state()[0]
    assert set(made.state()[1]) == {"usage", "candidates", "last.bits", "open.bits"}
    assert set(made.state(scores=True)[1]) - set(made.state()[1]) == {"columns.factor", "columns.label"}  # looked at
    short = SelectionLedger.from_state(*through_json(made, scores=False), make_policy("factors"))
    short.set_scores(**columns())
    short.set_labels(made.scores(np.arange(ROWS))["label"])
    for epoch in (1, 2):
        assert np.array_equal(short.select(epoch).row_ids, made.select(epoch).row_ids)
        made.commit(epoch)
        short.commit(epoch)


def test_a_restored_ledger_shares_nothing_with_the_state() -> None:
    made = ledger("loss")
    rows = made.select(0).row_ids
    fields, arrays = made.state()
    again = SelectionLedger.from_state(fields, arrays, make_policy("loss"))
    again.report_losses(0, rows, np.ones(len(rows)))
    again.commit(0)
    assert made.usage().max() == 0 and made.committed == 0
    assert made.report_losses(0, rows, np.ones(len(rows))) == len(rows)
    made.usage()[:] = 7
    assert made.usage().max() == 0


@pytest.mark.parametrize(
    ("setting", "value"), [("policy", "random"), ("keep", 0.4), ("seed", 2), ("epochs", 11), ("rows", 49)]
)
def test_a_state_of_another_run_is_refused(setting: str, value: object) -> None:
    fields, arrays = ledger().state()
    if setting == "rows":
        with pytest.raises(InputError):
            ledger(rows=49).restore(fields, arrays)
        return
    with pytest.raises(InputError, match=setting):
        ledger().restore({**fields, setting: value}, arrays)


def test_a_damaged_state_is_refused() -> None:
    fields, arrays = ledger().state()
    with pytest.raises(InputError, match="lacks usage"):
        ledger().restore(fields, {k: v for k, v in arrays.items() if k != "usage"})
    with pytest.raises(InputError, match="49 usage counts for 50 rows"):
        ledger().restore(fields, {**arrays, "usage": arrays["usage"][:49]})
    with pytest.raises(InputError, match="candidates"):
        ledger().restore(fields, {**arrays, "candidates": ~arrays["candidates"]})


@pytest.mark.parametrize("uses", [255, 256])
def test_usage_widens_when_a_byte_is_full(uses: int) -> None:
    made = ledger("full", rows=5)
    for epoch in range(uses):
        made.select(epoch)
        made.commit(epoch)
    assert made.usage().tolist() == [0, uses, uses, uses, 0]
    assert made.usage().dtype == (np.uint8 if uses == 255 else np.uint16)


def test_usage_that_would_overflow_is_refused_and_not_counted() -> None:
    made = ledger("full")
    fields, arrays = made.state()
    made.restore(fields, {**arrays, "usage": np.full(ROWS, 65_535, dtype=np.uint16)})
    made.select(0)
    with pytest.raises(InputError, match="65535"):
        made.commit(0)
    assert made.committed == 0 and made.usage().min() == 65_535


class Curious(Policy):
    """Looks at all that a policy of ours looks at."""

    name = "curious"
    uses = frozenset({"factor", "label", "doubt", "copies", "copy", "loss"})

    def select(self, context: SelectionContext) -> Rows:
        return context.candidates


def held_bytes(value: object) -> int:
    """Bytes of all arrays that an object holds, wherever they are."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(held_bytes, value.values()))
    return held_bytes(vars(value)) if type(value).__module__.startswith("coevo_ray.core") else 0


@pytest.mark.parametrize(("policy", "bytes_per_row"), [("factors", 9.375), ("scored", 5.375), (Curious(), 11.5)])
def test_a_row_costs_what_the_docstring_says_and_at_most_twelve_bytes(
    policy: Policy | str, bytes_per_row: float
) -> None:
    rows = 4000
    made = ledger(policy, rows=rows, keep=0.9)
    made.set_scores(**{**columns(rows), "factor": np.full(rows, 32_767, dtype=np.int32)})
    made.set_labels(np.full(rows, 999, dtype=np.int64))
    made.set_doubt(np.full(rows, 0.5))
    made.set_copies(np.full(rows, 3), np.full(rows, 1))
    made.select(0)
    made.commit(0)
    rows_of_one = made.select(1).row_ids
    made.report_losses(1, rows_of_one[:5], np.ones(5))
    again = SelectionLedger.from_state(*through_json(made), made.policy)
    assert held_bytes(again) / rows == bytes_per_row <= 12


@pytest.mark.parametrize("value", [40_000, 3_000_000_000])
def test_large_labels_and_factors_are_kept_whole(value: int) -> None:
    made = ledger(Curious())
    made.set_labels(np.full(ROWS, value, dtype=np.int64))
    assert made.scores(np.arange(ROWS))["label"].tolist() == [value] * ROWS


def test_scores_of_some_rows_are_set_and_asked_for() -> None:
    made = SelectionLedger(
        rows=ROWS, candidates=np.ones(ROWS, bool), policy=make_policy("scored"), keep=0.1, epochs=9, seed=0
    )
    made.set_scores(np.array([0.5, 1.0]), np.array([0.25, 0.0]), np.array([1, 2]), row_ids=np.array([7, 3]))
    made.set_scores(np.array([0.75]), np.array([0.5]), np.array([1]), row_ids=np.array([7]))
    known = made.scores(np.array([3, 7, 8]))
    assert {name: values.tolist() for name, values in known.items()} == {
        "usage": [0, 0, 0],
        "representativeness": [1.0, 0.75, 0.0],
        "diversity": [0.0, 0.5, 0.0],
    }
    with pytest.raises(InputError, match="rows 3 to 50"):
        made.scores(np.array([3, ROWS]))
    with pytest.raises(InputError, match="check the row_ids"):
        made.set_scores(np.ones(1), np.ones(1), np.ones(1, dtype=np.int64), row_ids=np.array([ROWS]))


def test_the_callers_arrays_are_never_written() -> None:
    mine = {**columns(), "representativeness": np.zeros(ROWS, np.float16), "diversity": np.zeros(ROWS, np.float16)}
    made = ledger("scored")
    made.set_scores(**mine)
    made.set_scores(np.ones(1), np.ones(1), np.ones(1, dtype=np.int64), row_ids=np.array([4]))
    assert mine["representativeness"].max() == 0
    assert made.scores(np.array([4]))["representativeness"].tolist() == [1.0]


def test_figures_are_those_of_the_usage() -> None:
    made = ledger("rotation", keep=0.4)  # 15 of 37 candidates
    assert made.figures() == {"kept_share": 0.0, "never_used_share": 1.0, "usage_spread": 0.0}
    made.select(0)
    assert made.figures() == {"kept_share": 15 / 37, "never_used_share": 1.0, "usage_spread": 0.0}
    made.commit(0)
    assert made.figures() == {"kept_share": 15 / 37, "never_used_share": 22 / 37, "usage_spread": 1.0}
    assert made.never_used_share() == 22 / 37
    for epoch in (1, 2):
        made.select(epoch)
        made.commit(epoch)
    assert made.figures() == {"kept_share": 15 / 37, "never_used_share": 0.0, "usage_spread": 1.0}
    assert made.never_used_share() == 0.0


class Broken(Policy):
    name = "broken"

    def __init__(self, chosen: list[int]) -> None:
        self.chosen = chosen

    def select(self, context: SelectionContext) -> Int64Array:
        return np.array(self.chosen, dtype=np.int64)


@pytest.mark.parametrize("rows", [[], [0], [1, 1], [-1], [ROWS], [ROWS - 1, ROWS]])
def test_a_policy_that_breaks_its_contract_is_named(rows: list[int]) -> None:
    with pytest.raises(InputError, match="policy broken"):
        ledger(Broken(rows)).select(0)


def test_a_policy_cannot_change_the_counts() -> None:
    class Greedy(Broken):
        def select(self, context: SelectionContext) -> Int64Array:
            context.usage[:] = 0
            return super().select(context)

    with pytest.raises(ValueError, match="read-only"):
        ledger(Greedy([1])).select(0)


def test_bad_arguments_are_refused() -> None:
    full = make_policy("full")
    for candidates in (np.zeros(3, dtype=bool), np.ones(4, dtype=bool)):
        with pytest.raises(InputError, match="candidates"):
            SelectionLedger(rows=3, candidates=candidates, policy=full, keep=0.5, epochs=1, seed=0)
    with pytest.raises(UsageError, match="kept share"):
        SelectionLedger(rows=3, candidates=np.ones(3, dtype=bool), policy=full, keep=0.0, epochs=1, seed=0)
    with pytest.raises(UsageError, match="at least 1 epoch"):
        SelectionLedger(rows=3, candidates=np.ones(3, dtype=bool), policy=full, keep=0.5, epochs=0, seed=0)
    made = ledger()
    for doubt in (-0.5, 1.5, np.nan):
        with pytest.raises(InputError, match="doubts of 1 rows"):
            made.set_doubt(np.where(np.arange(ROWS) == 4, doubt, 0.5))
    with pytest.raises(InputError, match="49 values of label for 50 rows"):
        made.set_labels(np.zeros(49, dtype=np.int64))
    for copies, copy in (([2, 2], [0, 2]), ([2, 2], [-1, 0]), ([1, 1], [0, 1])):
        with pytest.raises(InputError, match="1 rows are not among their group's copies"):
            made.set_copies(np.resize(copies, 2), np.array(copy))
    made.set_copies(np.full(ROWS, 2), np.arange(ROWS) % 2)  # the last of a group
    with pytest.raises(InputError, match="factor"):
        made.set_scores(**{**columns(), "factor": np.zeros(3, dtype=np.int32)})
    with pytest.raises(InputError, match="diversity of 50 rows is not finite"):
        made.set_scores(**{**columns(), "diversity": np.full(ROWS, np.nan)})


def test_rows_without_a_value_are_of_no_factor_and_no_class_alone_and_undoubted() -> None:
    names = ("representativeness", "diversity", "factor", "label", "doubt", "irreducible", "copies", "copy")
    attributes = RowAttributes(3, frozenset(names))
    attributes.set({name: np.array([2]) for name in names}, np.array([1]))
    assert {name: (array[0], array[1], array[2]) for name, array in attributes.arrays.items()} == {
        "representativeness": (0, 2, 0),
        "diversity": (0, 2, 0),
        "factor": (-1, 2, -1),
        "label": (-1, 2, -1),
        "doubt": (0, 2, 0),
        "irreducible": (0, 2, 0),
        "copies": (1, 2, 1),
        "copy": (0, 2, 0),
    }
    whole = ("factor", "label", "copies", "copy")
    assert all((attributes.arrays[name].dtype == np.int8) == (name in whole) for name in names)
