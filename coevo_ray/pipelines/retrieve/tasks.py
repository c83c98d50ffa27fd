"""Ray's part of a retrieval: tasks that read targets, score open rows and compare them with a gate's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import ray

from coevo_ray.config import RetrieveSettings
from coevo_ray.core.arrays import Arrays, Float16Array, Int64Array
from coevo_ray.core.graph.unit_rows import UnitRows, mean_row
from coevo_ray.core.retrieval import choose, copy_margin, find_copies, rank, score_rows
from coevo_ray.runtime.shards import Row
from coevo_ray.store.graph_files import load_graph, read_half
from coevo_ray.store.location import Location
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable, vectors

# Name -> reference to an object in Ray's store.
Shared: TypeAlias = "dict[str, ray.ObjectRef[Any]]"


def gate_features(
    targets: RowTable, gate: Location, offered: Arrays, anchors: Int64Array, stray: float
) -> dict[str, Any]:
    """Ray task: the gate's rows, held-out and arrived ones included, and its anchors.

    Returns:
        `raw` float16[N, d], `scale` float32[N], `mean` float32[d]: see `UnitRows`; `anchors` float32[a, d];
        `margin` and `neighbours`: see `find_copies`.
    """
    graph, in_graph = load_graph(gate.child("graph"))
    row_ids = targets.row_ids()
    half = read_half(targets, row_ids)
    mean = mean_row(half[np.isin(row_ids, in_graph, assume_unique=True)])
    if len(offered["row_id"]):
        row_ids = np.concatenate([row_ids, offered["row_id"]])
        half = np.concatenate([half, offered["features"]])
    rows, _ = UnitRows.about(half, mean)
    order = np.argsort(row_ids)
    places = order[np.searchsorted(row_ids, anchors, sorter=order)]
    copies = {"margin": copy_margin(graph, stray), "neighbours": graph.k}
    return {"raw": rows.raw, "scale": rows.scale, "mean": mean, "anchors": rows.read(places), **copies}


def choose_rows(targets: RowTable, row_ids: Int64Array, settings: RetrieveSettings, own: dict[str, Any]) -> Int64Array:
    """Ray task: positions of the chosen rows among ranked ones, best first."""
    ids, seats = np.unique(row_ids, return_inverse=True)
    half = _half(targets.read(ids, ["target"]))
    rows = UnitRows.about(half, own["mean"])[0]
    return choose(
        lambda places: rows.read(seats[places]),
        len(row_ids),
        settings.budget,
        same=settings.same,
        apart=settings.apart,
    )


def _half(table: pa.Table) -> Float16Array:
    with np.errstate(over="ignore"):  # values beyond half precision become infinite: unusable rows
        return vectors(table.column("target"), np.float16).astype(np.float16, copy=False)


@dataclass(frozen=True)
class ScoreFile:
    """Ray Data stage: one file of open targets -> its best rows.

    Attributes:
        targets: of the open pool.
        parts: files of the retrieval.
        keep: rows to keep of a file.
        shared: name -> reference to an array, or a group of arrays, in the object store.
    """

    targets: RowTable
    parts: Parts
    keep: int
    shared: Shared

    def make(self, row: Row) -> Row:
        """Scores a file, row group by row group."""
        own, worth, model = (ray.get(self.shared[name]) for name in ("own", "worth", "model"))
        held, near = (ray.get(self.shared[name]) for name in ("held", "near"))
        looked = unusable = 0
        best: Arrays = {}
        for table in self.targets.iter_file(row["shard"], ["target"]):
            row_ids = table.column("row_id").to_numpy()
            free = ~np.isin(row_ids, held, assume_unique=True)
            half = _half(table)[free]
            rows, usable = UnitRows.about(half, own["mean"])
            looked, unusable = looked + len(half), unusable + int((~usable).sum())
            gains = None if model is None else model.gain(half[usable])
            scored = score_rows(rows.read(np.flatnonzero(usable)), own["anchors"], worth, gains, near)
            new = {"row_id": row_ids[free][usable], "score": scored.score}
            new |= {"anchor": scored.anchor, "similarity": scored.similarity}
            best = {name: np.concatenate([best[name], part]) if best else part for name, part in new.items()}
            order = rank(best["row_id"], best["score"])[: self.keep]
            best = {name: part[order] for name, part in best.items()}
        order = np.argsort(best["row_id"])
        part = pa.table({name: values[order] for name, values in best.items()})
        part = part.replace_schema_metadata({"looked": str(looked), "unusable": str(unusable)})
        self.parts.write_table(row["name"], part)
        return {"rows": looked}


@dataclass(frozen=True)
class CompareSlice:
    """Ray Data stage: a slice of open rows -> bool, copies of rows of the gate.

    Attributes:
        targets: of the open pool.
        parts: files of the retrieval.
        same: see `find_copies`.
        shared: name -> reference to arrays in the object store.
    """

    targets: RowTable
    parts: Parts
    same: float
    shared: Shared

    def make(self, row: Row) -> Row:
        """Compares one slice."""
        own = ray.get(self.shared["own"])
        row_ids = np.asarray(row["rows_of"], dtype=np.int64)
        half = _half(self.targets.read(row_ids, ["target"]))
        unit = UnitRows.about(half, own["mean"])[0].read(slice(None))
        rows = UnitRows(own["raw"], own["scale"], own["mean"])
        copy = find_copies(unit, rows, self.same, own["margin"], own["neighbours"])
        self.parts.write_table(row["name"], pa.table({"row_id": row_ids, "copy": copy}))
        return {"rows": len(row_ids)}
