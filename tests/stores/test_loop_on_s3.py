"""The whole loop on S3, and a store that dies on the way: real processes of the command, a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from coevo_ray.store.location import Location
from coevo_ray.store.verification import verify_below
from tests.former.make import source
from tests.processes import Marked, coevo_ray
from tests.stores.conftest import Bucket
from tests.stores.fault_proxy import Fault, Request, fault_proxy
from tests.stores.servers import ENVIRONMENT, SeaweedFS, running, uri

pytestmark = pytest.mark.slow

RUN = """
out: {out}
pool:
  sources: [{{uri: "{data}", key_column: key, feature_columns: [pixels]}}]
  test_fraction: 0.2
  shard_rows: 60
encode: {{priors: ["column:pixels"], dim: 16, shared: 0.3, shard_rows: 60}}
sae: {{latents: 32, k: 4, epochs: 3}}
gate: {{seed_fraction: 0.2, round_fraction: 0.1, relative_gain: 0.0, tolerance: 0, max_rounds: 3}}
train: {{model: small_cnn, image_size: 8, labels: gate, policies: [factors], epochs: 2, compute: {{cpus: 0.5}}}}
"""
ROWS = 360
_DATA = (".parquet", ".safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    pq.write_table(pq.read_table(source(folder)).slice(0, ROWS), folder / "digits.parquet")
    return folder / "digits.parquet"


@pytest.fixture(scope="module", autouse=True)
def _credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


def done(command: Marked) -> Any:
    """The result of a command that ends well and leaves nothing behind."""
    try:
        assert command.wait() == 0, command.err.read_text()
        command.assert_gone()
        return json.loads(command.out.read_text())
    finally:
        command.end()


def content(place: Location) -> dict[str, dict[str, str]]:
    """Folder of each artifact below -> its files with their checksums, without those that hold times and places."""
    found = {}
    for name in place.files(recursive=True):
        if name.rpartition("/")[2] == "manifest.json":
            manifest = place.child(name).read_json()
            files = {file["path"]: file["sha256"] for file in manifest["files"]}
            found[name.rpartition("/")[0]] = {path: sum for path, sum in files.items() if path.endswith(_DATA)}
    return found


def test_the_whole_loop_on_s3_makes_what_it_makes_on_a_disk(data: Path, bucket: Bucket, tmp_path: Path) -> None:
    outs = {"s3": bucket.uri("run"), "disk": str(tmp_path / "run")}
    summaries = {}
    for name, out in outs.items():
        (tmp_path / f"{name}.yaml").write_text(RUN.format(out=out, data=data))
        summaries[name] = done(coevo_ray(tmp_path, "run", str(tmp_path / f"{name}.yaml"), "--json"))
    far, near = Location.parse(outs["s3"]), Location.parse(outs["disk"])
    verified = verify_below(far)
    assert verified.damaged == [] and verified.unfinished == [] and verified.artifacts == verify_below(near).artifacts
    ours, theirs = content(far), content(near)
    assert ours.keys() == theirs.keys()
    for stage in ("pool", "encode/targets", "sae/scores"):
        assert ours[stage] == theirs[stage] != {}
    names = set(far.files(recursive=True))
    assert any(name.startswith("gate/journal/") for name in names)
    assert any("training/ray/checkpoint_" in name for name in names)
    report = far.child("report.html").read_bytes()
    assert b"</html>" in report
    assert summaries["s3"]["gate"]["labels"] == summaries["disk"]["gate"]["labels"]
    again = done(coevo_ray(tmp_path, "run", str(tmp_path / "s3.yaml"), "--json"))
    assert again["gate"] == summaries["s3"]["gate"]
    plan = ("plan", "--policy", "factors", "--pool", f"{bucket.uri('run/pool')}", "--epochs", "3", "--json")
    assert done(coevo_ray(tmp_path, *plan, "--scores", bucket.uri("run/sae/scores")))["epochs"] == 3
    status = done(coevo_ray(tmp_path, "status", outs["s3"], "--json"))
    assert status


INGEST = ("--key-column", "key", "--feature-column", "pixels", "--test-fraction", "0.2", "--shard-rows", "60")
ENCODE = ("--prior", "column:pixels", "--dim", "16", "--shared", "0.3", "--shard-rows", "60")


def test_a_store_that_dies_on_the_way_ends_the_command_and_the_same_one_goes_on(data: Path, tmp_path: Path) -> None:
    near = tmp_path / "near"
    done(coevo_ray(tmp_path, "ingest", str(data), *INGEST, "--out", str(near / "pool"), "--json"))
    done(coevo_ray(tmp_path, "encode", "--pool", str(near / "pool"), *ENCODE, "--out", str(near / "encode"), "--json"))
    server = SeaweedFS(tmp_path / "seaweed")
    with running(server):
        server.make_bucket("bucket")
        with fault_proxy(server.address) as proxy:
            far = Location.parse(uri("bucket/run", proxy.address))
            pool, encoded = str(far.child("pool")), str(far.child("encode"))
            steps = (
                ("pool/rows-00000", ("ingest", str(data), *INGEST, "--out", pool, "--json")),
                ("features-00000", ("encode", "--pool", pool, *ENCODE, "--out", encoded, "--json")),
            )
            for wanted, arguments in steps:
                killed: list[str] = []

                def kill(request: Request, wanted: str = wanted, killed: list[str] = killed) -> Fault:
                    if request.method == "PUT" and wanted in request.path and request.path[-9] in "23" and not killed:
                        killed.append(request.path)
                        server.kill()
                    return None

                proxy.rule = kill
                command = coevo_ray(tmp_path, *arguments, environment=ENVIRONMENT)
                try:
                    assert command.wait() == 4, command.err.read_text()
                    told = command.err.read_text()
                    assert killed and "remedy: " in told and "Traceback" not in told, told
                    command.assert_gone()
                finally:
                    command.end()
                server.start()
                assert not far.child(arguments[0].replace("ingest", "pool"), "manifest.json").exists()
                done(coevo_ray(tmp_path, *arguments, environment=ENVIRONMENT))
            assert content(far) == content(Location.parse(near))
            assert verify_below(far).damaged == []
