"""Reports of losses: order, shards and repeats do not matter, and policies see them from the next epoch on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.policies import make_policy
from coevo_ray.errors import InputError

ROWS = 40


def ledger(policy: str = "entropy", keep: float = 0.5) -> SelectionLedger:
    return SelectionLedger(
        rows=ROWS, candidates=np.arange(ROWS) != 3, policy=make_policy(policy), keep=keep, epochs=9, seed=1
    )


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_order_of_shards_and_repeats_equals_one_report(data: st.DataObject) -> None:
    whole, worn = ledger(), ledger()
    rows = whole.select(0).row_ids
    worn.select(0)
    losses, entropies = np.sin(rows) + 2, np.cos(rows) + 2
    assert whole.report_losses(0, rows, losses, entropies) == len(rows)
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(rows)), max_size=6)))
    shards = [shard for shard in np.split(order, cuts) if len(shard)]
    repeats = data.draw(st.lists(st.sampled_from(range(len(shards))), max_size=6))
    taken = 0
    for shard in [*shards, *(shards[i] for i in repeats)]:
        taken += worn.report_losses(0, rows[shard], losses[shard], entropies[shard])
        repeated = data.draw(st.sampled_from(shards))
        if worn.scores(rows[repeated])["loss"][0] == worn.scores(rows[repeated])["loss"][0]:  # was reported
            assert worn.report_losses(0, rows[repeated], losses[repeated] + 1, entropies[repeated] + 1) == 0
    assert taken == len(rows)
    for made in (whole, worn):
        made.commit(0)
    assert np.array_equal(whole.select(1).row_ids, worn.select(1).row_ids)
    for name, array in whole.state()[1].items():
        assert np.array_equal(array, worn.state()[1][name], equal_nan=array.dtype.kind == "f")


def test_policies_see_losses_from_the_next_epoch_on() -> None:
    made = ledger("loss")  # 20 of 39 candidates
    rows = made.select(0).row_ids
    made.report_losses(0, rows, np.arange(20.0))
    assert np.array_equal(made.select(0).row_ids, rows)
    made.commit(0)
    # Rows without a loss come first, then that of the largest one.
    assert set(made.select(1).row_ids.tolist()) == set(range(ROWS)) - {3, *rows[:-1].tolist()}


def test_a_late_report_changes_nothing_and_an_early_one_is_refused() -> None:
    made = ledger()
    with pytest.raises(InputError, match="0 is next and is not selected"):
        made.report_losses(0, np.array([1]), np.ones(1))
    rows = made.select(0).row_ids
    with pytest.raises(InputError, match="epoch 1"):
        made.report_losses(1, rows, np.ones(len(rows)))
    made.report_losses(0, rows[:2], np.ones(2), np.ones(2))
    made.commit(0)
    assert made.report_losses(0, rows, np.full(len(rows), 5.0)) == 0
    known = made.scores(rows)["loss"]
    assert known[:2].tolist() == [1, 1] and np.isnan(known[2:]).all()


def test_rows_are_reported_anew_in_each_epoch() -> None:
    made = ledger(keep=1.0)
    for epoch in range(3):
        rows = made.select(epoch).row_ids
        assert made.report_losses(epoch, rows, np.full(len(rows), float(epoch))) == len(rows)
        made.commit(epoch)
    assert made.scores(rows)["loss"].tolist() == [2.0] * len(rows)


def test_what_cannot_be_known_is_left_unknown_and_what_is_too_large_is_cut() -> None:
    made = ledger()
    rows = made.select(0).row_ids[:3]
    assert made.report_losses(0, rows, np.array([np.nan, 1e9, -1e9]), np.array([1.0, np.nan, 2.0])) == 2
    known = made.scores(rows)
    assert np.isnan(known["loss"][0]) and known["loss"][1:].tolist() == [65504, -65504]
    assert np.isnan(known["entropy"][:2]).all() and known["entropy"][2] == 2
    assert made.report_losses(0, rows, np.ones(3)) == 1  # NaN was no report
    assert made.report_losses(0, np.array([rows[0], rows[0]]), np.array([3.0, 4.0])) == 0


def test_the_first_of_a_rows_losses_in_one_report_counts() -> None:
    made = ledger()
    made.select(0)
    assert made.report_losses(0, np.array([5, 4, 5]), np.array([3.0, 1.0, 4.0])) == 2
    assert made.scores(np.array([4, 5]))["loss"].tolist() == [1.0, 3.0]


def test_policies_without_losses_keep_none() -> None:
    made = ledger("rotation")
    rows = made.select(0).row_ids
    assert made.report_losses(0, rows, np.ones(len(rows))) == 0
    assert set(made.scores(rows)) == {"usage"}


@pytest.mark.parametrize(("rows", "losses", "entropies"), [([1], [1, 2], None), ([1], [1], [1, 2]), ([40], [1], None)])
def test_wrong_reports_are_refused(rows: list[int], losses: list[float], entropies: list[float] | None) -> None:
    made = ledger()
    made.select(0)
    with pytest.raises(InputError):
        made.report_losses(
            0, np.array(rows), np.array(losses, float), None if entropies is None else np.array(entropies, float)
        )
