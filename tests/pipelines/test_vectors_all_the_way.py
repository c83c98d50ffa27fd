"""A pool of vectors alone goes through every stage that the table lets it through, and so does a run of one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import coevo_ray
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.row_table import RowTable, vectors
from tests.command_line import Command

pytestmark = pytest.mark.usefixtures("ray_local")
ROWS, DIM, NAMES = 400, 16, ("ant", "bee", "cat", "dog")
SAE = {"latents": 32, "k": 4, "epochs": 4}
ENCODE = {"priors": [{"name": "column:vector"}], "dim": 8, "shared": 0.4}
GATE: dict[str, Any] = {"seed_fraction": 0.1, "round_fraction": 0.1, "max_rounds": 2}


def clouds(seed: int, rows: int = ROWS) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Vectors about a corner for each class, and names of their classes."""
    random = np.random.default_rng(seed)
    label = random.integers(0, len(NAMES), rows)
    matrix = np.eye(DIM)[label] + 0.2 * random.standard_normal((rows, DIM))
    return matrix.astype(np.float16), [NAMES[i] for i in label]


def write(folder: Path, seed: int) -> Path:
    matrix, names = clouds(seed)
    folder.mkdir()
    np.save(folder / "vectors.npy", matrix)
    np.save(folder / "labels.npy", np.array(names))
    (folder / "keys.txt").write_text("".join(f"<b>id {seed}-{row}\n" for row in range(ROWS)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vectors")


@pytest.fixture(scope="module")
def pool(folder: Path) -> Pool:
    source = {"uri": str(write(folder / "source", 0)), "format": "npy"}
    return coevo_ray.ingest({"sources": [source], "shard_rows": 150}, folder / "pool")


@pytest.fixture(scope="module")
def targets(folder: Path, pool: Pool) -> RowTable:
    return coevo_ray.encode(ENCODE, pool, folder / "encode")


@pytest.mark.slow
def test_vectors_of_too_many_dimensions_are_refused_before_they_are_encoded(tmp_path: Path) -> None:
    """Their covariance would take the memory of the machine, and hours."""
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).standard_normal((40, 16_385)).astype(np.float32))
    pool = coevo_ray.ingest({"sources": [{"uri": str(tmp_path / "wide.npy"), "format": "npy"}]}, tmp_path / "pool")
    with pytest.raises(InputError, match=r"column:vector has features of 16,385 dimensions, need 16,384") as caught:
        coevo_ray.encode({**ENCODE, "shared": 0.7}, pool, tmp_path / "encode")
    assert "encode.projection to random" in caught.value.remedy
    random = {**ENCODE, "shared": 0.7, "projection": "random"}
    assert coevo_ray.encode(random, pool, tmp_path / "random").manifest.summary["dim"] == 8


def test_a_latent_wider_than_all_features_is_refused_before_they_are_encoded(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"latent of 17 .* the priors have 16 \(column:vector 16\)") as caught:
        coevo_ray.encode({**ENCODE, "dim": 17}, pool, tmp_path / "encode")
    assert "set encode.dim to 16 or fewer" in caught.value.remedy
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.slow
def test_a_contribution_may_have_fewer_features_than_the_latent(pool: Pool, tmp_path: Path) -> None:
    """Others bring the rest."""
    alone = coevo_ray.contribute({**ENCODE, "dim": 17}, pool, tmp_path / "contribution")
    assert alone.manifest.summary["components"] == DIM
    assert coevo_ray.merge([alone], tmp_path / "targets", {"dim": DIM}).manifest.summary["dim"] == DIM


@pytest.mark.slow
def test_the_sae_takes_the_vectors_themselves(folder: Path, pool: Pool, tmp_path: Path) -> None:
    scores = coevo_ray.sae(SAE, pool, None, tmp_path / "sae")
    assert len(scores) == ROWS
    sheet = tmp_path / "factors.html"
    coevo_ray.sae_show(scores, pool, sheet, choose="frequent", rows=3)
    page = sheet.read_text()
    assert "&lt;b&gt;id 0-" in page
    assert "<b>id" not in page
    planned = coevo_ray.plan("factors", scores=scores.location, pool=pool, epochs=2)
    assert planned


