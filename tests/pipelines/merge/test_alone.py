"""Targets beside each prior alone: equal features give equal figures, and what cannot be compared is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coevo_ray.pipelines.merge.alone import beside_priors
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vector_column
from tests.pipelines.merge.test_probe import ROWS, make, rows


def contribution(folder: Path, name: str, features: npt.NDArray[np.float32], **summary: Any) -> Location:
    """A prior's contribution of all rows, but for those of `without`."""
    place = Location(str(folder / name))
    without = summary.pop("without", ())
    keep = np.setdiff1d(np.arange(len(features)), without)
    columns = {"row_id": keep, "own": np.ones(len(keep), dtype=bool), "feature": vector_column(features[keep])}
    entry = write_table(place, "features-000000.parquet", pa.table(columns))
    config = {"dim": features.shape[1], "prior": {"name": name, "input_size": None}}
    finish(place, "contribution", config, {}, [entry], {"coverage": 2, **summary})
    return place


def test_the_same_features_are_worth_the_same_and_noise_is_worth_chance(tmp_path: Path) -> None:
    targets, made_by, labels = rows(turn=0)
    noise = np.random.default_rng(1).normal(size=targets.shape).astype(np.float32)
    made = make(tmp_path, targets, made_by, labels)
    found = beside_priors(*made, [contribution(tmp_path, "same", targets), contribution(tmp_path, "noise", noise)])
    assert found is not None and [*found["alone"]] == ["same", "noise"]
    assert found["targets"] == found["alone"]["same"] > 0.95
    assert found["alone"]["noise"] < 0.5


def test_rows_that_a_prior_rejected_are_left_out_for_all(tmp_path: Path) -> None:
    targets, made_by, labels = rows(turn=0)
    made = make(tmp_path, targets, made_by, labels)
    gone = np.arange(0, ROWS, 7)
    places = [contribution(tmp_path, "whole", targets), contribution(tmp_path, "part", targets, without=gone)]
    found = beside_priors(*made, places)
    assert found is not None and found["targets"] == found["alone"]["whole"] == found["alone"]["part"] > 0.95


def test_what_cannot_be_compared_is_not(tmp_path: Path) -> None:
    targets, made_by, labels = rows(turn=0)
    made = make(tmp_path, targets, made_by, labels)
    whole = [contribution(tmp_path, name, targets) for name in ("a", "b")]
    assert beside_priors(*made, whole) is not None
    assert beside_priors(*made, whole[:1]) is None
    assert beside_priors(*made, [*whole, Location(str(tmp_path / "gone"))]) is None
    assert beside_priors(*made, [whole[0], contribution(tmp_path, "c", targets, coverage=1)]) is None
    unlabelled = make(tmp_path / "unlabelled", targets, made_by, np.zeros_like(labels))
    assert beside_priors(*unlabelled, whole) is None
