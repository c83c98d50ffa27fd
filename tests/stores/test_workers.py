"""Workers on nodes whose environment is another one than the driver's: a driver that gets its own later."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import Marked
from tests.stores.conftest import Bucket
from tests.stores.fault_proxy import fault_proxy
from tests.stores.servers import ENVIRONMENT

pytestmark = pytest.mark.slow

# Ray's node and its workers have the environment of its start; what this process sets afterwards is its own.
DRIVER = """
import json, os, sys
from coevo_ray import cli
from coevo_ray.runtime.session import ray_session
with ray_session():
    os.environ.update(json.loads(sys.argv[1]))
    cli.main(sys.argv[2:])
"""
KEYS = {name: value for name, value in ENVIRONMENT.items() if "KEY" in name}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for label in ("a", "b"):
        (tmp_path / "images" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / label / "1.png")
    return tmp_path / "images"


def ingest(images: Path, out: str, later: dict[str, str], environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and stderr of a driver; nothing of it is left."""
    arguments = [sys.executable, "-c", DRIVER, json.dumps(later), "ingest", str(images), "--out", out]
    command = Marked(arguments, images.parent, environment)
    try:
        code = command.wait()
        command.assert_gone()
        return code, command.err.read_text()
    finally:
        command.end()


def test_credentials_that_a_node_lacks_are_told_with_its_name(
    bucket: Bucket, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    code, told = ingest(images, bucket.uri("pool"), KEYS, {})
    assert code == 2, told
    assert "asked from " in told and "every node of the cluster" in told and "AWS_ACCESS_KEY_ID" in told
    assert "Traceback" not in told, told


def test_the_end_point_of_an_address_reaches_the_workers_and_that_of_the_environment_does_not(
    bucket: Bucket, images: Path
) -> None:
    of_the_node = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}  # nobody listens there
    with fault_proxy(bucket.address) as proxy:
        code, told = ingest(images, bucket.uri("pool", proxy.address), {}, of_the_node)
        assert code == 0, told
        assert any(request.method == "PUT" and ".parquet" in request.path for request in proxy.seen)
    right = {"AWS_ENDPOINT_URL": f"http://{bucket.address}"}
    code, told = ingest(images, f"s3://{bucket.name}/{bucket.prefix}/other", right, of_the_node)
    assert code == 4, told
    assert "cannot reach" in told and "127.0.0.1 port 9" in told
