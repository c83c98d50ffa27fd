from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

import coevo_ray
from coevo_ray.core.alignment.projection import normalise
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vector_column

ROWS, CLASSES, DIM, TEST = 600, 3, 8, 200


def make(
    folder: Path, targets: npt.NDArray[np.float32], made_by: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> tuple[Path, Path]:
    """A pool whose last `TEST` rows are the test split, and its targets."""
    ids = np.arange(len(labels))
    pool = Location(str(folder / "pool"))
    columns = {
        "row_id": ids,
        "key": [str(i) for i in ids],
        "text": [f"row {i}" for i in ids],
        "label": labels,
        "split": (ids >= len(ids) - TEST).astype(np.int8),
    }
    entry = write_table(pool, "a.parquet", pa.table(columns))
    about = {"classes": int(labels.max()) + 1, "modality": "text"}
    finish(pool, "pool", {}, {}, [entry], about)
    place = Location(str(folder / "targets"))
    table = pa.table({"row_id": ids, "target": vector_column(targets), "prior": made_by.astype(np.uint8)})
    summary = {
        "priors": [{"name": name} for name in ("a", "b", "c")],
        "pools": [{"identity": Pool.open(str(pool)).manifest.identity, "first_row_id": 0, "rows": len(ids)}],
    }
    finish(place, "targets", {}, {}, [write_table(place, "a.parquet", table)], summary)
    return folder / "targets", folder / "pool"


def rows(turn: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Targets of two priors in three clusters; the second prior's are turned to another class by as much."""
    random = np.random.default_rng(0)
    labels, made_by = random.integers(0, CLASSES, ROWS), random.integers(0, 2, ROWS)
    centres = np.eye(DIM)[:CLASSES]
    mine, theirs = centres[labels], centres[(labels + 1) % CLASSES]
    middles = np.where(made_by[:, None] == 1, (1 - turn) * mine + turn * theirs, mine)
    return normalise((middles + 0.1 * random.normal(size=(ROWS, DIM))).astype(np.float32)), made_by, labels


def test_priors_in_one_space_do_as_well_on_one_anothers_rows(tmp_path: Path) -> None:
    targets, made_by, labels = rows(turn=0)
    found = coevo_ray.probe(*make(tmp_path, targets, made_by, labels))
    assert (found["train_rows"], found["test_rows"], found["classes"]) == (ROWS - TEST, TEST, CLASSES)
    assert found["priors"] == ["a", "b", "c"]
    assert found["linear_probe"] > 0.98
    assert found["knn"] > 0.98
    assert found["within"] > 0.98
    assert found["between"] > 0.98
    # The third prior made no row.
    assert found["across"][2] == [None, None, None]
    assert found["across"][0][2] is None


def test_priors_apart_are_wrong_on_one_anothers_rows(tmp_path: Path) -> None:
    targets, made_by, labels = rows(turn=1)
    found = coevo_ray.probe(*make(tmp_path, targets, made_by, labels))
    assert found["within"] > 0.98
    assert found["between"] < 0.02
    assert found["across"][0][1] == found["across"][1][0] == found["between"]


def test_of_many_rows_as_many_as_asked_for_are_read(tmp_path: Path) -> None:
    targets, made_by, labels = rows(turn=0)
    places = make(tmp_path, targets, made_by, labels)
    found = coevo_ray.probe(*places, rows=120)
    assert (found["train_rows"], found["test_rows"]) == (120, 120)
    assert coevo_ray.probe(*places, rows=120) == found


def test_without_labels_it_says_what_to_look_at(tmp_path: Path) -> None:
    targets, made_by, labels = rows(turn=0)
    with pytest.raises(InputError, match=r"no labelled rows(.|\n)*verdict"):
        coevo_ray.probe(*make(tmp_path, targets, made_by, np.full_like(labels, -1)))
