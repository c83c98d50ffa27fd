"""Reading and writing over Google's protocols, with fake-gcs-server; its leases are in test_lease.py."""

from __future__ import annotations

import os
import time

import pytest

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location
from tests.stores.servers import FakeGCS


@pytest.mark.parametrize("size", [0, 1, 70_000, (10 << 20) + 17])
def test_another_client_reads_what_was_written(gcs_place: Location, gcs: FakeGCS, size: int) -> None:
    data = os.urandom(size)
    gcs_place.child("folder", "a b.bin").write_bytes(data)
    assert (
        gcs_place.child("folder").files() == ["a b.bin"] and gcs_place.child("folder", "a b.bin").read_bytes() == data
    )
    assert gcs_place.child("folder", "a b.bin").size() == size
    assert (gcs.folder / "data" / gcs_place.path / "folder" / "a b.bin").read_bytes() == data


def test_a_journal_is_kept(gcs_place: Location) -> None:
    journal = Journal(gcs_place)
    for number in range(5):
        journal.append("event", {"number": number})
    journal.snapshot({"state": 5}, {})
    journal.append("event", {"number": 5})
    assert [record.fields for record in Journal(gcs_place).replay()] == [{"state": 5}, {"number": 5}]


@pytest.mark.slow
def test_a_missing_bucket_and_a_server_that_is_away_are_told_within_seconds(gcs: FakeGCS) -> None:
    begun = time.monotonic()
    with pytest.raises(UsageError, match="there is no bucket"):
        Location.parse(gcs.uri("no-such-bucket/run")).check_writable()
    with pytest.raises(StoppedError, match="cannot reach"):
        Location.parse("gs://anonymous@bucket/run?scheme=http&endpoint_override=127.0.0.1:9").exists()
    assert time.monotonic() - begun < 25  # ten are promised, on a machine that is not busy with other tests
