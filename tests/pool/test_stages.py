"""The table of stages and modalities: every command that takes a pool asks it first, and it says what is true."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from coevo_ray.annotators.opening import open_annotator
from coevo_ray.annotators.sample_files import SHOWN
from coevo_ray.app import api
from coevo_ray.app.doctor import doctor
from coevo_ray.app.run import check, stages_of
from coevo_ray.config import as_run_config
from coevo_ray.config.annotators import FileDropSettings, LabelColumnSettings, annotator_kinds
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.evidence import gather_evidence
from coevo_ray.pool.modality import MODALITIES
from coevo_ray.pool.pool import Pool, pool_schema
from coevo_ray.pool.stages import STAGES, Stage, pool_for, require_stages
from coevo_ray.priors.schemes import SCHEMES
from coevo_ray.reporting.tiles import showing_of
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vector_column
from coevo_ray.training.feed.feed import Feed
from tests.command_line import Command

ROWS = 12
# What each function needs besides a pool: nothing that is there, for the table comes first.
NOWHERE = "/nowhere"
PRIOR = {"priors": [{"name": "column:vector"}]}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "contribute": {"config": PRIOR, "out": NOWHERE},
    "dedup": {"targets": NOWHERE, "out": NOWHERE},
    "encode": {"config": PRIOR, "out": NOWHERE},
    "export": {"what": NOWHERE, "out": NOWHERE, "to": "fiftyone"},
    "gate": {"config": {}, "targets": NOWHERE, "out": NOWHERE},
    "gate_open": {"config": {}, "targets": NOWHERE, "out": NOWHERE},
    "plan": {"policy": "random"},
    "probe": {"targets": NOWHERE},
    "retrieve": {"gate": NOWHERE, "targets": NOWHERE, "out": NOWHERE, "config": {"budget": 5}},
    "sae": {"config": {}, "targets": NOWHERE, "out": NOWHERE},
    "sae_show": {"factors": NOWHERE, "out": "/nowhere/page.html"},
    "train_semi_supervised": {"config": {}, "out": NOWHERE},
    "train_supervised": {"config": {"policies": ["random"]}, "out": NOWHERE},
    "train_targets": {"config": {}, "targets": NOWHERE, "out": NOWHERE},
}
# Commands that take a pool and ask nothing of its samples.
_ANY_POOL = {"doctor"}


def make_pool(folder: Path, modality: str) -> Pool:
    """A pool of some rows, with labels of two classes."""
    samples: dict[str, Any] = {
        "image": pa.array([b"no image"] * ROWS, pa.binary()),
        "text": [f"text {row}" for row in range(ROWS)],
        "vector": vector_column(np.eye(ROWS, dtype=np.float32)),
    }
    features = {"vector": ROWS} if modality == "vector" else {}
    columns = {
        "row_id": np.arange(ROWS),
        "key": [f"key {row}" for row in range(ROWS)],
        "label": np.arange(ROWS) % 2,
        "split": pa.array([0, 0, 1] * (ROWS // 3), pa.int8()),
        modality: samples[modality],
    }
    schema = pool_schema(modality, features)
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    place = Location.parse(str(folder))
    summary = {"classes": 2, "modality": modality, "features": features}
    finish(place, "pool", {}, {}, [write_table(place, "rows-000000.parquet", table)], summary)
    return Pool(place)


@pytest.fixture(scope="module", params=["image", "text", "vector"])
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("pools") / request.param, request.param)


@pytest.fixture
def texts(tmp_path: Path) -> Pool:
    return make_pool(tmp_path / "texts", "text")


def test_every_command_that_takes_a_pool_has_its_row() -> None:
    takers = {name for name in api.COMMANDS if "pool" in inspect.signature(getattr(api, name)).parameters}
    assert takers - _ANY_POOL == ARGUMENTS.keys()
    assert takers - _ANY_POOL <= STAGES.keys()


@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_command_that_takes_a_pool_asks_the_table_before_anything(
    command: str, texts: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, command, Stage("this stage", {"image": ""}))
    with pytest.raises(UsageError, match=r"this stage cannot take texts: .* holds texts, need images") as refused:
        getattr(api, command)(pool=str(texts.location), **ARGUMENTS[command])
    assert refused.value.exit_code == 2
    assert "leave it out, or give a pool of images; with texts these work: ingest, encode" in refused.value.remedy
    assert "this stage" not in refused.value.remedy


def test_what_is_no_command_of_its_own_asks_the_table_too(
    texts: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("evidence", "label_column", "file_drop"):
        monkeypatch.setitem(STAGES, name, Stage(name, {"image": ""}))
    labels: Any = None
    with pytest.raises(UsageError, match="evidence cannot take texts"):
        gather_evidence({}, texts, labels, labels, tmp_path / "out")
    with pytest.raises(UsageError, match="label_column cannot take texts"):
        open_annotator(LabelColumnSettings(), texts)
    with pytest.raises(UsageError, match="file_drop cannot take texts"):
        open_annotator(FileDropSettings(folder=str(tmp_path / "drop")), texts)
    with pytest.raises(UsageError, match=r"Feed.of_images cannot take texts"):
        Feed.of_images(texts, global_batch=2)
    assert list(tmp_path.iterdir()) == [tmp_path / "texts"]


def test_the_table_says_what_the_tables_of_stages_can_do() -> None:
    """Stages that treat modalities differently have an entry for each that the table lets through, and no other."""
    known = set(MODALITIES)
    assert all(stage.takes.keys() <= known for stage in STAGES.values())
    for kind in ("file_drop", "label_studio"):
        assert STAGES[kind].takes.keys() == SHOWN.keys()
    for page in ("sae_show", "dedup", "gate_report"):
        assert all(showing_of(modality) for modality in STAGES[page].takes)
    encoded = {modality for scheme in SCHEMES.values() for modality in scheme.takes}
    by_column = {modality for modality, said in STAGES["encode"].takes.items() if "column:" in said}
    assert STAGES["encode"].takes.keys() == encoded | by_column
    assert annotator_kinds().keys() & STAGES.keys() == {"label_column", "file_drop", "label_studio"}


def test_the_design_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "design.md").read_text("utf-8")
    table = page.split('<a id="modalities"></a>')[1].split("| stage | image | text | vector |\n")[1].split("\n\n")[0]
    told: dict[str, list[str]] = {}
    for line in table.splitlines()[1:]:
        names, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        possible = [name for name, cell in zip(("image", "text", "vector"), cells, strict=True) if cell != "no"]
        told |= dict.fromkeys(re.findall("`([^`]+)`", names), possible)
    assert told == {stage.written: list(stage.takes) for stage in STAGES.values()}


def test_a_further_modality_of_a_stage_is_one_line(texts: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"Feed.of_images cannot take texts"):
        pool_for("feed_of_images", texts)
    monkeypatch.setitem(STAGES, "feed_of_images", Stage("Feed.of_images", {"image": "", "text": ""}))
    assert pool_for("feed_of_images", texts) is texts


def test_all_stages_that_cannot_take_a_pool_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STAGES, "train_targets", Stage("train --objective targets", {"image": ""}))
    with pytest.raises(UsageError, match=r"train --objective targets and Feed.of_images cannot take vectors"):
        require_stages(["encode", "train_targets", "feed_of_images"], "vector", "it")
    require_stages(["encode", "gate", "sae"], "vector", "it")


# -- runs ------------------------------------------------------------------------------------------------------------


def run_file(folder: Path, **more: Any) -> Path:
    """A run on a few texts."""
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), folder / "texts" / "a.parquet")
    content = {
        "out": str(folder / "out"),
        "pool": {"sources": [{"uri": str(folder / "texts"), "text_column": "text"}]},
        "encode": {"priors": [{"name": "column:v"}]},
        **more,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return folder / "run.yaml"


def test_a_run_whose_network_takes_no_texts_is_refused_before_its_first_stage(
    coevo_ray: Command, tmp_path: Path
) -> None:
    source = {"uri": str(tmp_path / "texts"), "text_column": "text", "feature_columns": ["v"]}
    file = run_file(tmp_path, train={"policies": ["random"], "model": "small_cnn"}, pool={"sources": [source]})
    ended = coevo_ray("run", str(file))
    assert ended.returncode == 2
    assert "the model small_cnn does not take texts" in ended.stderr
    assert "remedy: set features: targets, or name a column of vectors" in ended.stderr
    assert not (tmp_path / "out").exists()
    config = as_run_config(run_file(tmp_path, train={"features": "w"}, pool={"sources": [source]}))
    with pytest.raises(UsageError, match=r"train.features is 'w', the sources have v"):
        check(config)


def test_the_stages_of_a_run_are_those_of_its_file(tmp_path: Path) -> None:
    gate = {"annotator": {"kind": "file_drop", "folder": str(tmp_path / "drop")}}
    plain = as_run_config(run_file(tmp_path, train=None))
    assert stages_of(plain)[:3] == ["ingest", "encode", "sae"]
    full = as_run_config(run_file(tmp_path, gate=gate, evidence={}, train={"policies": ["factors"]}))
    assert stages_of(full) == ["ingest", "encode", "sae", "gate", "file_drop", "evidence", "train_supervised"]


# -- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_shows_the_row_of_a_pool(pool: Pool) -> None:
    told = doctor(pool=pool.location)["pool"]
    assert (told["modality"], told["rows"], told["features"]) == (pool.modality, ROWS, pool.features)
    rows = {stage.written: stage.takes.get(pool.modality) for stage in STAGES.values()}
    assert told["possible"] == {name: said or "yes" for name, said in rows.items() if said is not None}
    assert set(told["impossible"]) == {name for name, said in rows.items() if said is None}
    assert ("Feed.of_images" in told["possible"]) == (pool.modality == "image")


def test_doctor_prints_the_row(coevo_ray: Command, texts: Pool) -> None:
    ended = coevo_ray("doctor", str(texts.location))
    assert ended.returncode == 0
    assert "pool.modality" in ended.stdout
    assert any("Feed.of_images" in line and "not with texts" in line for line in ended.stdout.splitlines())
