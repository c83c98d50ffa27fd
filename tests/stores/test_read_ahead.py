"""Small files of a remote store are read several at a time, and come in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coevo_ray.config import Source
from coevo_ray.errors import StoppedError
from coevo_ray.pool.sources import list_source, read_shard
from coevo_ray.store.location import Location
from coevo_ray.store.read_ahead import AT_ONCE, read_ahead
from tests.pool.pictures import png
from tests.stores.conftest import Bucket
from tests.stores.fault_proxy import Fault, Request, fault_proxy

_FAR = Location.parse("s3://anonymous@bucket/folder?region=us-east-1")


def meeting(parties: int) -> Callable[[Request], Fault]:
    """A rule: images are given out when so many are asked for at once; else no request is answered."""
    barrier = threading.Barrier(parties)
    return lambda request: (lambda: barrier.wait(60)) if request.method == "GET" and ".png" in request.path else None


def test_images_of_a_folder_are_read_several_at_a_time(bucket: Bucket) -> None:
    for i in range(2 * AT_ONCE):
        bucket.place(f"images/{i % 2}/{i:02}.png").write_bytes(png(i))
    with fault_proxy(bucket.address, meeting(AT_ONCE)) as proxy:
        (shard,) = list_source(Source(uri=bucket.uri("images", proxy.address)), 100).shards
        entries = list(read_shard(shard))
    assert [entry.key for entry in entries] == sorted(entry.key for entry in entries)
    assert len(entries) == 2 * AT_ONCE and not any(entry.error for entry in entries)
    assert [entry.label for entry in entries] == [0] * AT_ONCE + [1] * AT_ONCE


def test_images_that_a_table_names_are_read_several_at_a_time(bucket: Bucket, tmp_path: Path) -> None:
    names = [f"images/{i:02}.png" for i in range(AT_ONCE)]
    for i, name in enumerate(names):
        bucket.place(name).write_bytes(png(i))
    pq.write_table(pa.table({"image": [{"bytes": None, "path": name} for name in names]}), tmp_path / "t.parquet")
    bucket.place("t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes())
    with fault_proxy(bucket.address, meeting(AT_ONCE)) as proxy:
        (shard,) = list_source(Source(uri=bucket.uri("t.parquet", proxy.address)), 100).shards
        entries = list(read_shard(shard))
    assert [entry.sample for entry in entries] == [png(i) for i in range(AT_ONCE)]


def test_results_come_in_order_and_an_error_in_its_turn() -> None:
    def read(i: int) -> int:
        if i == 40:
            raise StoppedError("the store failed", "run it again")
        return i * i

    results = read_ahead(read, range(100), _FAR)
    assert [next(results) for _ in range(40)] == [i * i for i in range(40)]
    with pytest.raises(StoppedError):
        next(results)


@pytest.mark.parametrize(("near", "most"), [(Location.parse("/nowhere"), 1), (_FAR, AT_ONCE)])
def test_items_are_taken_as_they_are_needed(near: Location, most: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = read_ahead(lambda item: item, items(), near)
    assert [next(results), taken] == [1, most]
    assert [next(results), taken] == [2, most + 1]
    results.close()  # type: ignore[attr-defined]  # a generator
    assert not any("coevo-ahead" in thread.name and not thread.daemon for thread in _running())


def _running() -> list[threading.Thread]:
    for thread in threading.enumerate():
        if "coevo-ahead" in thread.name:
            thread.join(60)
    return threading.enumerate()
