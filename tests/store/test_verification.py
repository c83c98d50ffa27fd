"""Damage of any file of an artifact is found: when it is opened, or by `doctor --verify`."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pytest

from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.checked import SMALL_BYTES
from coevo_ray.store.data_files import write_blob, write_table
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.verification import verify_below
from tests.command_line import Command


def artifact(folder: Path, rows: int = 50, width: int = 1) -> Path:
    place, random = Location.parse(folder), np.random.default_rng(0)
    begin(place, "numbers", {"a": 1}, {})
    columns = {"row_id": np.arange(rows), "x": [random.bytes(width) for _ in range(rows)]}
    files = [write_table(place, "a.parquet", pa.table(columns)), write_blob(place, "b.json", b"{}")]
    finish(place, "numbers", {"a": 1}, {}, files, {})
    return folder


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_table_whose_size_is_another_is_not_opened(tmp_path: Path) -> None:
    file = artifact(tmp_path, 2000, 1000) / "a.parquet"
    data = file.read_bytes()
    assert len(data) > SMALL_BYTES
    for changed in (data[:-1], b"x" + data, b""):
        file.write_bytes(changed)
        with pytest.raises(InputError, match=r"a\.parquet is damaged or replaced: it has \d+ bytes, its manifest says"):
            RowTable(tmp_path).row_ids()
    file.unlink()
    with pytest.raises(InputError, match=r"cannot read .*a\.parquet"):
        RowTable(tmp_path).row_ids()


def test_a_small_table_is_compared_when_it_is_opened(tmp_path: Path) -> None:
    file = artifact(tmp_path) / "a.parquet"
    assert RowTable(tmp_path).row_ids().tolist() == list(range(50))
    for at in (10, -20):
        flip(file, at)
        with pytest.raises(InputError, match=r"a\.parquet has the checksum"):
            RowTable(tmp_path).row_ids()
        flip(file, at)
    assert len(RowTable(tmp_path).row_ids()) == 50


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.98])
def test_a_flipped_bit_of_a_large_table_is_noticed_when_it_is_read(share: float, tmp_path: Path) -> None:
    file = artifact(tmp_path, 2000, 1000) / "a.parquet"
    size = file.stat().st_size
    assert size > SMALL_BYTES
    flip(file, int(share * size))
    with pytest.raises(InputError, match=r"a\.parquet is damaged: .*page"):
        RowTable(tmp_path).scan(["row_id", "x"])


def test_a_table_with_other_rows_than_stated_is_refused(tmp_path: Path) -> None:
    manifest = artifact(tmp_path) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][0]["rows"] = 10**12
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has 50 rows, its manifest says 1000000000000"):
        RowTable(tmp_path).row_ids()


def test_a_file_that_is_no_table_of_rows_is_refused(tmp_path: Path) -> None:
    place = Location.parse(tmp_path)
    for name, data in (("x.parquet", b"PAR1" * 9), ("y.parquet", b"")):
        entry = write_blob(place, name, data)
        finish(place, "numbers", {}, {}, [type(entry)(name, 1, len(data), entry.sha256, 0, 0, 1)], {})
        with pytest.raises(InputError, match="cannot read"):
            RowTable(tmp_path).row_ids()


def test_every_damaged_file_below_a_folder_is_named(tmp_path: Path, coevo_ray: Command) -> None:
    run = tmp_path / "run"
    for name in ("one", "deep/two", "deep/three", "four"):
        artifact(run / name)
    begin(Location.parse(run / "half"), "numbers", {"a": 1}, {})
    good = coevo_ray("doctor", "--verify", str(run), "--json")
    assert good.returncode == 0, good.stderr
    found = json.loads(good.stdout)["verified"]
    assert (found["artifacts"], found["files"], found["damaged"]) == (4, 8, [])
    assert found["unfinished"] == [str(run / "half")] and "verify: 8 files in" in good.stderr
    flip(run / "one/a.parquet", 30)
    (run / "deep/two/b.json").write_bytes(b"{} ")
    (run / "deep/three/b.json").unlink()
    (run / "four/manifest.json").write_bytes(b"[")
    bad = coevo_ray("doctor", "--verify", str(run), "--json")
    assert bad.returncode == 3
    damaged = json.loads(bad.stdout)["verified"]["damaged"]
    assert [line.partition(" ")[0] for line in damaged] == [
        str(run / "deep/three/b.json"),
        str(run / "deep/two/b.json"),
        str(run / "four/manifest.json"),
        str(run / "one/a.parquet"),
    ]
    told = [line.split(" ", 1)[1] for line in damaged]
    assert told[0] == "is missing" and told[1] == "has 3 bytes, need 2" and told[3] == "differs from its checksum"
    words = coevo_ray("doctor", "--verify", str(run))
    assert words.returncode == 3 and all(line in words.stderr for line in damaged)


def test_an_artifact_itself_and_nothing_to_verify(tmp_path: Path, coevo_ray: Command) -> None:
    assert verify_below(Location.parse(artifact(tmp_path / "one"))).files == 2
    (tmp_path / "empty").mkdir()
    for folder, cause in (("empty", "no artifact at or below"), ("nowhere", "there is no folder")):
        result = coevo_ray("doctor", "--verify", str(tmp_path / folder))
        assert result.returncode == 3 and cause in result.stderr


class LosingStore(ThreadingHTTPServer):
    """An S3 server that takes uploads, and loses the last bytes of each while `loses` is not 0."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.loses = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LosingStore

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", size: int | None = None) -> None:
        self.send_response(status)
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        self.wfile.write(body)

    def _key(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return parts.path, parse_qs(parts.query, keep_blank_values=True)

    def _body(self) -> bytes:
        data = self._received()
        if "aws-chunked" not in (self.headers.get("Content-Encoding") or ""):
            return data
        content = b""
        while True:
            head, _, data = data.partition(b"\r\n")
            size = int(head.split(b";")[0], 16)
            if size == 0:
                return content
            content, data = content + data[:size], data[size + 2 :]

    def _received(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _keep(self, key: str, data: bytes) -> None:
        self.server.objects[key] = data[: len(data) - self.server.loses]

    def do_HEAD(self) -> None:
        key, _ = self._key()
        data = self.server.objects.get(key)
        if data is None:
            self._answer(200 if key.count("/") == 1 else 404)
        else:
            self._answer(200, size=len(data))

    def do_GET(self) -> None:
        self._answer(
            200, b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
        )

    def do_PUT(self) -> None:
        key, query = self._key()
        data = self._body()
        if "partNumber" in query:
            self.server.parts[key, int(query["partNumber"][0])] = data
        else:
            self._keep(key, data)
        self._answer(200)

    def do_POST(self) -> None:
        key, query = self._key()
        self._body()
        if "uploads" in query:
            self._answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
            return
        mine = sorted(place for place in self.server.parts if place[0] == key)
        self._keep(key, b"".join(self.server.parts.pop(place) for place in mine))
        self._answer(200, b"<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[LosingStore]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = LosingStore()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_upload_that_lost_bytes_is_in_no_manifest(store: LosingStore) -> None:
    options = f"region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{store.server_port}"
    place = Location.parse(f"s3://bucket/table?{options}")
    table = pa.table({"row_id": np.arange(50)})
    entry = write_table(place, "a.parquet", table)
    assert len(store.objects["/bucket/table/a.parquet"]) == entry.bytes
    store.loses = 3
    with pytest.raises(StoppedError, match=re.escape(f"has {entry.bytes - 3} of the {entry.bytes} bytes")):
        write_table(place, "b.parquet", table)
    with pytest.raises(StoppedError, match="has 7 of the 10 bytes that were written"):
        write_blob(place, "c.json", b"0123456789")


def test_a_copy_of_an_artifact_is_as_good(tmp_path: Path) -> None:
    shutil.copytree(artifact(tmp_path / "one"), tmp_path / "two")
    assert load_manifest(Location.parse(tmp_path / "two")) == load_manifest(Location.parse(tmp_path / "one"))
    assert verify_below(Location.parse(tmp_path)).damaged == []
