"""One way in: objects, paths and locations, and the folders of commands and runs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coevo_ray.errors import InputError, UsageError
from coevo_ray.store.artifact import Artifact, finish
from coevo_ray.store.data_files import write_blob, write_table
from coevo_ray.store.location import Location
from coevo_ray.store.opening import locate, open_artifact, open_table
from coevo_ray.store.row_table import RowTable


def table(place: Path, kind: str) -> RowTable:
    location, columns = Location.parse(place), {"row_id": np.arange(3)}
    finish(location, kind, {}, {}, [write_table(location, "0.parquet", pa.table(columns))], {"made": kind})
    return RowTable(location, kind)


def blob(place: Path, kind: str) -> None:
    location = Location.parse(place)
    finish(location, kind, {}, {}, [write_blob(location, "x.bin", kind.encode())], {"made": kind, "seconds": 1.5})


def test_what_is_right_already_passes_through(tmp_path: Path) -> None:
    scores = table(tmp_path / "scores", "scores")
    assert open_table(scores, "scores") is scores
    assert open_table(scores, None) is scores
    blob(tmp_path / "model", "model")
    model = open_artifact(tmp_path / "model", "model")
    assert open_artifact(model, "model") is model


@pytest.mark.parametrize("form", [str, Path, Location.parse, lambda place: RowTable(place), "relative"])
def test_a_folder_is_named_in_any_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    table(tmp_path / "t", "targets")
    monkeypatch.chdir(tmp_path)
    what = "t" if form == "relative" else form(tmp_path / "t")
    opened = open_table(what, "targets")
    assert opened.location == Location(str(tmp_path / "t"))
    assert (opened.manifest.kind, opened.summary, len(opened)) == ("targets", {"made": "targets"}, 3)


@pytest.mark.parametrize(
    ("at", "kind", "given"),
    [
        ("encode/targets", "targets", "encode"),  # the output of encode
        ("run/encode/targets", "targets", "run"),
        ("out/scores", "scores", "out"),  # that of sae
        ("run/sae/scores", "scores", "run"),
        ("run/sae/table", "factors", "run"),
        ("run/sae/model", "sae", "run"),
        ("run/train/evidence", "evidence", "run"),
        ("run/factors/scores", "scores", "run"),  # and of version 0.1.0
        ("run/factors/scores", "scores", "run/factors"),
        ("out/table", "factors", "out"),
        ("run/factors/table", "factors", "run"),
        ("out/model", "sae", "out"),
        ("run/sae", "sae", "run"),
        ("run/pool", "pool", "run"),
        ("run/gate", "labels", "run"),
        ("run/evidence", "evidence", "run"),
        ("model/evidence", "evidence", "model"),  # that of a training with targets
        ("labels/pseudo_labels", "pseudo_labels", "labels"),
    ],
)
def test_outputs_of_commands_and_runs_are_taken(tmp_path: Path, at: str, kind: str, given: str) -> None:
    table(tmp_path / at, kind)
    outer = {"run": "run", "model": "model", "labels": "labels"}.get(given)
    if outer is not None:
        blob(tmp_path / given, outer)
    assert locate(tmp_path / given, kind) == Location(str(tmp_path / at))
    assert locate(tmp_path / at, kind) == Location(str(tmp_path / at))


def test_a_folder_of_the_kind_itself_goes_before_what_lies_in_it(tmp_path: Path) -> None:
    table(tmp_path / "t", "targets")
    table(tmp_path / "t" / "targets", "targets")
    assert locate(tmp_path / "t", "targets").name == "t"


def test_scores_lead_to_the_model_and_the_factors_beside_them(tmp_path: Path) -> None:
    scores = table(tmp_path / "out" / "scores", "scores")
    with pytest.raises(InputError, match="holds a scores, a sae is needed"):
        open_artifact(scores, "sae")
    blob(tmp_path / "out" / "model", "sae")
    table(tmp_path / "out" / "table", "factors")
    assert open_artifact(scores, "sae").location == Location(str(tmp_path / "out" / "model"))
    assert open_table(scores, "factors").location == Location(str(tmp_path / "out" / "table"))
    # Other tables have no such neighbours.
    with pytest.raises(InputError, match="holds a targets, a sae is needed"):
        open_artifact(table(tmp_path / "out" / "targets", "targets"), "sae")


def test_any_kind_is_taken_where_none_is_asked_for(tmp_path: Path) -> None:
    table(tmp_path / "mine", "features")
    assert open_table(tmp_path / "mine", None).manifest.kind == "features"
    table(tmp_path / "encode" / "targets", "targets")
    assert open_table(tmp_path / "encode", None).manifest.kind == "targets"


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("pool", "coevo-ray ingest"),
        ("targets", "coevo-ray encode"),
        ("scores", "coevo-ray sae"),
        ("labels", "coevo-ray gate"),
        ("evidence", "coevo-ray train"),
        ("model", "coevo-ray train"),
    ],
)
def test_errors_say_what_it_is_what_is_needed_and_who_makes_it(tmp_path: Path, kind: str, command: str) -> None:
    blob(tmp_path / "codes", "codes")
    with pytest.raises(InputError, match=f"codes holds a codes, a {kind} is needed") as wrong:
        open_table(tmp_path / "codes", kind)
    with pytest.raises(InputError, match=f"no finished {kind} at {tmp_path}/nowhere") as missing:
        open_table(tmp_path / "nowhere", kind)
    for raised in (wrong, missing):
        assert command in raised.value.remedy


@pytest.mark.parametrize("what", [None, 3, ["a"], {"location": "a"}])
def test_what_is_no_place_at_all_is_wrong_usage(what: Any) -> None:
    with pytest.raises(UsageError, match=f"{type(what).__name__} is not a path"):
        open_table(what, "targets")


def test_an_artifact_has_its_figures_as_items(tmp_path: Path) -> None:
    blob(tmp_path / "model", "model")
    made = Artifact.open(Location.parse(tmp_path / "model"), "model")
    assert made["seconds"] == 1.5
    assert dict(made) == made.summary == made == {"made": "model", "seconds": 1.5}
    assert json.loads(json.dumps(made.summary)) == {**made}
    assert repr(made) == f"<model at {tmp_path}/model>"
    again = pickle.loads(pickle.dumps(made))
    assert (again.location, again.manifest, again.summary) == (made.location, made.manifest, made.summary)


@pytest.mark.parametrize(
    ("uri", "parent"),
    [("/a/b/c", "/a/b"), ("/a", "/"), ("s3://bucket/a/b?region=x", "s3://bucket/a?region=x")],
)
def test_parents(uri: str, parent: str) -> None:
    assert Location(uri).parent == Location(parent)
    assert Location(uri).parent.child(Location(uri).name) == Location(uri)
