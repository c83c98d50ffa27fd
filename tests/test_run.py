"""Whole runs on real data: killed and continued, repeated, and as a job on a cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.row_table import RowTable, vectors
from coevo_ray.store.sae_files import load_sae
from coevo_ray.store.verification import verify
from tests.processes import Marked, coevo_ray

# Minutes each. Every day `make demo` runs the whole loop, and each stage has a test of its own that kills it.
pytestmark = pytest.mark.slow

TOKEN = "ray get-auth-token --generate"
ROOT = Path(__file__).parents[1]
# Files at whose first sight a run is killed.
ENCODE, GATE = "encode/contributions/00/features-000001.parquet", "gate/journal/000000000[4-9].*"
SMALL = """
out: {out}
pool: {{sources: ["sample:digits"], test_fraction: 0.2, shard_rows: 700}}
encode:
  priors: [{{name: "efficientnet_lite:0", input_size: 32}}, {{name: "efficientnet_lite:1", input_size: 32}}]
  dim: 32
  shared: 0.1
  shard_rows: 256
sae: {{latents: 64, k: 8, epochs: 12}}
gate: {{seed_fraction: 0.1, round_fraction: 0.1, relative_gain: 0.0, tolerance: 0, max_rounds: 6}}
train: {{image_size: 8, labels: gate, policies: [factors], epochs: 4}}
"""


def write_config(folder: Path, name: str) -> tuple[Path, Path]:
    out = folder / name
    file = folder / f"{name}.yaml"
    file.write_text(SMALL.format(out=out))
    return file, out


def files_of(out: Path) -> dict[str, float]:
    """Every file with its time of change."""
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def timeless(value: Any) -> Any:
    """A summary without what may differ between two runs: times, rates, paths."""
    if isinstance(value, dict):
        skip = ("seconds", "wall_seconds", "rows_per_s", "report")
        return {k: timeless(v) for k, v in value.items() if k not in skip}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A run that nothing disturbed: its file, its folder, its summary."""
    folder = tmp_path_factory.mktemp("whole")
    file, out = write_config(folder, "run")
    command = coevo_ray(folder, "run", str(file), "--json")
    assert command.wait() == 0, command.err.read_text()
    command.assert_gone()
    return file, out, json.loads(command.out.read_text())


