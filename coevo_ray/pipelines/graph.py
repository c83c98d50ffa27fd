"""The neighbour graph of a pool's training rows as an artifact, for the gate and for evidence on labels and copies."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from coevo_ray.core.graph import NeighbourGraph, build_graph
from coevo_ray.core.rows import Int64Array
from coevo_ray.pool.pool import Pool
from coevo_ray.progress import Ticker
from coevo_ray.store.artifact import Manifest, begin, finish, load_manifest, write_blob
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors

_FILE = "graph.safetensors"


def build_graph_artifact(
    pool: Pool,
    targets: RowTable,
    location: Location,
    *,
    neighbours: int,
    seed: int,
    cpus: float,
    centre: bool = False,
) -> Manifest:
    """Builds the neighbour graph of the training rows' targets, in a Ray task; needs a Ray session.

    Args:
        pool: tells which rows are held out.
        targets: features of the pool's rows.
        location: folder of the graph.
        neighbours, seed: see `build_graph`.
        cpus: of the task, and its threads.
        centre: compare targets less their mean. What all rows share says nothing about which of them are alike.

    Raises:
        InputError: fewer than two rows, or targets that are not finite.
        UsageError: the graph was begun with other settings.
    """
    content = {"neighbours": neighbours, "seed": seed, "centre": centre}
    inputs = {"pool": pool.manifest.identity, "targets": targets.manifest.identity}
    done = begin(location, "graph", content, inputs)
    if done is not None:
        return done
    started = time.monotonic()

    def build(threads: int) -> dict[str, Any]:
        rows = np.intersect1d(targets.row_ids(), pool.train_ids(), assume_unique=True)
        features = read_targets(targets, rows)
        if centre:
            features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
        graph = build_graph(features, k=neighbours, seed=seed, threads=threads)
        fields, arrays = graph.arrays()
        entry = write_blob(location, _FILE, save_safetensors({**arrays, "row_ids": rows}))
        return {"entry": entry, "fields": fields, "rows": len(rows)}

    with Ticker("graph", None, "rows") as ticker:
        result = ray.get(ray.remote(build).options(num_cpus=cpus).remote(max(1, int(cpus))))
        ticker.advance(result["rows"])
    summary = {
        "rows": result["rows"],
        "fields": result["fields"],
        "seconds": round(time.monotonic() - started, 3),
    }
    return finish(location, "graph", content, inputs, [result["entry"]], summary)


def load_graph(location: Location) -> tuple[NeighbourGraph, Int64Array]:
    """A graph that is there, and the row_id of each of its rows, int64[n].

    Raises:
        InputError: there is no finished graph.
    """
    fields = load_manifest(location, "graph").summary["fields"]
    arrays = load_safetensors(location.child(_FILE).read_bytes())
    row_ids = arrays.pop("row_ids")
    return NeighbourGraph.from_arrays(fields, arrays), row_ids


def read_targets(targets: RowTable, row_ids: Int64Array) -> npt.NDArray[np.float32]:
    """Targets of some rows, float32[n, dim]."""
    return vectors(targets.read(row_ids, ["target"]).column("target"))
