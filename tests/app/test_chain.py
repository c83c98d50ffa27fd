"""The functions chained by objects alone and by paths alone, on real digits."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import coevo_ray
from coevo_ray.errors import UsageError
from coevo_ray.store.artifact import Artifact, finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import Manifest, load_manifest
from coevo_ray.store.row_table import RowTable
from tests.former.make import ENCODE, GATE, SAE, source

TRAIN = {
    "model": "tests.former.network:tiny",
    "image_size": 8,
    "epochs": 2,
    "batch_rows": 32,
    "policies": ["factors"],
    "compute": {"cpus": 0.5},
}
_SLOW = pytest.mark.slow  # a chain takes a minute; every day the README's own runs
# What a function hands to the next ones: its result, or where it was told to put it.
Hand = Callable[[Any, Path], Any]
STAGES = ("pool", "encode/targets", "sae/scores", "sae/model", "trained", "trained/evidence", "found", "labels")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits for the pool, and others for the open pool."""
    folder = tmp_path_factory.mktemp("chain")
    digits = pq.read_table(source(folder))
    pq.write_table(digits.slice(0, 240), folder / "mine.parquet")
    pq.write_table(digits.slice(240), folder / "open.parquet")
    return folder


def sources(file: Path) -> dict[str, Any]:
    columns = {"key_column": "key", "feature_columns": ["pixels"]}
    return {"sources": [{"uri": str(file), **columns}], "test_fraction": 0.2}


def answer(requests: Path, truth: Any, out: Path) -> None:
    """Labels what was asked for, as an annotator would."""
    with requests.open() as asked, out.open("w", newline="") as answers:
        rows = [{"row_id": row["row_id"], "label": truth[int(row["row_id"])]} for row in csv.DictReader(asked)]
        writer = csv.DictWriter(answers, ["row_id", "label"])
        writer.writeheader()
        writer.writerows(rows)


def chain(data: Path, folder: Path, hand: Hand) -> dict[str, Any]:
    """All stages; the results by name."""
    made: dict[str, Any] = {}

    def step(name: str, result: Any) -> Any:
        made[name] = result
        return hand(result, folder / name)

    pool = step("pool", coevo_ray.ingest(sources(data / "mine.parquet"), folder / "pool"))
    targets = step("encode", coevo_ray.encode(ENCODE, pool, folder / "encode"))
    scores = step("sae", coevo_ray.sae(SAE, pool, targets, folder / "sae"))
    gate = step("gate", coevo_ray.gate_open(GATE, pool, targets, folder / "gate"))
    if coevo_ray.gate_status(gate)["labels"] == 0:
        coevo_ray.gate_next(gate, out=folder / "asked.csv")
        answer(folder / "asked.csv", coevo_ray.Pool(folder / "pool").labels(), folder / "answers.csv")
        told = coevo_ray.gate_submit(gate, folder / "answers.csv")
        assert told["labels"] > 0 and not told["problems"]
    coevo_ray.gate_next(gate)  # learns, so that there are predictions
    trained = step(
        "trained", coevo_ray.train_supervised(TRAIN, pool, folder / "trained", scores, targets=targets, labels=gate)
    )
    other = step("open", coevo_ray.ingest(sources(data / "open.parquet"), folder / "open"))
    others = step("open-encode", coevo_ray.encode(ENCODE, other, folder / "open-encode", like=targets))
    step("found", coevo_ray.retrieve(gate, other, others, folder / "found", {"budget": 10}))
    step("labels", coevo_ray.gate_export(gate, folder / "labels"))
    # What others make of the same things.
    step("plan", coevo_ray.plan("factors", pool=pool, scores=scores, evidence=trained, epochs=2))
    step("sheet", coevo_ray.sae_show(scores, pool, folder / "factors.html", limit=2, rows=2))
    lens = coevo_ray.sae_export(scores, folder / "lens")
    step("imported", coevo_ray.sae_import(lens, folder / "imported"))
    step("frequencies", coevo_ray.load_factors(scores).frequencies)
    step("dataset", len(coevo_ray.load_targets(targets, pool).torch()))
    step("doctor", coevo_ray.doctor(trained))
    return made


def manifests(folder: Path) -> dict[str, Manifest]:
    return {name: load_manifest(Location.parse(folder / name)) for name in STAGES}


@pytest.fixture(scope="module")
def objects(data: Path, ray_local: None) -> tuple[Path, dict[str, Any]]:
    """The chain by objects alone: its folder, and the results by name."""
    return data / "objects", chain(data, data / "objects", lambda result, out: result)


@_SLOW
def test_by_objects_alone(objects: tuple[Path, dict[str, Any]]) -> None:
    folder, made = objects
    _is_a_family(made, folder)
    # What was trained on are the gate's labels.
    labels = RowTable(folder / "labels", "labels")
    assert made["trained"]["candidates"] == len(labels) == made["labels"]["labels"]
    assert made["trained"]["evidence"]["rows"] == len(labels)
    assert made["trained"].manifest.config["labels"] == "gate"


