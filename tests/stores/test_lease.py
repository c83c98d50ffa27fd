"""Leases on real servers of both stores: their conditional writes let one of many have it."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.lease_cells import RELEASED, Seen
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, load_manifest
from coevo_ray.store.object_cell import ObjectCell
from coevo_ray.store.writing import _cell, claim, committing, writing
from tests.processes import coevo_ray
from tests.stores.conftest import Bucket
from tests.stores.fault_proxy import SLOW_DOWN, Fault, Request, fault_proxy
from tests.stores.servers import ENVIRONMENT

pytest.importorskip("obstore")


@pytest.fixture(params=["s3", "gcs"])
def run(request: pytest.FixtureRequest) -> Location:
    """A folder of one test's own on each store."""
    if request.param == "gcs":
        return cast(Location, request.getfixturevalue("gcs_place"))
    return cast(Bucket, request.getfixturevalue("bucket")).place("run")


def test_an_object_changes_only_as_it_was_seen(run: Location) -> None:
    cell = ObjectCell(run.child("_lease.json"))
    assert cell.read() is None
    first = cell.create(b"one")
    assert first is not None and cell.read() == first
    assert cell.create(b"two") is None
    second = cell.replace(b"two", first)
    assert second is not None and cell.replace(b"three", first) is None and cell.read() == second
    assert not cell.remove(first) and cell.remove(second)
    after = cell.read()
    assert after is not None and after.content == RELEASED
    assert ObjectCell(run.child("nothing")).replace(b"1", first) is None


@pytest.mark.parametrize("fresh", [True, False])
def test_one_of_many_writers_gets_an_object(run: Location, fresh: bool) -> None:
    place = run.child("_lease.json")
    seen = None if fresh else ObjectCell(place).create(b"expired")
    start, won = threading.Barrier(8), list[Seen]()

    def compete(name: int) -> None:
        mine = ObjectCell(place)
        start.wait(60)
        content = f"writer {name}".encode()
        made = mine.create(content) if seen is None else mine.replace(content, seen)
        if made is not None:
            won.append(made)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(compete, i) for i in range(8)]:
            done.result(120)
    assert [ObjectCell(place).read()] == won


def test_a_second_writer_is_refused(run: Location) -> None:
    for _ in range(2):  # the second one finds that the first was released
        with writing(run, at_once=True):
            with committing(run):
                pass
            with ThreadPoolExecutor(1) as other:  # another thread is another writer
                other.submit(_assert_refused, run).result(120)


def test_a_lease_is_taken_and_kept_through_faults(bucket: Bucket) -> None:
    chance = random.Random(3)
    with fault_proxy(bucket.address) as proxy:
        place = bucket.place("run", proxy.address)
        place.exists()
        proxy.rule = lambda request: chance.choice([SLOW_DOWN, "reset", "lost", *[None] * 7])
        assert isinstance(_cell(place), ObjectCell)
        with writing(place, at_once=True):
            for _ in range(20):
                with committing(place):
                    pass
            with ThreadPoolExecutor(1) as other:  # another thread is another writer
                other.submit(_assert_refused, place).result(120)
        proxy.rule = lambda request: None
        with writing(place, at_once=True), committing(place):
            pass


def _assert_refused(place: Location) -> None:
    with pytest.raises(UsageError, match="is being written"), writing(place):
        claim(place)


def test_a_manifest_that_comes_late_does_not_replace_that_of_whoever_took_over(bucket: Bucket) -> None:
    """The first writer's request waits in the network for longer than its lease."""
    at_it, go_on = threading.Event(), threading.Event()

    def rule(request: Request) -> Fault:
        if request.method == "PUT" and MANIFEST in request.path:
            at_it.set()
            go_on.wait(60)
        return None

    with fault_proxy(bucket.address, rule) as proxy, ThreadPoolExecutor(1) as other:
        late = other.submit(_make, bucket.place("run", proxy.address), "late", 1.0)
        assert at_it.wait(60)
        time.sleep(1.5)
        _make(bucket.place("run"), "after", 60.0)
        go_on.set()
        with pytest.raises(StoppedError, match="is lost"):
            late.result(120)
    assert load_manifest(bucket.place("run")).summary == {"who": "after"}


def _make(place: Location, who: str, seconds: float) -> None:
    with writing(place):
        claim(place, seconds)
        assert begin(place, "pool", {}, {}) is None
        finish(place, "pool", {}, {}, [], {"who": who})


def test_a_lease_in_a_bucket_that_is_not_there_is_no_lease(bucket: Bucket) -> None:
    place = Bucket("no-such-bucket", bucket.address, "x").place("run/_lease.json")
    with pytest.raises(UsageError, match="no bucket"):
        ObjectCell(place)


@pytest.mark.slow
def test_of_two_drivers_on_one_output_the_second_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    """Two real processes; the first one waits within the store, by a proxy."""
    go_on = threading.Event()

    def rule(request: Request) -> Fault:
        first_part = request.method == "PUT" and ".parquet" in request.path
        return (lambda: go_on.wait(600)) if first_part else None

    with fault_proxy(bucket.address, rule) as proxy:
        arguments = ("ingest", "sample:digits", "--out")
        first = coevo_ray(tmp_path, *arguments, bucket.uri("pool", proxy.address), environment=ENVIRONMENT)
        try:
            first.until(lambda: any("_lease" in request.path and request.method == "PUT" for request in proxy.seen))
            second = coevo_ray(tmp_path, *arguments, bucket.uri("pool", proxy.address), environment=ENVIRONMENT)
            assert second.wait() == 2, second.err.read_text()
            assert "is being written: process" in second.err.read_text()
            second.assert_gone()
            go_on.set()
            assert first.wait() == 0, first.err.read_text()
            first.assert_gone()
        finally:
            go_on.set()
            first.end()
    assert bucket.place("pool/manifest.json").is_file()
