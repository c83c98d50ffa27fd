from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from coevo_ray.errors import InputError, StoppedError
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


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
def test_records_are_safetensors_and_arrays_come_back_as_they_were(place: Location, dtype: str) -> None:
    arrays = {
        "odd": np.array([1, 0, 1], dtype=np.uint8),
        "x": (np.arange(12) % 5).astype(dtype).reshape(3, 4),
        "none": np.zeros((0, 2), dtype=dtype),
        "every_other": np.arange(10).astype(dtype)[::2],
    }
    Journal(place).append("add", {"i": 1}, arrays)
    (record,) = Journal(place).replay()
    library = load_safetensors(place.child("0000000000.record").read_bytes())
    for name, array in arrays.items():
        for got in (record.arrays[name], library[name]):
            assert got.dtype == array.dtype and np.array_equal(got, array) and got.shape == array.shape
    assert record.arrays["x"].flags.aligned


def test_a_snapshot_is_due_when_records_outweigh_it_or_are_many(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coevo_ray.store.journal._SMALL_BYTES", 1000)
    journal = Journal(place)
    journal.append("add", {}, {"x": np.zeros(700, dtype=np.uint8)})
    assert not journal.snapshot_due()
    journal.append("add", {}, {"x": np.zeros(700, dtype=np.uint8)})
    assert journal.snapshot_due()
    journal.snapshot({}, {"x": np.zeros(5000, dtype=np.uint8)})
    for _ in range(3):
        assert not journal.snapshot_due()
        journal.append("add", {}, {"x": np.zeros(5000, dtype=np.uint8)})
    again = Journal(place)
    list(again.replay())
    for opened in (journal, again):
        assert opened.snapshot_due()
    again.snapshot({}, {"x": np.zeros(5000, dtype=np.uint8)})
    for _ in range(2):
        again.append("add", {}, {"x": np.zeros(2000, dtype=np.uint8)})
    again = Journal(place)
    list(again.replay())  # what is read counts as what was written: 4 000 bytes of records, 5 000 of a snapshot
    assert not again.snapshot_due()
    again.snapshot({}, {})
    monkeypatch.setattr("coevo_ray.store.journal._MOST_RECORDS", 2)
    again.append("add", {})
    assert not again.snapshot_due()
    again.append("add", {})
    assert again.snapshot_due()


def test_of_two_writers_the_one_that_is_behind_stops(place: Location) -> None:
    behind, ahead = Journal(place), Journal(place)
    ahead.append("a", {"by": "ahead"})
    for change in (lambda: behind.append("b", {}), lambda: behind.snapshot({}, {})):
        with pytest.raises(StoppedError, match="another process"):
            change()
    assert [record.fields for record in Journal(place).replay()] == [{"by": "ahead"}]
    behind = Journal(place)
    ahead.append("a", {"by": "ahead"})
    ahead.snapshot({"n": 2}, {})  # takes the records away: the number that the other would write is free again
    for change in (lambda: behind.append("b", {}), lambda: behind.snapshot({}, {})):
        with pytest.raises(StoppedError, match="another process"):
            change()
    assert [record.fields for record in Journal(place).replay()] == [{"n": 2}]
    ahead.append("a", {"by": "ahead"})
    assert len(list(Journal(place).replay())) == 2


def test_a_file_is_created_once(place: Location) -> None:
    assert place.child("x").create_bytes(b"one", b"!")
    assert not place.child("x").create_bytes(b"two")
    assert place.child("x").read_bytes() == b"one!"
    assert place.files() == ["x"]


def test_damage_and_gaps_are_found(place: Location) -> None:
    journal = Journal(place)
    for name in "abc":
        journal.append(name, {}, {"x": np.arange(3)})
    whole = place.child("0000000001.record").read_bytes()
    for damaged in (b"", b"damaged", whole[:-1], whole + b"x", whole[:20] + b"x" + whole[21:]):
        Path(place.child("0000000001.record").path).write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            list(Journal(place).replay())
    Path(place.child("0000000001.record").path).unlink()
    with pytest.raises(InputError, match="without a gap"):
        list(Journal(place).replay())


@pytest.mark.parametrize("before", range(5))
def test_however_many_records_there_are_the_next_one_follows(place: Location, before: int) -> None:
    journal = Journal(place)
    for i in range(before):
        journal.append("add", {"i": i})
    Journal(place).append("add", {"i": before})
    assert [record.number for record in Journal(place).replay()] == list(range(before + 1))


def test_nothing_is_left_of_what_a_snapshot_replaces(place: Location) -> None:
    journal = Journal(place)
    for i in range(3):
        journal.append("add", {"i": i})
        journal.snapshot({"n": i}, {})
    assert place.files() == ["0000000003.snapshot"]
    journal.snapshot({"n": 9}, {})
    assert [record.fields for record in Journal(place).replay()] == [{"n": 9}]


def test_a_record_that_is_refused_is_not_left_behind(place: Location) -> None:
    behind, ahead = Journal(place), Journal(place)
    ahead.append("a", {})
    ahead.snapshot({"n": 1}, {})
    with pytest.raises(StoppedError, match="another process"):
        behind.append("b", {})
    assert place.files() == ["0000000001.snapshot"]
