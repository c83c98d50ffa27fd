"""Reads a neighbour graph's artifact, and the features that it was built on; needs neither Ray nor torch."""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load as load_safetensors

from coevo_ray.core.arrays import Float16Array, Float32Array, Int64Array
from coevo_ray.core.graph.types import NeighbourGraph
from coevo_ray.errors import InputError
from coevo_ray.store.artifact import load_manifest
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors

KIND = "graph"
ROWS = "rows.safetensors"


def load_graph(location: Location, targets: RowTable | None = None) -> tuple[NeighbourGraph, Int64Array]:
    """Reads a finished graph, and the row_id of each of its rows, int64[n].

    Args:
        location: its folder.
        targets: the features that it must belong to; None skips the check.

    Raises:
        InputError: there is no finished graph, a part is damaged, or it belongs to other features.
    """
    manifest = load_manifest(location, KIND)
    have = manifest.inputs.get("targets")
    if targets is not None and have != targets.manifest.identity:
        raise InputError(
            f"the graph {location} was built on features {have}, those of {targets.location} are "
            f"{targets.manifest.identity}",
            "give the graph of these features, or build one in another folder",
        )
    row_ids = graph_rows(location)
    fields, count = manifest.summary["fields"], len(row_ids)
    indices = np.empty((count, int(fields["parameters"]["k"])), dtype=np.int32)
    similarities = np.empty(indices.shape, dtype=np.float32)
    filled = 0
    for entry in manifest.files:
        if entry.path.startswith("part-"):
            part = load_safetensors(location.child(entry.path).read_bytes())
            indices[part["rows"]], similarities[part["rows"]] = part["indices"], part["similarities"]
            filled += len(part["rows"])
    if filled != count:
        raise InputError(f"{location} has neighbours of {filled} of {count} rows", "delete it and build it again")
    return NeighbourGraph.from_arrays(fields, {"indices": indices, "similarities": similarities}), row_ids


def graph_rows(location: Location) -> Int64Array:
    """The row_id of each row of a finished graph, int64[n], without reading its neighbours."""
    row_ids: Int64Array = load_safetensors(location.child(ROWS).read_bytes())["row_ids"]
    return row_ids


def read_targets(targets: RowTable, row_ids: Int64Array) -> Float32Array:
    """Targets of some rows, float32[n, dim]."""
    return vectors(targets.read(row_ids, ["target"]).column("target"))


def read_half(targets: RowTable, row_ids: Int64Array) -> Float16Array:
    """Targets of some rows, float16[n, dim], read a row group at a time into their one copy.

    Args:
        targets: the table.
        row_ids: int64[n], strictly increasing, all in the table.
    """
    dim = targets.schema().field("target").type.list_size if len(targets) else 0
    made = np.empty((len(row_ids), dim), dtype=np.float16)
    for index in range(len(targets.files)):
        for table in targets.iter_file(index, ["target"]):
            ids = table.column("row_id").to_numpy()
            # Against those of its range alone: all of them for each row group would take time with the table's square.
            low, high = np.searchsorted(row_ids, [ids[0], ids[-1] + 1])
            inside = np.isin(ids, row_ids[low:high], assume_unique=True)
            made[np.searchsorted(row_ids, ids[inside])] = vectors(table.column("target"), np.float16)[inside]
    return made
