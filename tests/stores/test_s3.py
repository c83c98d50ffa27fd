"""Reading and writing over the S3 protocol, with a real server, and with one that breaks now and then."""

from __future__ import annotations

import itertools
import os
import random
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from coevo_ray.errors import CoevoError, InputError, StoppedError, UsageError
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_blob, write_table
from coevo_ray.store.journal import Journal
from coevo_ray.store.location import Location
from coevo_ray.store.parts import Parts
from coevo_ray.store.verification import verify_below
from coevo_ray.store.writing import writing
from tests.command_line import Command
from tests.stores.conftest import Bucket
from tests.stores.fault_proxy import BROKEN, SLOW_DOWN, Answer, Fault, Request, fault_proxy
from tests.stores.servers import ENVIRONMENT, KEY, REGION, SECRET, SeaweedFS, running, uri

obstore = pytest.importorskip("obstore")


def client(bucket: Bucket) -> Any:
    """A client of another make than the one under test, straight to the server."""
    from obstore.store import S3Store

    options: Any = {"allow_http": True}
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    config: Any = {"region": REGION, "endpoint": f"http://{bucket.address}", **keys}
    return S3Store(bucket.name, config=config, client_options=options)


def stored(bucket: Bucket, key: str) -> bytes:
    return bytes(obstore.get(client(bucket), f"{bucket.prefix}/{key}").bytes())


