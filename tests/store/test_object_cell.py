"""Leases on S3, with a client and a server that keep conditions."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.store import writing as module
from coevo_ray.store.lease import Holder, take
from coevo_ray.store.lease_cells import RELEASED, Seen, SettledCell
from coevo_ray.store.location import Location
from coevo_ray.store.object_cell import ObjectCell
from coevo_ray.store.process import Process
from coevo_ray.store.writing import claim, committing, writing
from tests.s3_server import S3Folder, s3_server

pytest.importorskip("obstore")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Folder]:
    (tmp_path / "bucket").mkdir()
    with s3_server(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def place(server: S3Folder) -> Location:
    return Location.parse(server.uri("bucket/runs/pool"))


@pytest.fixture
def cell(place: Location) -> ObjectCell:
    return ObjectCell(place.child("_lease.json"))


def test_an_object_changes_only_as_it_was_seen(cell: ObjectCell) -> None:
    assert cell.read() is None
    first = cell.create(b"one")
    assert first is not None and cell.read() == first
    assert cell.create(b"two") is None
    second = cell.replace(b"two", first)
    assert second is not None and cell.read() == second
    assert cell.replace(b"three", first) is None
    assert not cell.remove(first)
    assert cell.remove(second)
    released = cell.read()
    assert released is not None and released.content == RELEASED
    assert cell.replace(b"four", second) is None
    assert cell.replace(b"four", released) is not None


def test_an_object_that_is_gone_is_not_replaced(cell: ObjectCell, server: S3Folder) -> None:
    seen = cell.create(b"one")
    assert seen is not None
    (server.root / "bucket/runs/pool/_lease.json").unlink()
    assert cell.replace(b"two", seen) is None
    assert cell.read() is None


@pytest.mark.parametrize("fresh", [True, False])
def test_one_of_many_writers_gets_an_object(cell: ObjectCell, place: Location, fresh: bool) -> None:
    seen = None if fresh else cell.create(b"expired")
    start, won = threading.Barrier(8), list[Seen]()

    def compete(name: int) -> None:
        mine = ObjectCell(place.child("_lease.json"))
        start.wait(60)
        content = f"writer {name}".encode()
        made = mine.create(content) if seen is None else mine.replace(content, seen)
        if made is not None:
            won.append(made)

    threads = [threading.Thread(target=compete, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [cell.read()] == won


def test_a_lease_on_s3_is_taken_confirmed_and_released(place: Location, cell: ObjectCell) -> None:
    for _ in range(2):  # the second one finds that the first was released
        with writing(place):
            claim(place)
            there = cell.read()
            holder = None if there is None else Holder.of(there.content)
            assert holder is not None and holder.process == Process.current()
            with committing(place):
                pass
        after = cell.read()
        assert after is not None and after.content == RELEASED


def test_a_second_writer_on_s3_is_refused(place: Location, cell: ObjectCell) -> None:
    lease = take(cell, str(place))
    with pytest.raises(UsageError, match="is being written"), writing(place, at_once=True):
        pass
    assert lease.renew()


def test_a_lost_lease_on_s3_is_noticed(place: Location, cell: ObjectCell) -> None:
    with writing(place, at_once=True):
        there = cell.read()
        assert there is not None
        other = Holder.new(60, replace(Process.current(), pid=1))
        assert cell.replace(other.to_bytes(), there) is not None
        with pytest.raises(StoppedError, match="is lost"), committing(place):
            pass
    after = cell.read()
    assert after is not None and after.content == other.to_bytes()


def test_without_the_client_a_lease_is_checked_and_not_enforced(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(module._cell(place), ObjectCell)
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert isinstance(module._cell(place), SettledCell)
