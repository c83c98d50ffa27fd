"""Duplicates in a pool: groups by the neighbour graph of all its rows, the row of each that is kept, and leaks.

The graph is built in Ray tasks as for the gate. One task groups its rows; tasks for parts of the pool look up the sizes
of the grouped rows' samples. Only the rows of groups come to the driver.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coevo_ray.config import DedupConfig, SettingsLike, as_settings
from coevo_ray.core.arrays import Float32Array, Int32Array, Int64Array
from coevo_ray.core.graph.copies import copy_groups
from coevo_ray.core.graph.keeping import Kept, keep_one
from coevo_ray.core.graph.near_duplicates import copies_of
from coevo_ray.core.graph.types import GraphPart, over_rows
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.chunks import each_part
from coevo_ray.pipelines.graph import build_graph_artifact
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import Row, ray_errors, run_tasks
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.dataset_card import write_dataset_card
from coevo_ray.store.graph_files import open_graph
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.opening import open_table
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.writing import writing

KIND = "duplicates"
_SIZE_ROWS = 4096  # rows whose samples' sizes a task looks up


def find_duplicates(
    pool: ArtifactLike, targets: ArtifactLike, out: Place, config: SettingsLike[DedupConfig] | None = None
) -> RowTable:
    """Writes the rows that are copies of one another, and which of them stay.

    Args:
        pool: the pool, or its folder.
        targets: targets of its rows, or their folder; rows without one take no part.
        out: folder of the result, with `graph/` below it.
        config: settings; a dict, or a YAML file.

    Returns:
        The table of the rows in groups of two or more: `row_id`, `key`, `group` (int64, row_id of its leader), `split`
        (int8), `label` (int64, -1 for none), `similarity` (float16, to its nearest row of the group that is in its
        list of neighbours; NaN where none is), `kept` (bool), `leak` (bool, a training row in a group with a held-out
        one) and `kept_row` (int64, row_id of the row that stands for it), by row.

    Raises:
        InputError: the targets are of another pool, or fewer than two rows have one.
        UsageError: settings or inputs changed since an unfinished attempt.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = as_settings(DedupConfig, config or {}, "dedup")
    opened, table, location = pool_for("dedup", pool), open_table(targets, "targets"), Location.parse(out)
    require_alone(table, opened)
    inputs = {"pool": opened.manifest.identity, "targets": table.manifest.identity}
    with writing(location):
        if begin(location, KIND, settings.content(), inputs) is None:
            with ray_session([opened.location, table.location], [location]), ray_errors(KIND):
                _find(settings, opened, table, location, inputs)
    return RowTable(location, KIND)


def _find(config: DedupConfig, pool: Pool, targets: RowTable, location: Location, inputs: dict[str, str]) -> None:
    started, cpus, folder = time.monotonic(), config.compute.cpus, location.child("graph")
    graph = build_graph_artifact(
        pool,
        targets,
        folder,
        neighbours=config.neighbours,
        seed=config.seed,
        cpus=cpus,
        centre=True,
        held_out=True,
    )
    grouping = start_task("group copies", group_rows, folder, config, need=Need("task", cpus))
    found: dict[str, Any] = task_result("group copies", grouping)
    rows: Int64Array = found["row_id"]
    split, label = pool.splits()[rows], pool.labels()[rows]
    worth = ((label >= 0).astype(np.int64), _sizes(pool, rows, cpus)) if config.keep == "best" else ()
    kept = keep_one(found["group"], split != 0, *worth, drop_leaks=config.leaks == "drop")
    table = _table(pool, found, split, label, kept)
    entries = [write_table(location, "duplicates-000000.parquet", table)] if len(rows) else []
    summary = {
        "rows": int(graph.summary["rows"]),
        **_figures(found["group"], split, label, kept),
        "graph": graph.summary["fields"],
        "seconds": round(time.monotonic() - started, 3),
    }
    write_dataset_card(location, finish(location, KIND, config.content(), inputs, entries, summary))


def group_rows(folder: Location, config: DedupConfig) -> dict[str, Any]:
    """Ray task: the rows of groups of two or more, by row.

    Returns:
        `row_id` int64[m], `group` int64[m] (row_id of the leader), `similarity` float16[m].
    """
    graph, row_ids = open_graph(folder)
    leader = copy_groups(graph, config.similarity, config.margin, config.same)
    inside = np.flatnonzero(copies_of(leader)[0] > 1)
    nearest = over_rows(graph, nearest_of_group, leader)[0][inside]
    return {"row_id": row_ids[inside], "group": row_ids[leader[inside]], "similarity": nearest.astype(np.float16)}


def nearest_of_group(part: GraphPart, leader: Int32Array) -> tuple[Float32Array]:
    """Similarity of each row to the nearest neighbour of its group, float32[n]; NaN without one.

    Args:
        part: n of N rows.
        leader: int32[N], equal for the rows of a group.
    """
    nearest = np.empty(len(part), dtype=np.float32)

    def work(places: slice) -> None:
        index, similarity = part.near(places)
        own = (index >= 0) & (leader[index] == part.own(leader, places)[:, None])
        most = np.where(own, similarity.astype(np.float32), np.float32(-2.0)).max(axis=1)
        nearest[places] = np.where(most < -1.0, np.float32(np.nan), most)

    each_part(len(part), max(1, part.indices.shape[1]), work)
    return (nearest,)


def _sizes(pool: Pool, rows: Int64Array, cpus: float) -> Int64Array:
    """Bytes of some rows' samples, int64[n]; 0 for vectors, which are all of one size."""
    if pool.samples.type is None:
        return np.zeros(len(rows), dtype=np.int64)

    def look(row: Row) -> Row:
        part = row["rows"]
        samples = pool.read(part, [pool.modality]).column(pool.modality)
        return {"at": row["at"], "rows": len(part), "sizes": pc.binary_length(samples).to_numpy().astype(np.int64)}

    starts = range(0, len(rows), _SIZE_ROWS)
    items: list[Row] = [{"at": at, "rows": rows[at : at + _SIZE_ROWS]} for at in starts]
    sizes = np.zeros(len(rows), dtype=np.int64)
    for row in run_tasks("sizes of samples", items, look, total=len(rows), num_cpus=cpus):
        sizes[row["at"] : row["at"] + len(row["sizes"])] = row["sizes"]
    return sizes


def _table(pool: Pool, found: dict[str, Any], split: Any, label: Any, kept: Kept) -> pa.Table:
    rows: Int64Array = found["row_id"]
    keys = pool.read(rows, ["key"]).column("key") if len(rows) else pa.array([], pa.string())
    return pa.table(
        {
            "row_id": rows,
            "key": keys,
            "group": found["group"],
            "split": split,
            "label": label,
            "similarity": found["similarity"],
            "kept": kept.kept,
            "leak": kept.leak,
            "kept_row": rows[kept.of],
        }
    )


def _figures(group: Int64Array, split: Any, label: Any, kept: Kept) -> JsonObject:
    """Numbers of rows and groups for the summary."""
    _, member = np.unique(group, return_inverse=True)
    groups = int(member.max(initial=-1)) + 1
    low, high = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1, dtype=np.int64)
    named = label >= 0
    np.minimum.at(low, member[named], label[named])
    np.maximum.at(high, member[named], label[named])
    return {
        "duplicates": len(group),
        "groups": groups,
        "dropped": int((~kept.kept).sum()),
        "leaks": int(kept.leak.sum()),
        "held_out_with_leaks": int(np.isin(group, group[kept.leak])[split != 0].sum()),
        "groups_with_several_labels": int((low < high).sum()),
    }
