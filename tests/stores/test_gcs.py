"""Reading, writing and leases over Google's protocols, with fake-gcs-server."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.store.journal import Journal
from coevo_ray.store.lease_cells import RELEASED, Seen
from coevo_ray.store.location import Location
from coevo_ray.store.object_cell import ObjectCell
from coevo_ray.store.writing import claim, committing, writing
from tests.stores.fault_proxy import serving
from tests.stores.gcs_xml import XmlGate
from tests.stores.servers import FakeGCS


@pytest.fixture(scope="module")
def gate(gcs: FakeGCS) -> Iterator[XmlGate]:
    gcs.make_bucket("bucket")
    with serving(XmlGate(gcs.address)) as gate:
        yield gate


@pytest.fixture
def place(gate: XmlGate) -> Location:
    query = f"scheme=http&endpoint_override={gate.address}"
    return Location.parse(f"gs://anonymous@bucket/{uuid.uuid4().hex[:8]}/run?{query}")


@pytest.mark.parametrize("size", [0, 1, 70_000, (10 << 20) + 17])
def test_another_client_reads_what_was_written(place: Location, gcs: FakeGCS, size: int) -> None:
    data = os.urandom(size)
    place.child("folder", "a b.bin").write_bytes(data)
    assert place.child("folder").files() == ["a b.bin"] and place.child("folder", "a b.bin").read_bytes() == data
    assert place.child("folder", "a b.bin").size() == size
    assert (gcs.folder / "data" / place.path / "folder" / "a b.bin").read_bytes() == data


def test_a_journal_is_kept(place: Location) -> None:
    journal = Journal(place)
    for number in range(5):
        journal.append("event", {"number": number})
    journal.snapshot({"state": 5}, {})
    journal.append("event", {"number": 5})
    assert [record.fields for record in Journal(place).replay()] == [{"state": 5}, {"number": 5}]


def test_an_object_changes_only_as_it_was_seen(place: Location) -> None:
    pytest.importorskip("obstore")
    cell = ObjectCell(place.child("_lease.json"))
    assert cell.read() is None
    first = cell.create(b"one")
    assert first is not None and cell.read() == first
    assert cell.create(b"two") is None
    second = cell.replace(b"two", first)
    assert second is not None and cell.replace(b"three", first) is None and cell.read() == second
    assert not cell.remove(first) and cell.remove(second)
    after = cell.read()
    assert after is not None and after.content == RELEASED
    assert ObjectCell(place.child("nothing")).replace(b"1", first) is None


def test_one_of_many_writers_gets_an_object(place: Location) -> None:
    pytest.importorskip("obstore")
    start, won = threading.Barrier(8), list[Seen]()

    def compete(name: int) -> None:
        mine = ObjectCell(place.child("_lease.json"))
        start.wait(60)
        made = mine.create(f"writer {name}".encode())
        if made is not None:
            won.append(made)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(compete, i) for i in range(8)]:
            done.result(120)
    assert [ObjectCell(place.child("_lease.json")).read()] == won


def test_a_second_writer_is_refused(place: Location) -> None:
    pytest.importorskip("obstore")

    def second() -> None:
        with pytest.raises(UsageError, match="is being written"), writing(place):
            claim(place)

    for _ in range(2):  # the second one finds that the first was released
        with writing(place, at_once=True):
            with committing(place):
                pass
            with ThreadPoolExecutor(1) as other:  # another thread is another writer
                other.submit(second).result(120)


def test_a_missing_bucket_and_a_server_that_is_away_are_told_within_seconds(gcs: FakeGCS) -> None:
    begun = time.monotonic()
    with pytest.raises(UsageError, match="there is no bucket"):
        Location.parse(gcs.uri("no-such-bucket/run")).check_writable()
    with pytest.raises(StoppedError, match="cannot reach"):
        Location.parse("gs://anonymous@bucket/run?scheme=http&endpoint_override=127.0.0.1:9").exists()
    assert time.monotonic() - begun < 25  # ten are promised, on a machine that is not busy with other tests
