"""Artifacts for other tools, each read by the tool itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import lance
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from cleanlab import Datalab

from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.export import export, issues_of, write_subset
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_blob, write_table
from coevo_ray.store.dataset_card import hub_head, write_dataset_card
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable

ROWS = 12


def targets(folder: Path) -> RowTable:
    """Targets in two files, with a file of another kind beside them."""
    place, files = Location.parse(folder), []
    for i, part in enumerate(np.array_split(np.arange(ROWS), 2)):
        values = pa.FixedSizeListArray.from_arrays(pa.array((np.repeat(part, 4) / 8).astype(np.float16)), 4)
        files.append(write_table(place, f"targets-{i:06}.parquet", pa.table({"row_id": part, "target": values})))
    files.append(write_blob(place, "consensus-1.safetensors", b"matrices"))
    finish(place, "targets", {"dim": 4}, {}, files, {})
    return RowTable(place)


def evidence(folder: Path) -> RowTable:
    """Rows 2 and 3, and 7 to 9, are copies; the labels of 1 and 8 are wrong."""
    place, rows = Location.parse(folder), np.arange(ROWS)
    doubt = np.where(np.isin(rows, [1, 8]), 0.75, 0.125).astype(np.float16)
    group = np.where(rows == 3, 2, np.where((rows == 8) | (rows == 9), 7, rows))
    label = rows % 3
    columns = {"row_id": rows, "label": label, "doubt": doubt, "likely": np.where(doubt > 0.5, 2 - label, label)}
    file = write_table(place, "evidence-000000.parquet", pa.table({**columns, "group": group}))
    finish(place, "evidence", {}, {}, [file], {})
    return RowTable(place)


def test_a_card_lets_datasets_read_the_folder(tmp_path: Path) -> None:
    table = targets(tmp_path / "targets")
    (tmp_path / "targets" / "card.json").write_text('{"dim": 4}')
    (tmp_path / "targets" / "README.md").write_text(hub_head(table.manifest, "Targets") + "# Targets\n")
    read = datasets.load_dataset(str(tmp_path / "targets"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read["row_id"][:] == list(range(ROWS))
    assert read[5]["target"] == [5 / 8] * 4
    head = yaml.safe_load((tmp_path / "targets" / "README.md").read_text().split("---")[1])
    assert head["tags"] == ["coevo-ray", "targets"]


def test_each_kind_of_table_is_a_configuration(tmp_path: Path) -> None:
    place = Location.parse(tmp_path / "labels")
    labels = pa.table({"row_id": [1, 4], "label": [0, 2]})
    answers = pa.table({"row_id": [4, 1, 4], "label": [2, 0, 2], "annotator": ["a", "a", "b"]})
    pq.write_table(answers, sink := pa.BufferOutputStream())
    files = [
        write_blob(place, "answers-0000000003.parquet", sink.getvalue().to_pybytes()),
        write_table(place, "labels-0000000003.parquet", labels),
    ]
    write_dataset_card(place, finish(place, "labels", {}, {}, files, {}))
    read: Any = {
        name: datasets.load_dataset(str(tmp_path / "labels"), name, split="train", cache_dir=str(tmp_path / "cache"))
        for name in ("default", "answers")
    }
    assert read["default"].to_dict() == labels.to_pydict()
    assert read["answers"].to_dict() == answers.to_pydict()


def test_a_subset_is_a_data_set(tmp_path: Path) -> None:
    pool = write_pool_with_keys(tmp_path / "pool")
    subset = Subset(3, np.array([1, 5, 6]), np.array([1.0, 2.0, 0.5], np.float32))
    made = write_subset(subset, pool, tmp_path / "subset")
    assert made.manifest.config == {"epoch": 3}
    read = datasets.load_dataset(str(tmp_path / "subset"), split="train", cache_dir=str(tmp_path / "cache"))
    rows = {"row_id": [1, 5, 6], "key": ["k1", "k5", "k6"], "label": [1, None, 6], "weight": [1.0, 2.0, 0.5]}
    assert read.to_dict() == rows
    with pytest.raises(UsageError):
        write_subset(Subset(4, np.array([1])), pool, tmp_path / "subset")
    with pytest.raises(InputError, match="wanted rows"):
        write_subset(Subset(0, np.array([99])), pool, tmp_path / "no")


def write_pool_with_keys(folder: Path) -> Location:
    place = Location.parse(folder)
    labels = pa.array([None if row % 5 == 0 else row for row in range(ROWS)], pa.int64())
    columns = {"row_id": np.arange(ROWS), "key": [f"k{row}" for row in range(ROWS)], "label": labels}
    file = write_table(place, "rows-000000.parquet", pa.table({**columns, "text": ["t"] * ROWS}))
    finish(place, "pool", {}, {}, [file], {"modality": "text", "classes": ROWS})
    return place


def test_issues_have_the_columns_of_cleanlab(tmp_path: Path) -> None:
    table = issues_of(evidence(tmp_path / "evidence"))
    frame = table.to_pandas().set_index("row_id")
    features = np.random.default_rng(0).normal(size=(60, 4))
    lab = Datalab({"label": np.arange(60) % 3}, label_name="label", verbosity=0)
    probabilities = np.full((60, 3), 1 / 3)
    alone = {"find_label_issues_kwargs": {"n_jobs": 1}}  # processes that it forks beside Ray's threads may hang
    issue_types = {"label": {"clean_learning_kwargs": alone}, "near_duplicate": {}}
    lab.find_issues(pred_probs=probabilities, features=features, issue_types=issue_types)
    for name in ("label", "near_duplicate"):
        theirs = lab.get_issues(name)
        ours = set(frame.columns) & set(theirs.columns)
        assert set(theirs.columns) - ours <= {"distance_to_nearest_neighbor"}, "a distance is not in the evidence"
        assert all(frame[column].dtype.kind == theirs[column].dtype.kind for column in ours), name
    assert frame.index[frame["is_label_issue"]].tolist() == [1, 8]
    assert frame.loc[1, ["label_score", "given_label", "predicted_label"]].tolist() == [0.25, 1, 1]
    assert frame.index[frame["is_near_duplicate_issue"]].tolist() == [2, 3, 7, 8, 9]
    assert {row: list(others) for row, others in frame["near_duplicate_sets"].items() if len(others)} == {
        2: [3],
        3: [2],
        7: [8, 9],
        8: [7, 9],
        9: [7, 8],
    }
    assert frame["near_duplicate_score"].round(3).tolist()[:4] == [1.0, 1.0, 0.5, 0.5]


def test_issues_are_written_as_parquet_or_csv(tmp_path: Path) -> None:
    evidence(tmp_path / "evidence")
    made = export(tmp_path / "evidence", tmp_path / "issues.parquet", to="issues")
    assert made == {"rows": ROWS, "out": str(tmp_path / "issues.parquet"), "issues": {"label": 2, "near_duplicate": 5}}
    assert pq.read_table(tmp_path / "issues.parquet").equals(issues_of(tmp_path / "evidence"))
    export(tmp_path / "evidence", tmp_path / "issues.csv", to="issues")
    assert pa.csv.read_csv(tmp_path / "issues.csv").column("given_label").to_pylist() == [0, 1, 2] * 4


def test_lance_has_all_rows_in_order(tmp_path: Path) -> None:
    targets(tmp_path / "targets")
    export(tmp_path / "targets", tmp_path / "targets.lance")
    written = lance.dataset(str(tmp_path / "targets.lance")).to_table()
    assert written.column("row_id").to_pylist() == list(range(ROWS))
    assert written.filter(pa.compute.equal(written["row_id"], 5)).column("target").to_pylist() == [[5 / 8] * 4]
    with pytest.raises(UsageError, match="already exists"):
        export(tmp_path / "targets", tmp_path / "targets.lance")


@pytest.mark.parametrize(
    ("repo", "message"),
    [("a b/c", "is not a data set name"), ("me/x--y", "is not a data set name"), ("targets", "has no owner")],
)
def test_malformed_names_are_refused_before_anything_is_sent(
    repo: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    targets(tmp_path / "targets")
    with pytest.raises(UsageError, match=message):
        export(tmp_path / "targets", push_to_hub=repo)


def test_a_missing_token_and_damaged_files_are_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    targets(tmp_path / "targets")
    with pytest.raises(UsageError, match="no token for the Hugging Face Hub") as refused:
        export(tmp_path / "targets", push_to_hub="me/targets")
    assert "HF_TOKEN" in refused.value.remedy
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    (tmp_path / "targets" / "consensus-1.safetensors").write_bytes(b"damaged!")
    with pytest.raises(InputError, match=r"consensus-1\.safetensors are damaged"):
        export(tmp_path / "targets", push_to_hub="me/targets")


def test_a_place_is_needed(tmp_path: Path) -> None:
    targets(tmp_path / "targets")
    with pytest.raises(UsageError, match="no output for the result"):
        export(tmp_path / "targets")
