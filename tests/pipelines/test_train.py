"""Trainings on the labels of a gate: which rows and labels they are, and what is refused."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from safetensors.torch import load_file

import coevo_ray as package
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.gate.labels import gate_labels
from coevo_ray.pipelines.gate.opening import open_gate
from coevo_ray.pipelines.train import training_labels
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import load_manifest
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.from_targets.network import TargetNetwork
from tests.command_line import Command
from tests.training import digits_pool, trained_folder

ARCHIVE = Path(__file__).parents[1] / "former" / "0.1.0.tar.gz"
SETTINGS: dict[str, Any] = {"image_size": 16, "epochs": 1}


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that version 0.1.0 made: a finished run on a gate's labels, and a gate that is open."""
    folder = tmp_path_factory.mktemp("former")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    for file in folder.rglob("gate.json"):
        file.write_text(file.read_text().replace("/tmp/former", str(folder)))
    return folder


def write_labels(place: Path, ids: Any, labels: Any, pool: Pool) -> RowTable:
    location, inputs = Location.parse(place), {"pool": pool.manifest.identity}
    table = pa.table({"row_id": np.asarray(ids, np.int64), "label": np.asarray(labels, np.int64)})
    finish(location, "labels", {}, inputs, [write_table(location, "0.parquet", table)], {})
    return RowTable(location, "labels")


@pytest.mark.parametrize(("policy", "evidence"), [("rotation", False), ("factors", True)])
def test_it_is_the_training_of_a_run_with_the_same_labels(former: Path, policy: str, evidence: bool) -> None:
    """Made where the run's is, it is refused if anything differs: settings, scores, evidence, or one label."""
    run = former / "run"
    settings = {**yaml.safe_load((former / "run.yaml").read_text())["train"], "policies": [policy]}
    given: dict[str, Any] = {"scores": run, "evidence": run if evidence else None}
    made = package.train_supervised(settings, run, run / "train" / policy, labels=run, **given)
    assert made.location == Location.parse(run / "train" / policy)
    assert made == load_manifest(made.location, "model").summary and made["policy"] == policy
    for labels in (run / "gate", Location.parse(run / "gate"), RowTable(run / "gate", "labels")):
        assert package.train_supervised(settings, run, run / "train" / policy, labels=labels, **given) == made
    with pytest.raises(UsageError, match=r"inputs\.labels"):
        package.train_supervised(settings, run, run / "train" / policy, **given)


