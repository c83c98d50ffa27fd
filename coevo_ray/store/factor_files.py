"""The factor table on disk: one Parquet row per factor, dead ones included."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import BoolArray, Float32Array, Int64Array
from coevo_ray.core.factors.table import NO_ROW, FactorTable
from coevo_ray.errors import InputError
from coevo_ray.store.checked import check_size, entry_of
from coevo_ray.store.data_files import read_table, write_table
from coevo_ray.store.location import ArtifactLike, Location
from coevo_ray.store.manifest import FileEntry, load_manifest
from coevo_ray.store.opening import locate

KIND, _FILE = "factors", "factors.parquet"
_COLUMNS = {"count", "value_sum", "top_rows", "top_values"}
_MOST_TOP_ROWS = 10_000  # each takes 12 bytes in memory for each factor, filled or not
_REMEDY = "the artifact is damaged: restore it, or score again into another folder"


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
    check_size(location.child(_FILE), entry_of(location, manifest, _FILE), location.child(_FILE).size())
    columns, seen, width = read_table(location, _FILE), manifest.summary.get("rows"), manifest.config.get("top_rows")
    if type(seen) is not int or type(width) is not int or not 1 <= width <= _MOST_TOP_ROWS:
        raise InputError(f"{location} states rows {ascii(seen)[:40]}, top_rows {ascii(width)[:40]}", _REMEDY)
    if missing := _COLUMNS - set(columns.column_names):
        raise InputError(f"{location.child(_FILE)} has no columns {sorted(missing)}", _REMEDY)
    empty = FactorTable.empty(len(columns), width)
    rows, values = columns.column("top_rows").combine_chunks(), columns.column("top_values").combine_chunks()
    lengths = np.diff(rows.offsets.to_numpy())
    if lengths.max(initial=0) > width or len(values.flatten()) != lengths.sum():
        raise InputError(f"{location.child(_FILE)} has more top rows than {width}, or other values", _REMEDY)
    filled = np.arange(empty.top_rows.shape[1]) < lengths[:, None]
    empty.top_rows[filled] = rows.flatten().to_numpy()
    empty.top_values[filled] = values.flatten().to_numpy()
    counts, sums = columns.column("count").to_numpy(), columns.column("value_sum").to_numpy()
    return FactorTable(seen, counts, sums, empty.top_values, empty.top_rows)


def find_factors(uri: ArtifactLike) -> Location:
    """Returns the folder of a factor table, see `load_factors`."""
    return locate(uri, KIND)


def _ragged(matrix: Int64Array | Float32Array, filled: BoolArray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix[filled]))
