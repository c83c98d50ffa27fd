from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import load as load_safetensors

from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.journal import Journal
from coevo_ray.store.journal_head import SLOT_BYTES, Head, HeadFile
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
    assert place.files() == ["0000000001.record", "0000000001.snapshot", "head"]


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
    assert place.files() == ["0000000003.snapshot", "head"]
    journal.snapshot({"n": 9}, {})
    assert [record.fields for record in Journal(place).replay()] == [{"n": 9}]


def test_a_record_that_is_refused_is_not_left_behind(place: Location) -> None:
    behind, ahead = Journal(place), Journal(place)
    ahead.append("a", {})
    ahead.snapshot({"n": 1}, {})
    with pytest.raises(StoppedError, match="another process"):
        behind.append("b", {})
    assert place.files() == ["0000000001.snapshot", "head"]


def _state(place: Location) -> list[tuple[int, str, str, dict[str, list[int]]]]:
    return [
        (r.number, r.event, json.dumps(r.fields, sort_keys=True), {k: v.tolist() for k, v in r.arrays.items()})
        for r in Journal(place).replay()
    ]


def _written(place: Location) -> None:
    """A journal with all that one can have: a record that the snapshot replaced, the snapshot, records, the head."""
    journal = Journal(place)
    journal.append("labels", {"i": 0}, {"x": np.arange(4)})
    old = place.child("0000000000.record").read_bytes()
    journal.snapshot({"n": 1}, {"usage": np.arange(6, dtype=np.uint16)})
    place.child("0000000000.record").write_bytes(old)
    for i in range(1, 4):
        journal.append("commit", {"i": i}, {"x": np.arange(i), "bits": np.array([True, False])})


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_found_or_changes_nothing(data: st.DataObject, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        _written(Location.parse(str(whole)))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "journal"
        shutil.copytree(whole, place)
        before = _state(Location.parse(str(whole)))
        file = place / data.draw(st.sampled_from(sorted(path.name for path in place.iterdir())))
        content = bytearray(file.read_bytes())
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        read = file.name not in ("0000000000.record", "head")  # behind the snapshot; the other slot counts
        try:
            after = _state(Location.parse(str(place)))
        except InputError as error:
            assert read and (file.name in str(error) or "head" in str(error))
        else:
            assert not read and after == before


@pytest.mark.parametrize("lost", ["0000000003.record", "0000000001.snapshot", "0000000002.record", "head"])
def test_a_lost_file_is_missed(place: Location, lost: str) -> None:
    _written(place)
    place.child(lost).delete_file()
    with pytest.raises(InputError, match=r"are lost|without a gap|lost its file head|does not follow"):
        _state(place)
    if lost in ("0000000003.record", "head"):  # who does not replay does not write over it either
        with pytest.raises(InputError, match=r"are lost|lost its file head"):
            Journal(place).append("b", {})


def test_a_file_of_another_journal_is_refused(place: Location, tmp_path: Path) -> None:
    other = Location.parse(str(tmp_path / "other"))
    for location, n in ((place, 1), (other, 2)):
        journal = Journal(location)
        for i in range(3):
            journal.append("add", {"i": n * i})
    for name in ("0000000001.record", "0000000002.record"):
        ours = place.child(name).read_bytes()
        place.child(name).write_bytes(other.child(name).read_bytes())
        with pytest.raises(InputError, match="does not follow the one before it"):
            _state(place)
        place.child(name).write_bytes(ours)
    place.child("head").write_bytes(other.child("head").read_bytes())
    with pytest.raises(InputError, match="head names another one"):
        _state(place)


def test_a_head_that_a_power_cut_emptied_loses_nothing(place: Location) -> None:
    _written(place)
    state = _state(place)
    place.child("head").write_bytes(b"")
    assert _state(place) == state
    Journal(place).append("c", {})
    assert [each[1] for each in _state(place)] == [*(each[1] for each in state), "c"]


def _former_head(place: Location) -> bytes:
    """The head as it was before it had slots and a checksum: 128 bytes, written in place."""
    content = place.child("head").read_bytes()
    slots = [json.loads(content[i : i + SLOT_BYTES]) for i in range(0, len(content), SLOT_BYTES)]
    newest = max(slots, key=lambda slot: slot["write"])
    return json.dumps({"next": newest["next"], "sha256": newest["sha256"]}).encode().ljust(128)


@pytest.mark.parametrize("former", [False, True], ids=["head of slots", "former head"])
@pytest.mark.parametrize("change", ["append", "snapshot"])
@pytest.mark.parametrize("before", range(3))
def test_a_head_torn_at_any_byte_loses_nothing(place: Location, before: int, change: str, former: bool) -> None:
    head, journal = Path(place.path, "head"), Journal(place)
    for i in range(before):
        journal.append("a", {"i": i})
    if former and before:
        place.child("head").write_bytes(_former_head(place))
    old = place.child("head").read_bytes() if before else b""
    older = HeadFile(place).read() or Head(-1, -1, "")
    journal = Journal(place)
    if change == "append":
        journal.append("b", {})
    else:
        journal.snapshot({"n": before}, {})
    new, state = place.child("head").read_bytes(), _state(place)
    newer = HeadFile(place).read()
    for cut in range(len(new)):
        head.write_bytes(new[:cut] + old[cut:])
        assert HeadFile(place).read() in (older, newer)
    for cut in range(0, len(new), 61):
        head.write_bytes(new[:cut] + old[cut:])
        assert _state(place) == state
        Journal(place).append("c", {})
        assert [each[1] for each in _state(place)] == [*(each[1] for each in state), "c"]
        place.child(f"{before + (change == 'append'):010d}.record").delete_file()
        with pytest.raises(InputError, match="are lost"):
            _state(place)


def test_a_lost_last_record_is_noticed_with_a_torn_head_before_it(place: Location) -> None:
    journal = Journal(place)
    for i in range(5):
        journal.append("a", {"i": i})
    older = bytearray(place.child("head").read_bytes())
    older[SLOT_BYTES + 20] ^= 1  # the fifth head is in the first slot
    place.child("head").write_bytes(bytes(older))
    place.child("0000000004.record").delete_file()
    with pytest.raises(InputError, match="need 4: the last ones are lost"):
        _state(place)


def test_a_former_head_is_read_and_notices_a_lost_record(place: Location) -> None:
    _written(place)
    state = _state(place)
    place.child("head").write_bytes(_former_head(place))
    assert _state(place) == state
    last = place.child("0000000003.record").read_bytes()
    place.child("0000000003.record").delete_file()
    with pytest.raises(InputError, match="need 3: the last ones are lost"):
        _state(place)
    place.child("0000000003.record").write_bytes(last)
    for _ in range(3):
        Journal(place).append("c", {})
    assert len(place.child("head").read_bytes()) == 2 * SLOT_BYTES
    assert [each[1] for each in _state(place)] == [*(each[1] for each in state), "c", "c", "c"]


@pytest.mark.parametrize("content", [b"{", b'{"write": 0, "nex', b"\0" * 300])
def test_a_head_without_a_whole_write_proves_nothing(place: Location, content: bytes) -> None:
    _written(place)
    state = _state(place)
    place.child("head").write_bytes(content)
    assert _state(place) == state


@pytest.mark.parametrize("content", [b"{}", b'{"write": 1, "nex', b'{"write": 0, '.ljust(SLOT_BYTES), b"x" * 600])
def test_a_head_of_damaged_slots_is_refused(place: Location, content: bytes) -> None:
    _written(place)
    place.child("head").write_bytes(content)
    with pytest.raises(InputError, match="head is damaged"):
        _state(place)
    with pytest.raises(InputError, match="head is damaged"):
        Journal(place).append("c", {})


@pytest.mark.parametrize("after", ["append", "first append", "snapshot"])
def test_a_crash_before_the_head_is_written_keeps_the_change(place: Location, after: str) -> None:
    journal = Journal(place)
    if after != "first append":
        journal.append("a", {"i": 0})
    head = place.child("head").read_bytes() if after != "first append" else None
    if after == "snapshot":
        journal.snapshot({"n": 1}, {})
    else:
        journal.append("b", {"i": 1})
    state = _state(place)
    if head is None:
        place.child("head").delete_file()
    else:
        place.child("head").write_bytes(head)
    assert _state(place) == state
    Journal(place).append("c", {})
    assert [each[1] for each in _state(place)] == [*(each[1] for each in state), "c"]


def test_a_change_whose_head_cannot_be_written_is_not_acknowledged(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(place)
    journal.append("a", {})

    def full(self: Location, content: bytes, offset: int) -> None:
        raise StoppedError(f"cannot write {self}: no space left", "free space")

    with monkeypatch.context() as patch, pytest.raises(StoppedError, match="head: no space left"):
        patch.setattr(Location, "note_bytes", full)
        journal.append("b", {"try": 1})
    assert [each[1] for each in _state(place)] == ["a"]
    journal.append("b", {"try": 2})
    assert [each[2] for each in _state(place)] == ["{}", '{"try": 2}']


def test_files_that_a_snapshot_cannot_delete_do_no_harm(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(place)
    for i in range(2):
        journal.append("a", {"i": i})

    def refused(self: Location) -> None:
        raise StoppedError(f"cannot write {self}: permission denied", "restore the store")

    with monkeypatch.context() as patch:
        patch.setattr(Location, "delete_file", refused)
        journal.snapshot({"n": 2}, {})
    journal.append("a", {"i": 2})
    assert [each[1] for each in _state(place)] == ["snapshot", "a"]
    journal.snapshot({"n": 3}, {})
    assert place.files() == ["0000000003.snapshot", "head"], "the next one tries again"


@pytest.mark.parametrize("name", ["0000000001 (1).record", "notes.txt", "1.record", "0000000002.records"])
def test_files_of_others_are_named(place: Location, name: str) -> None:
    Journal(place).append("a", {})
    place.child(".DS_Store").write_bytes(b"")  # what a desktop leaves is no record
    assert len(_state(place)) == 1
    place.child(name).write_bytes(b"")
    with pytest.raises(InputError, match="not the journal's") as refused:
        Journal(place)
    assert name in str(refused.value)


def test_a_checksum_is_that_of_the_file_without_it(place: Location) -> None:
    journal = Journal(place)
    journal.append("a", {"text": "0" * 64}, {"x": np.arange(3)})
    journal.append("b", {})
    previous = ""
    for name in ("0000000000.record", "0000000001.record"):
        content = place.child(name).read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        blank = content.replace(header["sha256"].encode(), b"0" * 64, 1)
        assert header["sha256"] == hashlib.sha256(blank).hexdigest() and header["previous"] == previous
        previous = header["sha256"]
    newest = json.loads(place.child("head").read_bytes()[SLOT_BYTES:])
    crc32 = zlib.crc32(f"1 2 {previous}".encode())
    assert newest == {"write": 1, "next": 2, "sha256": previous, "crc32": crc32}
