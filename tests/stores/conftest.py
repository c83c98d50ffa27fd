"""One server of each kind for all tests that need one; credentials of a user who may read and write."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from coevo_ray.store.location import Location
from tests.stores.fault_proxy import serving
from tests.stores.gcs_xml import XmlGate
from tests.stores.servers import ENVIRONMENT, FakeGCS, SeaweedFS, running, uri

BUCKET = "tests"


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("seaweed"))
    with running(server):
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGCS]:
    server = FakeGCS(tmp_path_factory.mktemp("gcs"))
    with running(server):
        yield server


@dataclass(frozen=True)
class Bucket:
    """A bucket, the address of its server, and a prefix that is one test's own."""

    name: str
    address: str
    prefix: str

    def uri(self, path: str, address: str = "") -> str:
        """The URI of a key below the prefix; through a proxy where its address is given."""
        return uri(f"{self.name}/{self.prefix}/{path}", address or self.address)

    def place(self, path: str, address: str = "") -> Location:
        """As `uri`."""
        return Location.parse(self.uri(path, address))


@pytest.fixture
def bucket(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return Bucket(BUCKET, seaweed.address, uuid.uuid4().hex[:8])


@pytest.fixture(scope="session")
def gcs_gate(gcs: FakeGCS) -> Iterator[XmlGate]:
    gcs.make_bucket("bucket")
    with serving(XmlGate(gcs.address)) as gate:
        yield gate


@pytest.fixture
def gcs_place(gcs_gate: XmlGate) -> Location:
    query = f"scheme=http&endpoint_override={gcs_gate.address}"
    return Location.parse(f"gs://anonymous@bucket/{uuid.uuid4().hex[:8]}/run?{query}")
