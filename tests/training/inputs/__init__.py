"""Small pools of any modality, and targets of their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vector_column

ROWS, DIM, CLASSES = 240, 12, 4
Matrix = npt.NDArray[np.float32]


def clouds(seed: int = 0) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """Vectors far from the origin and of no unit scale, about a corner for each class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, ROWS)
    matrix = 40 + 5 * (np.eye(DIM)[labels] + 0.15 * random.standard_normal((ROWS, DIM)))
    return matrix.astype(np.float32), labels.astype(np.int64)


def pool_of(folder: Path, modality: str, labels: npt.NDArray[np.int64], **columns: pa.Array) -> Pool:
    """A pool with any columns; every fifth row is held out."""
    place, ids = Location.parse(folder), np.arange(ROWS)
    table = pa.table({"row_id": ids, **columns, "label": labels, "split": (ids % 5 == 0).astype(np.int8)})
    features = {name: DIM for name in columns if pa.types.is_fixed_size_list(columns[name].type)}
    summary = {"classes": CLASSES, "modality": modality, "features": features, "class_names": list("abcd")}
    finish(place, "pool", {}, {}, [write_table(place, "a.parquet", table, group_rows=64)], summary)
    return Pool(place)


def targets_of(folder: Path, pool: Pool, matrix: Matrix, rows: npt.NDArray[np.int64]) -> RowTable:
    """Targets of some rows of a pool."""
    place = Location.parse(folder)
    table = pa.table({"row_id": rows, "target": vector_column(matrix[rows])})
    pools = [{"identity": pool.manifest.identity, "first_row_id": 0, "rows": ROWS}]
    finish(place, "targets", {}, {}, [write_table(place, "a.parquet", table, group_rows=64)], {"pools": pools})
    return RowTable(place, "targets")
