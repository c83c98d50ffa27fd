"""A small pool with targets, made directly: clouds about corners, a tenth of the rows held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column

ROWS, CLASSES, DIM = 600, 4, 16
NAMES = ("ant", "bee", "cat", "dog")
HELD, REJECTED = np.arange(0, ROWS, 10), np.arange(7, ROWS, 200)


def inputs(
    folder: Path, *, labelled: bool = True, seed: int = 0, noise: float = 0.35, hidden: Sequence[int] = ()
) -> tuple[Pool, RowTable]:
    """Pool and targets; `labelled` says whether the pool knows labels, but those of `hidden` rows. Rejected rows have
    no target.
    """
    random = np.random.default_rng(seed)
    true = random.integers(0, CLASSES, ROWS)
    features = np.eye(DIM)[true] + noise * random.standard_normal((ROWS, DIM)) + 1.0
    split = np.zeros(ROWS, np.int8)
    split[HELD] = 1
    place = Location.parse(str(folder / "pool"))
    labels = (
        pa.array(true, pa.int64(), mask=np.isin(np.arange(ROWS), hidden)) if labelled else pa.nulls(ROWS, pa.int64())
    )
    keys = [f"sample-{row}" for row in range(ROWS)]
    texts = [f"text {row}" for row in range(ROWS)]
    columns = {"row_id": np.arange(ROWS), "key": keys, "text": texts, "label": labels, "split": split}
    summary = {"classes": CLASSES if labelled else 0, "modality": "text"}
    finish(place, "pool", {}, {}, [write_table(place, "0.parquet", pa.table(columns))], summary)
    have = np.delete(np.arange(ROWS), REJECTED)
    place = Location.parse(str(folder / "targets"))
    entries = []
    for i, part in enumerate(np.array_split(have, 3)):
        table = pa.table({"row_id": part, "target": vector_column(features[part].astype(np.float32))})
        entries.append(write_table(place, f"{i}.parquet", table, 64))
    finish(place, "targets", {}, {}, entries, {})
    return Pool(Location.parse(str(folder / "pool"))), RowTable(place, "targets")


def truth(seed: int = 0) -> npt.NDArray[np.int64]:
    """The class of every row."""
    return np.random.default_rng(seed).integers(0, CLASSES, ROWS).astype(np.int64)