@pytest.mark.parametrize("size", [0, 1, 70_000, (10 << 20) + 17])
def test_another_client_reads_what_was_written(bucket: Bucket, size: int) -> None:
    data = random.Random(size).randbytes(size)
    place = bucket.place("folder/a b+c%.bin")
    place.write_bytes(data[: size // 3], data[size // 3 :])
    assert stored(bucket, "folder/a b+c%.bin") == data == place.read_bytes()
    obstore.put(client(bucket), f"{bucket.prefix}/folder/back", data)
    assert bucket.place("folder/back").read_bytes() == data
    assert bucket.place("folder").files() == ["a b+c%.bin", "back"]


def test_few_requests_write_and_read_an_object(bucket: Bucket) -> None:
    with fault_proxy(bucket.address) as proxy:
        place = bucket.place("record", proxy.address)
        place.exists()
        for size, writing in ((100_000, ["PUT"]), (9 << 20, ["PUT"]), (12 << 20, ["POST", "PUT", "PUT", "POST"])):
            before = len(proxy.seen)
            place.write_bytes(bytes(size))
            written = len(proxy.seen)
            assert len(place.read_bytes()) == size
            assert [request.method for request in proxy.seen[before:written]] == writing
            assert [request.method for request in proxy.seen[written:]] == ["HEAD", "GET"]


def at_first(fault: Fault, times: int) -> Any:
    """A rule: as many requests fail from now on."""
    left = [times]

    def rule(request: Request) -> Fault:
        left[0] -= 1
        return fault if left[0] >= 0 else None

    return rule


@pytest.mark.parametrize("fault", [SLOW_DOWN, BROKEN, "reset", "lost"])
def test_requests_that_fail_now_and_then_are_tried_again(bucket: Bucket, fault: Fault) -> None:
    data = os.urandom(12 << 20)  # in two parts
    with fault_proxy(bucket.address) as proxy:
        place = bucket.place("folder/data", proxy.address)
        place.exists()
        for work in (lambda: place.write_bytes(data), lambda: place.parent.files(), place.size, place.read_bytes):
            proxy.rule = at_first(fault, 3)
            assert work() in (None, ["data"], len(data), data)
    assert stored(bucket, "folder/data") == data


def test_tries_come_slower_and_slower(bucket: Bucket) -> None:
    times: list[float] = []

    def rule(request: Request) -> Fault:
        times.append(time.monotonic())
        return SLOW_DOWN if len(times) < 8 else None

    with fault_proxy(bucket.address) as proxy:
        place = bucket.place("folder/data", proxy.address)
        place.exists()
        proxy.rule = rule
        place.write_bytes(b"1")
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert len(waits) == 7 and sum(waits) > 2 and waits[-1] > 1 > waits[0]


def test_a_byte_that_flips_on_the_way_is_refused_by_the_store(bucket: Bucket) -> None:
    with fault_proxy(bucket.address) as proxy:
        place = bucket.place("folder", proxy.address)
        place.exists()
        for size in (1000, 12 << 20):
            proxy.rule = lambda request: "flip" if request.method == "PUT" else None
            with pytest.raises(StoppedError, match="cannot write"):
                write_blob(place, "data", os.urandom(size))
            proxy.rule = lambda request: None
            assert not place.child("data").exists()


def test_an_upload_that_arrives_cut_off_is_noticed_before_a_manifest_names_it(bucket: Bucket) -> None:
    """The store says that all is well, and has less."""

    def rule(request: Request) -> Fault:
        return Answer(200, headers={"ETag": '"x"'}) if request.method == "PUT" else None

    with fault_proxy(bucket.address) as proxy:
        place = bucket.place("folder", proxy.address)
        place.child("data").write_bytes(b"former")
        proxy.rule = rule
        with pytest.raises(StoppedError, match="the store has 6 of the 1000 bytes"):
            write_blob(place, "data", b"x" * 1000)
        with pytest.raises(CoevoError):
            write_table(place, "new.parquet", pa.table({"row_id": [1, 2]}))


def test_a_journal_goes_on_through_faults(bucket: Bucket) -> None:
    chance = random.Random(0)
    with fault_proxy(bucket.address) as proxy:
        place = bucket.place("journal", proxy.address)
        place.exists()
        proxy.rule = lambda request: chance.choice([SLOW_DOWN, BROKEN, "reset", "lost", *[None] * 12])
        journal = Journal(place)
        for number in range(12):
            journal.append("event", {"number": number})
        again = Journal(place)
        assert [record.fields["number"] for record in again.replay()] == list(range(12))


def test_a_store_that_dies_while_it_is_read_is_no_damaged_file(bucket: Bucket) -> None:
    with fault_proxy(bucket.address) as proxy:
        place = bucket.place("images/a.png", proxy.address)
        place.write_bytes(b"1")
        proxy.rule = lambda request: Answer(403, "AccessDenied")
        with pytest.raises(InputError, match="denies reading"):
            place.read_bytes()
        proxy.rule = lambda request: Answer(404, "NoSuchKey")
        with pytest.raises(InputError, match="check the path"):
            place.read_bytes()
        proxy.rule = lambda request: Answer(403, "ExpiredToken") if request.method == "GET" else None
        with pytest.raises(UsageError, match="refuses the credentials"):
            place.parent.files()


# -- what cannot work is told within seconds --------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / label / "1.png")
    return tmp_path / "images"


_TOLD_S = 25  # ten are promised, on a machine that is not busy with other tests
MOVED = Answer(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-central-1"})
OTHER_REGION = Answer(400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": "eu-central-1"})


@pytest.mark.parametrize(
    ("case", "code", "told"),
    [
        ("key", 2, "refuses the credentials"),
        ("secret", 2, "refuses the credentials"),
        ("bucket", 2, "there is no bucket"),
        ("reader", 2, "cannot write to"),
        ("moved", 2, "another region"),
        ("region", 2, "another region"),
        ("port", 4, "cannot reach"),
        pytest.param("name", 4, "cannot reach", marks=pytest.mark.slow),
        pytest.param("hang", 4, "cannot reach", marks=pytest.mark.slow),
    ],
)
def test_wrong_settings_end_a_command_within_seconds(
    bucket: Bucket, images: Path, coevo_ray: Command, monkeypatch: pytest.MonkeyPatch, case: str, code: int, told: str
) -> None:
    faults: dict[str, Fault] = {"moved": MOVED, "region": OTHER_REGION, "hang": "hang"}
    coevo_ray("ingest", str(images / "nothing"), "--out", str(images / "pool"))  # with slow imports
    pairs = {"key": ("nobody", SECRET), "secret": (KEY, "wrong"), "reader": ("reader-key", "reader-secret")}
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), pairs.get(case, (KEY, SECRET)), strict=True):
        monkeypatch.setenv(name, value)
    with fault_proxy(bucket.address, lambda request: faults.get(case)) as proxy:
        address = {"port": "127.0.0.1:9", "name": "nothing.invalid:9000"}.get(case, proxy.address)
        name = "no-such-bucket" if case == "bucket" else bucket.name
        out = Bucket(name, address, bucket.prefix).uri("runs/pool")
        for arguments in (("ingest", str(images), "--out", out), ("ingest", out, "--out", str(images / "pool"))):
            if arguments[1] == out and (code == 4 or case == "reader"):
                continue  # it takes as long again; it may read
            begun = time.monotonic()
            ended = coevo_ray(*arguments)
            seconds = time.monotonic() - begun
            assert ended.returncode == code, ended.stderr
            assert told in ended.stderr and "remedy: " in ended.stderr and "Traceback" not in ended.stderr
            assert seconds < 10, f"{seconds:.1f} s: {ended.stderr}"
    assert not (images / "pool" / "manifest.json").exists()


def test_the_end_point_may_be_named_by_the_environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{bucket.address}")
    place = Location.parse(f"s3://{bucket.name}/{bucket.prefix}/by/environment")
    place.write_bytes(b"1")
    assert stored(bucket, "by/environment") == b"1"
    with fault_proxy(bucket.address) as proxy:  # the address itself counts more
        bucket.place("other", proxy.address).write_bytes(b"2")
        assert proxy.seen


@pytest.mark.slow
def test_a_server_that_is_killed_stops_the_work_and_has_what_was_written_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    server = SeaweedFS(tmp_path / "seaweed")
    tables = {f"{i:06d}.parquet": pa.table({"row_id": [2 * i, 2 * i + 1]}) for i in range(8)}
    with running(server):
        place = Location.parse(uri(f"{server.make_bucket('bucket')}/pool", server.address))
        parts, killed = Parts.of(place, "settings"), 0.0
        with writing(place):
            begin(place, "pool", {}, {})
            with pytest.raises(StoppedError, match="cannot write") as caught:
                for number, (name, table) in enumerate(tables.items()):
                    if number == 4:
                        server.kill()
                        killed = time.monotonic()
                    parts.write_table(name, table)
        assert caught.value.exit_code == 4 and 20 < time.monotonic() - killed < 300
        server.start()
        # As if this process had ended with its lease: a live one keeps it.
        place.child("_lease.json").delete_file()
        with writing(place):
            assert begin(place, "pool", {}, {}) is None
            there = parts.entries(tables)
            assert sorted(there) == sorted(tables)[:4]
            made = {name: there.get(name) or parts.write_table(name, table) for name, table in tables.items()}
            finish(place, "pool", {}, {}, list(made.values()), {})
        found = verify_below(place)
        assert (found.files, found.damaged, found.unfinished) == (8, [], [])