def test_targets_of_a_column_are_the_space_of_the_vectors(pool: Pool, targets: RowTable) -> None:
    assert len(targets) == ROWS
    made = vectors(targets.read(pool.row_ids(), ["target"]).column("target")).astype(np.float32)
    own = vectors(pool.read(pool.row_ids(), ["vector"]).column("vector"))
    own = own - own.mean(axis=0)
    nearest = [np.argsort(-x @ x[:50].T, axis=0)[1] for x in (made / np.linalg.norm(made, axis=1)[:, None], own)]
    labels = pool.labels()
    assert (labels[nearest[0]] == labels[:50]).mean() > 0.9
    assert coevo_ray.probe(targets, pool)["linear_probe"] > 0.8


@pytest.mark.slow
def test_gates_ask_by_keys_and_stages_behind_them_work(
    folder: Path, pool: Pool, targets: RowTable, tmp_path: Path
) -> None:
    labels = coevo_ray.gate(GATE, pool, targets, tmp_path / "labels")
    assert len(labels) > 30
    drop = {"kind": "file_drop", "folder": str(tmp_path / "drop")}
    gate = coevo_ray.gate_open({**GATE, "annotator": drop}, pool, targets, tmp_path / "gate")
    coevo_ray.gate_next(gate)
    (requests,) = (tmp_path / "drop" / "requests").iterdir()
    asked = list(csv.DictReader(requests.open()))
    assert "vector" not in asked[0]
    assert {row["key"] for row in asked} <= {f"<b>id 0-{i}" for i in range(ROWS)}
    assert "The column key says which vector it is." in (tmp_path / "drop" / "README.txt").read_text()
    page = coevo_ray.gate_report(tmp_path / "labels", tmp_path / "gate.html")["report"]
    assert "&lt;b&gt;id 0-" in Path(page).read_text()
    found = coevo_ray.dedup(pool, targets, tmp_path / "dedup")
    assert found.manifest.kind == "duplicates"
    other = coevo_ray.ingest({"sources": [{"uri": str(write(tmp_path / "o", 1)), "format": "npy"}]}, tmp_path / "open")
    near = coevo_ray.encode({**ENCODE, "like": str(targets.location)}, other, tmp_path / "near")
    copy = tmp_path / "copy"
    chosen = coevo_ray.retrieve(tmp_path / "labels", other, near, tmp_path / "r", {"budget": 7}, copy_to=copy)
    again = coevo_ray.ingest(
        {"sources": [{"uri": str(copy), "vector_column": "vector", "key_column": "key"}]}, tmp_path / "again"
    )
    assert (len(chosen), len(again), again.features) == (7, 7, {"vector": DIM})


@pytest.mark.slow
def test_a_run_of_vectors_ends_with_its_report(coevo_ray: Command, tmp_path: Path) -> None:
    content: JsonObject = {
        "out": str(tmp_path / "run"),
        "pool": {"sources": [{"uri": str(write(tmp_path / "source", 0)), "format": "npy"}]},
        "encode": ENCODE,
        "sae": SAE,
        "gate": GATE,
        "train": {"policies": ["random"], "epochs": 3, "labels": "pool", "compute": {"actors": 1, "cpus": 0.5}},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    ended = coevo_ray("run", str(tmp_path / "run.yaml"))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    trained = json.loads((tmp_path / "run" / "summary.json").read_text())["train"]
    assert trained["random"]["accuracy"] > 0.9
    # The same by the command, from the targets of the run.
    head = coevo_ray(
        *("train", "--objective", "supervised", "--pool", str(tmp_path / "run"), "--policy", "full", "--epochs", "3"),
        *("--features", "targets", "--targets", str(tmp_path / "run"), "--out", str(tmp_path / "head"), "--json"),
    )
    assert head.returncode == 0, head.stderr
    assert json.loads(head.stdout)["accuracy"] > 0.9
    refused = coevo_ray(
        *("train", "--objective", "supervised", "--pool", str(tmp_path / "run"), "--model", "small_cnn", "--out", "x")
    )
    assert refused.returncode == 2
    assert "small_cnn does not take the vectors of vector" in refused.stderr
