from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.errors import InputError
from coevo_ray.pool.rejects import (
    REJECTS,
    Reject,
    check_share,
    commonest,
    count_reasons,
    read_rejects,
    write_rejects,
)
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry

ROWS = [
    Reject("b", "ingest", "not an image that Pillow can read (22 bytes)"),
    Reject("a", "ingest", "not an image that Pillow can read (9 bytes)"),
    Reject("z", "encode", "feature is zero or not finite: callable:m:C"),
    Reject("c", "ingest", "label outside the range: 12, need 0..9"),
]


def test_rejects_are_written_in_order_and_read_back(tmp_path: Path) -> None:
    folder = Location(str(tmp_path))
    (entry,) = write_rejects(folder, reversed(ROWS))
    assert read_rejects(folder) == [ROWS[2], ROWS[1], ROWS[0], ROWS[3]]
    assert pq.read_table(tmp_path / REJECTS).column_names == ["key", "stage", "reason"]
    assert entry == FileEntry(REJECTS, 0, (tmp_path / REJECTS).stat().st_size, entry.sha256)  # no rows of the artifact
    once = (tmp_path / REJECTS).read_bytes()
    write_rejects(folder, ROWS)
    assert (tmp_path / REJECTS).read_bytes() == once


def test_nothing_rejected_leaves_no_file(tmp_path: Path) -> None:
    folder = Location(str(tmp_path))
    assert write_rejects(folder, []) == []
    assert list(tmp_path.iterdir()) == []
    assert read_rejects(folder) == []


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("zero vector in column v", "a vector of zeros has no direction"),
        ("values that are not finite in float32 in column v", "scale values that float32 does not hold"),
        ("wrong length in column v: 3 values, need 4", "give vectors of one length"),
    ],
)
def test_vectors_have_remedies_that_fit_pools_of_nothing_else(reason: str, remedy: str) -> None:
    with pytest.raises(InputError) as refused:
        check_share([Reject("a", "ingest", reason)], 1, 0.05, "pool")
    assert refused.value.remedy.startswith(("take", "give")) and remedy in refused.value.remedy


def test_reasons_are_counted_by_kind() -> None:
    assert count_reasons(ROWS) == {
        "not an image that Pillow can read": 2,
        "feature is zero or not finite": 1,
        "label outside the range": 1,
    }
    assert next(iter(count_reasons(ROWS[::-1]))) == "not an image that Pillow can read"  # the commonest first
    assert count_reasons([]) == {}


@given(
    st.lists(st.builds(Reject, st.text(max_size=3), st.just("ingest"), st.sampled_from(["a: 1", "a (2)", "b", "c: d"])))
)
def test_every_reject_is_counted_once(rejects: list[Reject]) -> None:
    assert count_reasons(rejects) == Counter(r.reason[0] for r in rejects)


def test_messages_give_counts_and_the_first_row_of_each_kind() -> None:
    assert commonest(ROWS[:2] + ROWS[3:]) == (
        "2 x not an image that Pillow can read (key b: not an image that Pillow can read (22 bytes)); "
        "1 x label outside the range (key c: label outside the range: 12, need 0..9)"
    )
    many = [Reject(str(i), "ingest", f"{'abcd'[i]}: {i}") for i in range(4)]
    assert commonest(many) == "1 x a (key 0: a: 0); 1 x b (key 1: b: 1); 1 x c (key 2: c: 2)"


@pytest.mark.parametrize(("rows", "limit"), [(0, 0.0), (4, 1.0), (8, 0.5), (80, 0.05)])
def test_a_share_up_to_the_limit_is_fine(rows: int, limit: float) -> None:
    check_share(ROWS if rows else [], rows, limit, "the pool")


@pytest.mark.parametrize(("rows", "limit"), [(4, 0.99), (7, 0.5), (79, 0.05), (1000, 0.0)])
def test_a_share_above_the_limit_ends_the_job(rows: int, limit: float) -> None:
    with pytest.raises(InputError) as caught:
        check_share(ROWS, rows, limit, "the pool")
    assert caught.value.exit_code == 3
    assert caught.value.cause.startswith(
        f"the pool: 4 of {rows} rows were rejected, more than max_reject_fraction {limit}"
    )
    assert "2 x not an image that Pillow can read" in caught.value.cause
    assert "max_reject_fraction" in caught.value.remedy
