"""A contribution's rows of the shared set, read from its files, finished or not."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import PurePosixPath

import numpy as np

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pipelines.encode.contribution import SHARED
from coevo_ray.store.data_files import read_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vectors

_KEPT_FILES = 2  # blocks of rows follow one another


class SharedFiles:
    """The shared set of one contribution.

    Args:
        location: the contribution's folder; a manifest is not needed.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._read = lru_cache(_KEPT_FILES)(self._read_file)

    @cached_property
    def _ids(self) -> dict[str, Int64Array]:
        """File -> its row_ids; files without rows are left out."""
        names = (PurePosixPath(name).name for name in self.location.files())
        files = sorted(name for name in names if name.startswith(SHARED) and name.endswith(".parquet"))
        ids = {name: read_table(self.location, name).column("row_id").to_numpy() for name in files}
        found = {name: rows for name, rows in ids.items() if len(rows)}
        if not found:
            raise InputError(f"{self.location} has no rows of the shared set", "encode it again; see its rejects")
        return found

    def row_ids(self) -> Int64Array:
        """int64[s], increasing."""
        return np.concatenate(list(self._ids.values()))

    def width(self) -> int:
        """Columns of its features."""
        features = self._read(next(iter(self._ids)))[1]
        return int(features.shape[1])

    def features(self, row_ids: Int64Array) -> Float32Array:
        """Features of some rows.

        Args:
            row_ids: int64[b], increasing, among `row_ids()`.

        Returns:
            float32[b, c].
        """
        parts = []
        for name, ids in self._ids.items():
            mine = row_ids[(row_ids >= ids[0]) & (row_ids <= ids[-1])]
            if len(mine):
                there, features = self._read(name)
                parts.append(features[np.searchsorted(there, mine)])
        return np.concatenate(parts) if parts else np.zeros((0, self.width()), dtype=np.float32)

    def _read_file(self, name: str) -> tuple[Int64Array, Float32Array]:
        table = read_table(self.location, name)
        return table.column("row_id").to_numpy(), vectors(table.column("feature"))
