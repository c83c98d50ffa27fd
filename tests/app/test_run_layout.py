"""A run is laid out as the commands lay out their results; a run of version 0.1.0 keeps its own folders."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from coevo_ray.config import load_config
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.reporting.run import is_finished
from coevo_ray.store.factor_files import find_factors, load_factors
from coevo_ray.store.layout import FactorLayout, RunLayout
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from tests.command_line import Command

ARCHIVE = Path(__file__).parents[1] / "former" / "0.1.0.tar.gz"


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """A folder with the run of the first version in `run/`, and its file `run.yaml`."""
    with tarfile.open(ARCHIVE) as archive:
        wanted = [m for m in archive.getmembers() if m.name.startswith("./run/") or m.name == "./run.yaml"]
        archive.extractall(tmp_path, wanted, filter="data")
    gate, file = tmp_path / "run/gate/gate.json", tmp_path / "run.yaml"
    gate.write_text(gate.read_text().replace("/tmp/former", str(tmp_path)))
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"out": str(tmp_path / "run")}))
    return tmp_path


def move_to_todays_layout(run: Path) -> None:
    (run / "sae").rename(run / "model")
    (run / "factors").rename(run / "sae")
    (run / "model").rename(run / "sae" / "model")
    (run / "evidence").rename(run / "train" / "evidence")


def doubt_a_row(evidence: Path) -> None:
    """The run doubts no label: as if it did one, so that the report looks at evidence and pool."""
    row_id = int(RowTable(Location.parse(str(evidence))).row_ids()[0])
    manifest = json.loads((evidence / "manifest.json").read_text())
    manifest["summary"]["most_doubted"] = [{"row_id": row_id, "doubt": 0.9, "likely": 3}]
    (evidence / "manifest.json").write_text(json.dumps(manifest))


def folders_of(run: Path) -> dict[str, str]:
    """Where the layout says that things are, below the run."""
    found = RunLayout.of(Location.parse(str(run)))
    places = {
        "pool": found.pool,
        "targets": found.targets,
        "model": found.factors.model,
        "codes": found.factors.codes,
        "table": found.factors.table,
        "scores": found.factors.scores,
        "gate": found.gate,
        "graph": found.graph,
        "evidence": found.evidence,
        "training": found.training("rotation"),
    }
    return {name: str(Path(str(place)).relative_to(run)) for name, place in places.items()}


SAME = {"pool": "pool", "targets": "encode/targets", "gate": "gate", "graph": "gate/graph"}
SAME |= {"training": "train/rotation"}
TODAY = {**SAME, **{name: f"sae/{name}" for name in ("model", "codes", "table", "scores")}}
TODAY |= {"evidence": "train/evidence"}
FORMER = {**SAME, **{name: f"factors/{name}" for name in ("codes", "table", "scores")}}
FORMER |= {"model": "sae", "evidence": "evidence"}


def test_every_artifact_is_where_the_layout_says(former: Path) -> None:
    run = former / "run"
    assert folders_of(former / "new") == TODAY
    assert folders_of(run) == FORMER
    assert all((run / place / "manifest.json").is_file() for place in FORMER.values())
    move_to_todays_layout(run)
    assert folders_of(run) == TODAY
    assert all((run / place / "manifest.json").is_file() for place in TODAY.values())


@pytest.mark.parametrize("begun", ["sae/_started.json", "sae/manifest.json", "factors/codes/x", "evidence/x"])
def test_a_run_that_stopped_half_way_in_the_former_layout_goes_on_in_it(tmp_path: Path, begun: str) -> None:
    (tmp_path / begun).parent.mkdir(parents=True)
    (tmp_path / begun).write_text("{}")
    assert folders_of(tmp_path) == FORMER


@pytest.mark.parametrize("begun", ["pool/manifest.json", "sae/model/_started.json", "sae/codes/x", "train/evidence/x"])
def test_other_folders_are_of_todays_layout(tmp_path: Path, begun: str) -> None:
    (tmp_path / begun).parent.mkdir(parents=True)
    (tmp_path / begun).write_text("{}")
    assert folders_of(tmp_path) == TODAY


def test_the_command_sae_lays_out_its_folder_as_a_run_does(tmp_path: Path) -> None:
    assert RunLayout.of(Location.parse(str(tmp_path))).factors == FactorLayout.of(Location.parse(str(tmp_path / "sae")))


@pytest.mark.parametrize("today", [False, True], ids=["0.1.0", "today"])
def test_a_finished_run_opens_and_reports_in_its_layout(former: Path, coevo_ray: Command, today: bool) -> None:
    run = former / "run"
    before = json.loads((run / "summary.json").read_text())
    if today:
        move_to_todays_layout(run)
    place = Location.parse(str(run))
    doubt_a_row(run / (TODAY if today else FORMER)["evidence"])
    report = ("report", str(former / "run.yaml"), "--json")
    assert is_finished(load_config(former / "run.yaml"), place)
    assert json.loads(coevo_ray(*report).stdout) == before
    for name in ("manifest.json", "summary.json"):
        (run / name).unlink()
    made = coevo_ray(*report)
    assert made.returncode == 0, made.stderr
    again: dict[str, Any] = json.loads(made.stdout)
    changed = {"report": "", "version": "", "evidence": {}}
    assert {**again, **changed} == {**before, **changed}
    page = (run / "report.html").read_text()
    assert "First version" in page and "data:image" in page  # the doubted rows, by evidence

    table = load_factors(run)
    inner = run / ("sae" if today else "factors")
    assert str(find_factors(place)) == str(find_factors(str(inner))) == str(inner / "table")
    assert load_factors(inner).counts.tolist() == table.counts.tolist()
    assert str(GateSession(place).location) == str(run / "gate")
    assert json.loads(coevo_ray("gate", "status", "--gate", str(run), "--json").stdout)["labels"] == 58
    shown = coevo_ray("sae", "show", str(run), "--pool", str(run / "pool"), "--out", str(former / "f.html"), "--json")
    assert shown.returncode == 0, shown.stderr


def test_the_report_names_the_folder_that_is_missing(former: Path, coevo_ray: Command) -> None:
    shutil.rmtree(former / "run" / "factors" / "scores")
    (former / "run" / "manifest.json").unlink()
    result = coevo_ray("report", str(former / "run.yaml"))
    assert result.returncode == 3 and str(former / "run/factors/scores") in result.stderr


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("today", [pytest.param(False, marks=pytest.mark.slow), True], ids=["0.1.0", "today"])
def test_training_goes_on_from_the_earlier_stages_where_they_are(former: Path, coevo_ray: Command, today: bool) -> None:
    run = former / "run"
    if today:
        move_to_todays_layout(run)
    evidence = run / (TODAY if today else FORMER)["evidence"]
    shutil.rmtree(run / "train" / "factors")
    kept = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    result = coevo_ray("train", str(former / "run.yaml"), "--policy", "factors", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["factors"]["accuracy"] > 0
    assert (run / "train/factors/manifest.json").is_file() and (evidence / "manifest.json").is_file()
    new = {path for path in run.rglob("*") if path.is_file()} - kept.keys()
    assert all(path.is_relative_to(run / "train" / "factors") for path in new), new
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