@_SLOW
@pytest.mark.parametrize("form", [str, Path, Location.parse])
def test_by_paths_alone(data: Path, objects: tuple[Path, dict[str, Any]], form: Callable[[Path], Any]) -> None:
    """With other settings or inputs than those of the objects each stage would be refused, for it is there already."""
    folder, made = objects
    before = manifests(folder)
    paths = chain(data, folder, lambda result, out: form(out))
    again = manifests(folder)
    assert again.pop("labels").identity == before.pop("labels").identity  # an export is always written again
    assert again == before  # and nothing else is
    assert paths["plan"] == made["plan"]
    assert paths["trained"] == made["trained"]


@_SLOW
def test_paths_alone_make_what_objects_alone_do(data: Path, objects: tuple[Path, dict[str, Any]]) -> None:
    chain(data, data / "paths", lambda result, out: str(out))
    one, other = manifests(objects[0]), manifests(data / "paths")
    for name in STAGES:
        assert one[name].inputs == other[name].inputs, name
        assert one[name].config == other[name].config, name
    for name in ("pool", "encode/targets", "sae/scores", "sae/model", "trained/evidence", "found"):
        assert one[name].identity == other[name].identity, name


def _is_a_family(made: dict[str, Any], folder: Path) -> None:
    """Results have a location, a manifest and a summary."""
    for name in ("pool", "encode", "sae", "gate", "trained", "open", "found", "labels", "imported"):
        result = made[name]
        assert isinstance(result.location, Location), name
        assert str(result.location).startswith(str(folder / name)), name
        assert isinstance(result.manifest, Manifest), name
        assert json.loads(json.dumps(result.summary)), name
    assert made["gate"].summary["labels"] > 0
    assert isinstance(made["trained"], Artifact)
    assert made["trained"]["accuracy"] == made["trained"].summary["accuracy"]


@pytest.mark.usefixtures("ray_local")
@_SLOW
def test_other_trainings_take_the_same_things(data: Path, tmp_path: Path) -> None:
    pool = coevo_ray.ingest(sources(data / "mine.parquet"), tmp_path / "pool")
    coevo_ray.encode(ENCODE, pool, tmp_path / "encode")
    few = {"model": TRAIN["model"], "image_size": 8, "epochs": 1, "batch_rows": 64, "compute": {"cpus": 0.5}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**few, "flip": False}))
    made = coevo_ray.train_targets(tmp_path / "train.yaml", tmp_path / "pool", tmp_path / "encode", tmp_path / "a")
    assert made.manifest.inputs["targets"] == load_manifest(Location.parse(tmp_path / "encode/targets")).identity
    gate = coevo_ray.gate_open(GATE, pool, tmp_path / "encode", tmp_path / "gate")
    rows = gate.next().row_ids
    gate.submit(coevo_ray.Answers(rows, pool.labels()[rows], "me"))
    settings = {**few, "mu": 1, "least_steps": 1, "flip": False}
    semi = coevo_ray.train_semi_supervised(settings, pool, tmp_path / "b", labels=gate)
    assert semi["labelled"] == len(rows)
    # The folder of the open gate is the same to it.
    assert coevo_ray.train_semi_supervised(settings, pool, tmp_path / "b", labels=tmp_path / "gate") == semi


@pytest.mark.usefixtures("ray_local")
@_SLOW
def test_a_run_is_named_by_its_file_its_content_or_its_settings(data: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "out": str(tmp_path / "run"),
        "pool": sources(data / "mine.parquet"),
        "encode": ENCODE,
        "sae": SAE,
    }
    content |= {"gate": None, "train": None}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    made = coevo_ray.run(str(tmp_path / "run.yaml"))
    assert made.location == Location.parse(tmp_path / "run")
    assert made.manifest == load_manifest(made.location, "run")
    assert made.summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert made["pool"]["rows"] == 240
    for form in (tmp_path / "run.yaml", content, coevo_ray.load_config(tmp_path / "run.yaml")):
        assert coevo_ray.run(form) == coevo_ray.report(form) == made
    # Its folder stands for each of its stages.
    assert len(coevo_ray.Pool.open(made)) == len(coevo_ray.load_targets(tmp_path / "run", made)) == 240
    assert coevo_ray.load_factors(made).rows == 240
    with pytest.raises(UsageError, match="this run has no training stage"):
        coevo_ray.train(tmp_path / "run.yaml")
    with pytest.raises(UsageError, match="cannot read the configuration"):
        coevo_ray.run(tmp_path / "other.yaml")


def test_a_pool_is_opened_by_its_path(tmp_path: Path) -> None:
    place = Location.parse(tmp_path / "run" / "pool")
    columns = {"row_id": np.arange(3), "split": np.zeros(3, np.int8), "label": np.arange(3)}
    finish(place, "pool", {}, {}, [write_table(place, "0.parquet", pa.table(columns))], {"classes": 3})
    pool = coevo_ray.Pool(str(place))
    for what in (tmp_path / "run" / "pool", place, pool, RowTable(place)):
        assert coevo_ray.Pool(what).location == place
        assert len(coevo_ray.Pool.open(what)) == 3
    assert coevo_ray.Pool.open(pool) is pool
    assert coevo_ray.Pool.open(tmp_path / "run").location == place  # the pool of a run


def test_the_names_of_the_first_version_resolve() -> None:
    from coevo_ray import commands

    assert commands.demo is coevo_ray.demo
    assert commands.report is coevo_ray.report