def test_the_summary_has_what_was_promised(whole: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, summary = whole
    assert summary == json.loads((out / "summary.json").read_text())
    assert (summary["pool"]["rows"], summary["pool"]["rejected"]) == (1797, 0)
    priors = summary["encode"]["priors"]
    assert summary["encode"]["verdict"]["kind"] == "keep_all"
    assert all({"name", "uniformity", "alignment_r2", "rows", "rows_per_s"} <= p.keys() for p in priors)
    assert {"explained_variance", "dead_fraction", "latents", "k"} <= summary["sae"].keys()
    gate = summary["gate"]
    names = {"labels", "label_fraction", "rounds", "stopped_by", "accuracy", "random_accuracy", "full_accuracy"}
    assert names <= gate.keys()
    assert (gate["stopped_by"], gate["rounds"]) == ("max_rounds", 6)
    assert gate["full_accuracy"] > 0.5
    low, middle, high = gate["forecast"]["accuracy"]
    assert gate["forecast"]["validation_rows"] == round(0.1 * gate["labels"]) and 0 <= low < middle < high <= 1
    assert f"would add {100 * gate['forecast']['gain'][1]:.1f} points" in Path(summary["report"]).read_text()
    factors = summary["train"]["factors"]
    assert factors["samples"] == 4 * round(0.5 * gate["labels"])
    assert {"accuracy", "seconds", "samples"} <= factors.keys()
    assert summary["evidence"]["rows"] == gate["labels"]
    assert Path(summary["report"]).read_text().startswith("<!doctype html>".upper()[:2])
    assert summary["seconds"] > 0


def test_artifacts_hold_each_row_once_and_match_their_checksums(whole: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, _ = whole
    place = Location.parse(str(out))
    pool, targets = Pool(place.child("pool")), RowTable(place.child("encode", "targets"), "targets")
    assert pool.row_ids().tolist() == list(range(1797))
    assert targets.row_ids().tolist() == list(range(1797))
    labels = RowTable(place.child("gate"), "labels").scan(["row_id", "label", "annotator", "round", "time"])
    row_ids = labels.column("row_id").to_numpy()
    assert len(np.unique(row_ids)) == len(row_ids)
    assert not np.isin(row_ids, pool.test_ids()).any()
    assert np.array_equal(labels.column("label").to_numpy(), pool.labels()[row_ids])
    artifacts = [p.parent for p in out.rglob("manifest.json")]
    assert len(artifacts) == 14
    for folder in artifacts:
        at = Location.parse(str(folder))
        assert verify(at, load_manifest(at)) == []


def test_codes_and_scores_are_those_of_the_model(whole: tuple[Path, Path, dict[str, Any]]) -> None:
    """What was made shard by shard, in two passes, against the whole table at once."""
    place = Location.parse(str(whole[1]))
    sae = load_sae(place.child("sae", "model"))
    targets = RowTable(place.child("encode", "targets")).scan(["target"])
    with torch.inference_mode():
        codes = sae.encode(torch.from_numpy(vectors(targets.column("target"))))
    indices, values = codes.indices.numpy().astype(np.int32), codes.values.numpy().astype(np.float16).astype(np.float32)
    p = (np.bincount(indices[values > 0], minlength=64)) / len(values)
    table = RowTable(place.child("sae", "scores"), "scores")
    assert np.allclose(table.manifest.summary["frequencies"], p, atol=1e-7)
    scores = table.scan(["representativeness", "diversity", "factor"])
    share = values / values.sum(axis=1, keepdims=True)
    order = np.argsort((share * p[indices]).sum(axis=1), kind="stable")
    assert np.abs(scores.column("representativeness").to_numpy()[order] - np.linspace(0, 1, 1797)).max() < 0.01
    strongest = indices[np.arange(1797), values.argmax(axis=1)]
    assert (scores.column("factor").to_numpy() == strongest).mean() > 0.99  # float16 makes a few ties


def test_a_second_run_redoes_nothing(whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    file, out, summary = whole
    before = files_of(out)
    command = coevo_ray(tmp_path, "run", str(file), "--json")
    assert command.wait() == 0, command.err.read_text()
    assert json.loads(command.out.read_text()) == summary
    assert files_of(out) == before


def test_changed_settings_are_refused_and_nothing_is_damaged(
    whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, out, _ = whole
    before = files_of(out)
    (tmp_path / "run.yaml").write_text(SMALL.format(out=out).replace("dim: 32", "dim: 16"))
    command = coevo_ray(tmp_path, "run", str(tmp_path / "run.yaml"), "--json")
    assert command.wait() == 2
    assert "dim: there 32, asked for 16" in command.err.read_text()
    assert command.out.read_text() == ""
    assert files_of(out) == before


@pytest.mark.timeout(1200)  # two minutes on a quiet machine
def test_killed_and_continued_it_ends_like_a_run_that_nothing_disturbed(
    whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    file, out = write_config(tmp_path, "run")
    kept: dict[str, float] = {}

    def start_and_kill(pattern: str) -> None:
        command = coevo_ray(tmp_path, "run", str(file), "--json")
        try:
            command.until(lambda: len(list(out.glob(pattern))) >= 1)
            command.kill()
            command.assert_gone(killed=True)
        finally:
            command.end()
        for name, changed in kept.items():
            assert (out / name).stat().st_mtime_ns == changed, f"{name} was made again"
        kept.update({n: t for n, t in files_of(out).items() if n.endswith((".parquet", "manifest.json", ".png"))})

    for pattern in (ENCODE, GATE):
        start_and_kill(pattern)
        assert (out / "encode/targets/manifest.json").exists() == (pattern == GATE)
    command = coevo_ray(tmp_path, "run", str(file), "--json")
    try:
        command.until(lambda: len(list(out.glob("train/factors/training/ray/checkpoint_*"))) >= 1)
        command.process.send_signal(signal.SIGTERM)
        assert command.wait(120) == 4, command.err.read_text()
        assert "run the same command again" in command.err.read_text()
        command.assert_gone()
    finally:
        command.end()
    command = coevo_ray(tmp_path, "run", str(file), "--json")
    assert command.wait() == 0, command.err.read_text()
    assert timeless(json.loads(command.out.read_text())) == timeless(whole[2])


@pytest.fixture
def ray_head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cluster of one node as cluster/README.md starts it, with a token of its own; ended by process ids."""
    home = tmp_path / "home"
    home.mkdir()
    token = {"RAY_AUTH_MODE": "token", "HOME": str(home)}
    token["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"  # as cluster/README.md advises for short epochs
    token["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as in an active environment, or an image
    # A short folder: Ray keeps sockets in it, and their paths are limited to 107 characters.
    session = Path("/tmp") / f"coevo-{os.getpid()}"
    ray = str(Path(sys.executable).with_name("ray"))
    made = _run([ray, *TOKEN.split()[1:]], {"HOME": str(home)})
    assert made.returncode == 0, made.stderr
    assert (home / ".ray" / "auth_token").read_text().strip() == made.stdout.strip() != ""
    ports = [
        "--port=26379",
        "--dashboard-port=28265",
        "--ray-client-server-port=20001",
        "--dashboard-agent-listen-port=25365",
    ]
    start = [ray, "start", "--head", "--num-cpus=2", "--object-store-memory=500000000", f"--temp-dir={session}", *ports]
    head = Marked([*start, "--include-dashboard=true", "--disable-usage-stats", "--block"], tmp_path, token)
    try:
        address = {"RAY_ADDRESS": "http://127.0.0.1:28265", **token}
        listing = [ray, "job", "list"]
        deadline = time.monotonic() + 90
        while subprocess.run(
            listing, env={**os.environ, **address}, capture_output=True, timeout=60, check=False
        ).returncode:
            assert head.process.poll() is None, head.err.read_text() + head.out.read_text()
            assert time.monotonic() < deadline, "the head did not come up"
            time.sleep(1)
        yield address
    finally:
        head.end()
        head.assert_gone()
        subprocess.run(["rm", "-rf", str(session)], check=True)


def _run(command: list[str], environment: dict[str, str], timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    base = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return subprocess.run(
        command, env={**base, **environment}, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.mark.timeout(1200)  # two minutes on a quiet machine
def test_the_digits_run_as_a_job_on_a_cluster_then_here(ray_head: dict[str, str], tmp_path: Path) -> None:
    """Submitted as cluster/README.md says, found again while it runs; repeated on this machine it redoes nothing."""
    out = tmp_path / "digits"
    example = str(ROOT / "examples" / "digits.yaml")
    submit = ["submit", "--json", "run", example, "--out", str(out)]
    there = {**ray_head, "RAY_API_SERVER_ADDRESS": ray_head["RAY_ADDRESS"]}
    first = coevo_ray(tmp_path, *submit, environment=there)
    first.until(lambda: "job coevo-" in first.err.read_text())
    again = coevo_ray(tmp_path, "submit", "--json", "--no-wait", *submit[2:], environment=there)
    assert again.wait() == 0, again.err.read_text()
    assert first.wait(900) == 0, first.err.read_text()
    one, other = (json.loads(each.out.read_text()) for each in (first, again))
    assert (one["status"], one["exit_code"], one["found"]) == ("SUCCEEDED", 0, False)
    assert other["id"] == one["id"] and other["found"] and other["status"] in ("PENDING", "RUNNING")
    assert "report: " in first.err.read_text()  # the job's own log
    wrong = coevo_ray(tmp_path, "submit", "run", example, "--out", str(out), "--no-such-option", environment=there)
    assert wrong.wait() == 2, wrong.err.read_text()  # the exit code of the job
    summary = json.loads((out / "summary.json").read_text())
    assert summary["gate"]["accuracy"] > 0.75
    assert summary["train"]["factors"]["accuracy"] > 0.9
    before = files_of(out)
    command = coevo_ray(tmp_path, "run", example, "--out", str(out), "--json")
    assert command.wait() == 0, command.err.read_text()
    assert json.loads(command.out.read_text()) == summary
    assert files_of(out) == before


def test_without_its_token_a_client_is_refused_with_a_remedy(ray_head: dict[str, str], tmp_path: Path) -> None:
    file, _ = write_config(tmp_path, "run")
    nobody = tmp_path / "nobody"
    nobody.mkdir()
    for wrong in ({"RAY_AUTH_TOKEN": "0" * 32}, {"HOME": str(nobody)}):
        there = {**ray_head, "RAY_ADDRESS": "127.0.0.1:26379", **wrong}
        command = coevo_ray(tmp_path, "run", str(file), environment=there)
        assert command.wait(120) == 2, command.err.read_text()
        assert "RAY_ADDRESS" in command.err.read_text()


def test_the_start_of_a_cluster_is_what_its_page_says() -> None:
    page = (ROOT / "cluster" / "README.md").read_text()
    lines = [line.split("#")[0].strip() for line in page.splitlines() if line.startswith("    ")]
    assert lines.index(TOKEN) < lines.index("export RAY_AUTH_MODE=token") < lines.index("ray start --head")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # four minutes on a quiet machine
def test_two_runs_share_a_cluster_and_a_third_is_refused_the_folder_of_the_first(
    whole: tuple[Path, Path, dict[str, Any]], ray_head: dict[str, str], tmp_path: Path
) -> None:
    cluster = {**ray_head, "RAY_ADDRESS": "127.0.0.1:26379"}
    places = [write_config(tmp_path, name) for name in ("one", "two")]
    runs = [coevo_ray(tmp_path, "run", str(file), "--json", environment=cluster) for file, _ in places]
    try:
        runs[0].until(lambda: (places[0][1] / "pool" / "manifest.json").exists())
        third = coevo_ray(tmp_path, "run", str(places[0][0]), environment=cluster)
        assert third.wait(200) == 2, third.err.read_text()
        assert "writes there since" in third.err.read_text()
        for run, (_, out) in zip(runs, places, strict=True):
            assert run.wait(1000) == 0, run.err.read_text()
            assert timeless(json.loads(run.out.read_text())) == timeless(whole[2])
            labels = [RowTable(Location.parse(str(at / "gate")), "labels") for at in (out, whole[1])]
            columns = ["row_id", "label", "round"]  # the rest of a gate's files has times
            assert labels[0].scan(columns).equals(labels[1].scan(columns))
            for name in ("pool", "encode/targets", "sae/scores"):
                made, expected = (load_manifest(Location.parse(str(at / name))) for at in (out, whole[1]))
                assert [(f.path, f.sha256) for f in made.files] == [(f.path, f.sha256) for f in expected.files], name
            run.assert_gone()
    finally:
        for run in runs:
            run.end()
