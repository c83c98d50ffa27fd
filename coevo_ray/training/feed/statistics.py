"""Mean and spread of a column of vectors, in one streamed pass."""

from __future__ import annotations

import numpy as np
import torch

from coevo_ray.core.arrays import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.store.row_table import RowTable, vectors


def input_statistics(table: RowTable, rows: Int64Array, column: str) -> tuple[torch.Tensor, float]:
    """Measures a network's inputs.

    Args:
        table: has a column of vectors.
        rows: int64[n] row_ids to read.
        column: its name.

    Returns:
        Mean float32[d], and the mean square about it over rows and dimensions.

    Raises:
        InputError: the vectors are constant or not finite, or a file cannot be read.
    """
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for index in range(len(table.files)):
        for part in table.iter_file(index, [column]):
            use = np.isin(part.column("row_id").to_numpy(), rows, assume_unique=True)
            x = vectors(part.column(column)).astype(np.float64)[use]
            count, total, squares = count + len(x), total + x.sum(axis=0), squares + (x * x).sum(axis=0)
    mean = total / count
    mean_square = float((squares / count - mean * mean).mean())
    # Float16 values that are all the same still differ from their mean by rounding.
    if not np.isfinite(mean_square) or mean_square <= 1e-12:
        raise InputError(
            f"the mean square of {column} is {mean_square}",
            "its vectors are constant or not finite: are all samples the same? If not, see encode",
        )
    return torch.from_numpy(mean).float(), mean_square
