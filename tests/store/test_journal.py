from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coevo_ray.errors import InputError
from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location


@pytest.fixture
def place(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "journal"))


def test_records_come_back_in_order(place: Location) -> None:
    journal = Journal(place)
    for i in range(12):
        journal.append("add", {"i": i}, {"x": np.arange(i)})
    records = list(Journal(place).replay())
    assert [r.fields["i"] for r in records] == list(range(12))
    assert [len(r.arrays["x"]) for r in records] == list(range(12))


def test_a_snapshot_replaces_what_came_before(place: Location) -> None:
    journal = Journal(place)
    journal.append("add", {"i": 0})
    journal.snapshot({"sum": 0}, {"usage": np.arange(3, dtype=np.uint16)})
    journal.append("add", {"i": 1})
    records = list(Journal(place).replay())
    assert [r.event for r in records] == ["snapshot", "add"]
    assert records[0].arrays["usage"].dtype == np.uint16
    assert len(place.files()) == 2


def test_a_new_writer_continues_the_numbers(place: Location) -> None:
    Journal(place).append("a", {})
    Journal(place).append("b", {})
    assert [r.event for r in Journal(place).replay()] == ["a", "b"]


def test_a_torn_write_loses_nothing_acknowledged(place: Location) -> None:
    journal = Journal(place)
    journal.append("a", {})
    Path(place.child("0000000001.record.tmp-dead").path).write_bytes(b"half")
    assert [r.event for r in Journal(place).replay()] == ["a"]
    Journal(place).append("b", {})
    assert [r.event for r in Journal(place).replay()] == ["a", "b"]


def test_a_crash_between_snapshot_and_clean_up_changes_nothing(place: Location) -> None:
    journal = Journal(place)
    journal.append("a", {})
    old = place.child("0000000000.record").read_bytes()
    journal.snapshot({"n": 1}, {})
    place.child("0000000000.record").write_bytes(old)  # as if the crash came before it was deleted
    assert [r.event for r in Journal(place).replay()] == ["snapshot"]


def test_damage_and_gaps_are_found(place: Location) -> None:
    journal = Journal(place)
    for name in "abc":
        journal.append(name, {})
    Path(place.child("0000000001.record").path).write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged"):
        list(Journal(place).replay())
    Path(place.child("0000000001.record").path).unlink()
    with pytest.raises(InputError, match="without a gap"):
        list(Journal(place).replay())
