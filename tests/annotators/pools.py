"""Small pools, written as ingest writes them, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from coevo_ray.annotators.base import Answers, Collected, Questions
from coevo_ray.pool.pool import Pool, pool_schema
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from tests.pool.pictures import png


def make_pool(
    folder: Path,
    keys: Sequence[str] | int = 12,
    *,
    classes: int = 3,
    labels: Sequence[int | None] | None = None,
    images: Sequence[bytes] | None = None,
    texts: Sequence[str] | None = None,
    files: int = 2,
    group_rows: int = 4,
) -> Pool:
    """A pool of images, unless there are texts; the label of row i is i modulo the classes, unless there are labels."""
    names = [f"pictures/{i:03d}.png" for i in range(keys)] if isinstance(keys, int) else list(keys)
    samples = (
        list(texts)
        if texts is not None
        else list(images)
        if images is not None
        else [png(i) for i in range(len(names))]
    )
    columns = {
        "row_id": np.arange(len(names)),
        "key": names,
        "text" if texts is not None else "image": samples,
        "label": [i % classes for i in range(len(names))] if labels is None else list(labels),
        "split": np.zeros(len(names), dtype=np.int8),
    }
    table = pa.table(columns, schema=pool_schema("text" if texts is not None else "image", {}))
    location = Location.parse(str(folder))
    parts = np.array_split(np.arange(len(names)), files)
    entries = [write_table(location, f"part-{i}.parquet", table.take(part), group_rows) for i, part in enumerate(parts)]
    summary = {"classes": classes, "modality": "text" if texts is not None else "image"}
    finish(location, "pool", {}, {}, entries, summary)
    return Pool(location)


def questions(row_ids: Sequence[int], round: int = 0, classes: int = 3, answered: Sequence[int] = ()) -> Questions:
    """Questions with a prediction for all but the first row; `answered` were asked for in the same round."""
    ids = np.array(sorted(row_ids), dtype=np.int64)
    predicted, confidence = ids % classes, np.linspace(0.4, 0.9, len(ids), dtype=np.float32)
    predicted[:1], confidence[:1] = -1, np.nan
    gains, asked = np.linspace(1, 0.5, len(ids), dtype=np.float32), np.array(sorted({*row_ids, *answered}), np.int64)
    return Questions(round, ids, gains, predicted, confidence, asked)


def as_dicts(collected: Collected | Sequence[Answers]) -> dict[str, dict[int, int]]:
    """annotator -> row_id -> label; checks what every `Collected` promises."""
    answers = collected.answers if isinstance(collected, Collected) else collected
    result = {a.annotator: dict(zip(a.row_ids.tolist(), a.labels.tolist(), strict=True)) for a in answers}
    assert len(result) == len(answers), "an annotator is there twice"
    assert all(len(result[a.annotator]) == len(a.row_ids) for a in answers), "a row is there twice"
    return result
