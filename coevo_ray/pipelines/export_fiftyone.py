"""Images with the evidence on their labels as a folder that FiftyOne imports: `FiftyOneImageClassificationDataset`."""

from __future__ import annotations

import json

import numpy as np

from coevo_ray.annotators.sample_files import file_ending
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable

_READ_ROWS = 256


def export_fiftyone(evidence: RowTable, pool: Pool, place: Location) -> JsonObject:
    """Writes `data/ROW_ID.ENDING` for each row of the evidence, and `labels.json`, which comes last.

    A label is that of the pool, its `confidence` the probability that it is right; its attributes are `row_id`, `key`,
    `likely` (the likeliest class), `doubt` and `copy_of` (the row_id that near-duplicates share).

    Args:
        evidence: the evidence on labels of the pool's rows.
        pool: the pool; of images.
        place: the result.

    Raises:
        UsageError: the output is there already.
        InputError: the pool lacks a row, or a file is damaged.
        StoppedError: the store refused.
    """
    if place.is_folder() and place.files(recursive=True):
        raise UsageError(f"{place} already exists", "choose another output with --out")
    names = [str(name) for name in pool.manifest.summary.get("class_names") or range(pool.classes)]
    columns = ["row_id", "label", "doubt", "likely", "group"]
    found = evidence.scan(columns).to_pylist()
    labels: JsonObject = {}
    for first in range(0, len(found), _READ_ROWS):
        rows = found[first : first + _READ_ROWS]
        read = pool.read(np.array([row["row_id"] for row in rows], dtype=np.int64), ["key", "image"])
        for row, sample in zip(rows, read.to_pylist(), strict=True):
            name = f"{row['row_id']:09d}"
            place.child("data", f"{name}.{file_ending(sample['image'])}").write_bytes(sample["image"])
            labels[name] = _label(row, sample["key"], names)
    content = {"classes": names, "labels": labels}
    place.child("labels.json").write_bytes((json.dumps(content, indent=1) + "\n").encode())
    return {"rows": len(labels), "out": str(place)}


def _label(row: JsonObject, key: str, names: list[str]) -> JsonObject:
    attributes = {
        "row_id": row["row_id"],
        "key": key,
        "likely": names[row["likely"]],
        "doubt": round(float(row["doubt"]), 4),
        "copy_of": row["group"],
    }
    return {"label": names[row["label"]], "confidence": round(1 - float(row["doubt"]), 4), "attributes": attributes}
