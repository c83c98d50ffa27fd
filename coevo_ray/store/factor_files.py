"""The factor table on disk: one Parquet row per factor, dead ones included."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import BoolArray, Float32Array, Int64Array
from coevo_ray.core.factors.table import NO_ROW, FactorTable
from coevo_ray.store.artifact import FileEntry, load_manifest, read_table, write_table
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.opening import locate

KIND, _FILE = "factors", "factors.parquet"


def save_factors(location: Location, table: FactorTable) -> FileEntry:
    """Writes `factors.parquet`.

    Columns: `factor int32`, `count int64`, `frequency float64`, `mean_value float64`, `value_sum float64`, `top_rows
    list<int64>` (row_ids) and `top_values list<float>`, the rows with the largest values first.

    Raises:
        InputError: the table is of no rows.
        StoppedError: the store refused.
    """
    filled = table.top_rows != NO_ROW
    columns = {
        "factor": np.arange(len(table.counts), dtype=np.int32),
        "count": table.counts,
        "frequency": table.frequencies,
        "mean_value": table.mean_values,
        "value_sum": table.sums,
        "top_rows": _ragged(table.top_rows, filled),
        "top_values": _ragged(table.top_values, filled),
    }
    return write_table(location, _FILE, pa.table(columns))


def load_factors(uri: ArtifactLike) -> FactorTable:
    """Reads the factor table of a scored feature table.

    Args:
        uri: what `sae` or `sae_score` returned, the folder that they wrote to, that of a run, or the table's own.

    Returns:
        Counts int64[m], frequencies, mean values and top rows, see `core.factors.table.FactorTable`.

    Raises:
        InputError: there is no factor table.
    """
    location = locate(uri, KIND)
    manifest = load_manifest(location, KIND)
    columns = read_table(location, _FILE)
    empty = FactorTable.empty(len(columns), int(manifest.config["top_rows"]))
    rows, values = columns.column("top_rows").combine_chunks(), columns.column("top_values").combine_chunks()
    lengths = np.diff(rows.offsets.to_numpy())
    filled = np.arange(empty.top_rows.shape[1]) < lengths[:, None]
    empty.top_rows[filled] = rows.flatten().to_numpy()
    empty.top_values[filled] = values.flatten().to_numpy()
    counts, sums = columns.column("count").to_numpy(), columns.column("value_sum").to_numpy()
    return FactorTable(int(manifest.summary["rows"]), counts, sums, empty.top_values, empty.top_rows)


def find_factors(uri: ArtifactLike) -> Location:
    """Returns the folder of a factor table, see `load_factors`."""
    return locate(uri, KIND)


def _ragged(matrix: Int64Array | Float32Array, filled: BoolArray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix[filled]))
