"""Evidence with its images as a folder that FiftyOne imports, checked against the form that its importer reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from coevo_ray.errors import UsageError
from coevo_ray.pipelines.export import export
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from tests.pipelines.test_export import ROWS, evidence

# https://docs.voxel51.com, FiftyOneImageClassificationDataset: a label by itself, or with confidence and attributes.
SCHEMA = {
    "type": "object",
    "required": ["classes", "labels"],
    "additionalProperties": False,
    "properties": {
        "classes": {"type": ["array", "null"], "items": {"type": "string"}},
        "labels": {
            "additionalProperties": {
                "type": "object",
                "required": ["label"],
                "additionalProperties": False,
                "properties": {
                    "label": {"type": "string"},
                    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                    "attributes": {"type": "object"},
                },
            }
        },
    },
}


def pool(folder: Path, kind: str = "image") -> Path:
    """A pool of `ROWS` samples, every third image a JPEG."""
    place, ids = Location.parse(folder), np.arange(ROWS)
    samples: list[bytes | str] = []
    for row in range(ROWS):
        buffer = io.BytesIO()
        Image.new("L", (4, 4), 20 * row).save(buffer, "JPEG" if row % 3 == 0 else "PNG")
        samples.append(buffer.getvalue() if kind == "image" else f"text {row}")
    columns = {"row_id": ids, "key": [f"k{row}" for row in ids], kind: samples, "label": ids % 3}
    entry = write_table(place, "pool.parquet", pa.table({**columns, "split": np.zeros(ROWS, np.int8)}))
    finish(place, "pool", {}, {}, [entry], {"classes": 3, "modality": kind, "class_names": ["ant", "bee", "cat"]})
    return folder


def test_fiftyone_gets_images_labels_and_doubt(tmp_path: Path) -> None:
    made = export(evidence(tmp_path / "evidence"), tmp_path / "out", "fiftyone", pool=pool(tmp_path / "pool"))
    assert made == {"rows": ROWS, "out": str(tmp_path / "out")}
    content = json.loads((tmp_path / "out" / "labels.json").read_text())
    jsonschema.validate(content, SCHEMA)
    assert content["classes"] == ["ant", "bee", "cat"]
    files = {file.stem: file for file in (tmp_path / "out" / "data").iterdir()}
    assert files.keys() == content["labels"].keys()
    for row in range(ROWS):
        file = files[f"{row:09d}"]
        with Image.open(file) as image:
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[file.suffix]
            assert abs(int(np.asarray(image)[0, 0]) - 20 * row) <= 2
        label = content["labels"][file.stem]
        assert label["label"] == content["classes"][row % 3]
        assert (label["attributes"]["row_id"], label["attributes"]["key"]) == (row, f"k{row}")
    wrong = content["labels"]["000000001"]
    assert (wrong["confidence"], wrong["attributes"]["doubt"], wrong["attributes"]["likely"]) == (0.25, 0.75, "bee")
    assert [content["labels"][f"{row:09d}"]["attributes"]["copy_of"] for row in (2, 3, 9)] == [2, 2, 7]


def test_what_fiftyone_cannot_get_is_refused(tmp_path: Path) -> None:
    found = evidence(tmp_path / "evidence")
    with pytest.raises(UsageError, match="there is no pool"):
        export(found, tmp_path / "out", "fiftyone")
    with pytest.raises(UsageError, match="holds texts"):
        export(found, tmp_path / "out", "fiftyone", pool=pool(tmp_path / "texts", "text"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UsageError, match="already exists"):
        export(found, tmp_path / "out", "fiftyone", pool=pool(tmp_path / "pool"))