def test_an_open_gate_gives_its_labels_so_far(former: Path, tmp_path: Path) -> None:
    gate = open_gate(former / "gate")
    exported = RowTable(package.gate_export(gate, tmp_path / "labels"), "labels")
    wanted = exported.scan(["row_id", "label"])
    assert len(exported) == gate.status()["labels"] > 0
    for what in (gate, former / "gate", tmp_path / "labels", exported):
        assert gate_labels(what).scan(["row_id", "label"]).equals(wanted), what
    before = gate_labels(gate).manifest.identity
    assert gate_labels(str(former / "gate")).manifest.identity == before
    assert gate_labels(gate).manifest.inputs == exported.manifest.inputs
    with pytest.raises(InputError, match=f"no finished labels at {tmp_path}/nowhere"):
        gate_labels(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds a pool, a labels is needed"):
        gate_labels(former / "pool")


def test_labels_replace_the_pools_but_for_held_out_rows(tmp_path: Path) -> None:
    pool = digits_pool(tmp_path / "pool", 40)
    known, held = pool.labels(), pool.splits() == 1
    assert training_labels(pool, None, None).tolist() == known.tolist()
    table = write_labels(tmp_path / "labels", [1, 2, 38], [7, 8, 9], pool)
    wanted = np.where(held, known, -1)
    wanted[[1, 2, 38]] = [7, 8, 9]
    assert training_labels(pool, table, None).tolist() == wanted.tolist()
    # Rows that could not be read have no score.
    readable = write_labels(tmp_path / "scores", [0, 1, 38], [0, 0, 0], pool)
    wanted[[row for row in range(40) if row not in (0, 1, 38)]] = -1
    assert training_labels(pool, table, readable).tolist() == wanted.tolist()
    assert training_labels(pool, None, readable)[[0, 1, 2, 38]].tolist() == [known[0], known[1], -1, known[38]]


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        ([1, 40], [1, 2], "are of rows 1 to 40, the pool .* has 40"),
        ([1, 5], [1, 2], "name 1 held-out rows, the first is 5"),
        ([1, 2], [1, 10], "row 2 has label 10, the pool has 10 classes"),
        ([], [], "no training row has a label"),
        ([1, 2], [3, 3], "all labels are of class 3, need two classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, ids: list[int], labels: list[int], message: str) -> None:
    pool = digits_pool(tmp_path / "pool", 40)
    table = write_labels(tmp_path / "labels", ids, labels, pool)
    with pytest.raises(InputError, match=message):
        package.train_supervised(SETTINGS, pool, tmp_path / "out", labels=table)


def test_the_command_refuses_labels_of_another_pool_and_what_are_no_labels(tmp_path: Path, coevo_ray: Command) -> None:
    pool, other = digits_pool(tmp_path / "pool", 40), digits_pool(tmp_path / "other", 60)
    foreign = write_labels(tmp_path / "labels", [1, 2], [7, 8], other)
    command = ("train", "--objective", "supervised", "--pool", str(pool.location), "--out", str(tmp_path / "out"))
    for labels, message in (
        (foreign.location, "are of the pool"),
        (other.location, "holds a pool, a labels is needed"),
        (tmp_path, "no finished labels"),
    ):
        result = coevo_ray(*command, "--labels", str(labels))
        assert (result.returncode, result.stdout) == (3, ""), result.stderr
        assert message in result.stderr and "remedy: " in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_command_trains_on_a_gates_labels(former: Path, tmp_path: Path, coevo_ray: Command) -> None:
    places = ("--pool", str(former / "pool"), "--labels", str(former / "gate"), "--out", str(tmp_path / "out"))
    network = ("--model", "tests.former.network:tiny", "--image-size", "8", "--epochs", "1", "--policy", "full")
    result = coevo_ray("train", "--objective", "supervised", *places, *network, "--cpus", "0.5", "--json")
    assert result.returncode == 0, result.stderr
    made = package.Artifact.open(Location.parse(tmp_path / "out"), "model")
    assert made["candidates"] == package.gate_status(former / "gate")["labels"]
    assert made.manifest.config["labels"] == "gate"


TINY: dict[str, Any] = {"model": "tests.former.network:tiny", "stem": "standard", "image_size": 8}


def pretrained(folder: Path) -> Location:
    """The folder of a network as if trained on targets."""
    return trained_folder(
        folder, {**TINY, "head": "linear", "dim": 5}, TargetNetwork.of_images(TINY["model"], 8, "linear", 5)
    )


def frozen_part(folder: Path, file: str) -> list[Any]:
    return [tensor.tolist() for name, tensor in sorted(load_file(folder / file).items()) if not name.startswith("7.")]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_command_starts_from_a_network_on_a_gates_labels(former: Path, tmp_path: Path, coevo_ray: Command) -> None:
    places = ("--pool", str(former / "pool"), "--labels", str(former / "gate"), "--out", str(tmp_path / "out"))
    tuned = ("--freeze-epochs", "1", "--layer-decay", "0.5")
    start = ("--init", str(pretrained(tmp_path / "init")), "--trust", str(TINY["model"]), *tuned)
    command = ("train", "--objective", "supervised", *places, "--epochs", "1", "--policy", "full", "--cpus", "0.5")
    result = coevo_ray(*command, *start, "--json")
    assert result.returncode == 0, result.stderr
    made = package.Artifact.open(Location.parse(tmp_path / "out"), "model")
    assert {name: made.manifest.config[name] for name in TINY} == TINY
    assert made.manifest.config | {"labels": "gate", "freeze_epochs": 1, "layer_decay": 0.5} == made.manifest.config
    assert frozen_part(tmp_path / "out", "model.safetensors") == frozen_part(tmp_path / "init", "network.safetensors")
    without = coevo_ray(*command)
    assert without.returncode == 2 and "inputs.init: there" in without.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_training_of_a_run_starts_from_the_network_of_its_file(former: Path, tmp_path: Path) -> None:
    file = yaml.safe_load((former / "run.yaml").read_text())
    out = Path(shutil.copytree(former / "run", tmp_path / "run"))
    shutil.rmtree(out / "train" / "rotation")
    # A file that names a module's network trusts it; the other settings of the network are those of its folder.
    settings = {k: v for k, v in file["train"].items() if k not in ("stem", "image_size")}
    settings |= {"epochs": 1, "freeze_epochs": 1}
    config = {**file, "out": str(out), "train": {**settings, "init": str(pretrained(tmp_path / "init"))}}
    made = package.train(config, "rotation")["rotation"]
    assert made.manifest.inputs["init"] == load_manifest(Location.parse(tmp_path / "init")).identity
    found = frozen_part(out / "train" / "rotation", "model.safetensors")
    assert found == frozen_part(tmp_path / "init", "network.safetensors")


def test_a_finished_run_is_not_said_to_have_started_from_a_network(former: Path, tmp_path: Path) -> None:
    file = yaml.safe_load((former / "run.yaml").read_text())
    file["out"] = str(former / "run")
    file["train"]["init"] = str(pretrained(tmp_path / "init"))
    with pytest.raises(UsageError, match=r"train\.init: there '\(nothing\)', asked for"):
        package.run(file)
    file["train"]["init"] = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no finished model at"):
        package.run(file)
