"""Memory of a graph's beginning: targets read, planned and sorted by cell, and two blocks of rows searched.

`parts` as the pipeline does it, in tasks of a Ray session of this machine; `whole` as it did before: all of it in one
process, which sorts the rows in their own memory. A process is seen by its memory that no other shares (RssAnon): what
tasks read from the object store is not theirs. Targets are normal around random centres.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Child, in_child, note
from benchmarks.memory import OWN_EVERY_S, anonymous, own_memory
from benchmarks.scale.parts import measured

if TYPE_CHECKING:
    from coevo_ray.core.arrays import Int32Array
    from coevo_ray.core.graph.unit_rows import UnitRows
    from coevo_ray.pipelines.graph_tasks import GraphSource

DIM, CENTRES, NEIGHBOURS = 256, 1000, 16
_FILE_ROWS, _SEARCHED = 1 << 16, 2
_FEW, _TIMES = 2, 20  # dimensions and rows where values do not count
_STRIPE_BYTES = 64  # a line of a cache


def measure(rows: int) -> tuple[dict[str, Any], list[Child]]:
    """Measures both ways.

    Returns:
        `ways`: name -> result of `prepare`; `numbers`: that of `numbers` for twenty times the rows; and the processes.
    """
    children = {name: in_child(prepare, rows, name == "whole") for name in ("whole", "parts")}
    ways = {name: child.result for name, child in children.items()}
    note(f"{rows:,} rows, {ways}")
    counted = in_child(numbers, _TIMES * rows)
    note(f"{_TIMES * rows:,} rows, {counted.result}")
    result = {"rows": rows, "dim": DIM, "centres": CENTRES, "ways": ways, "numbers": counted.result}
    return result, [*children.values(), counted]


def numbers(rows: int) -> dict[str, Any]:
    """Memory of the tasks that hold a few numbers of every row, but none of their values.

    Returns:
        Work -> as `parts.measured`.
    """
    import numpy as np

    from coevo_ray.core.graph.cells import Cells
    from coevo_ray.core.graph.plan import GraphPlan, count_cells
    from coevo_ray.core.graph.sorting import Cut

    count = count_cells(rows)
    with tempfile.TemporaryDirectory(prefix="coevo-sort-") as folder:
        in_child(write_targets, folder, rows, _FEW)
        source, cut = _source(Path(folder)), Cut.of(rows, DIM)
        found = {"begin": measured(rows, lambda: source.begin(len(cut.ranges), True))}
        random = np.random.default_rng(0)
        centroids = random.standard_normal((count, DIM), dtype=np.float32)
        nearest = [
            random.integers(0, count, part.stop - part.start, dtype=np.int32) for part in cut.ranges
        ]  # which Ray's store holds
        found["sort"] = measured(rows, lambda: source.sort(centroids, *nearest))
        plan = GraphPlan(NEIGHBOURS, "ivf", Cells.of(np.concatenate(nearest), centroids), 1, None, {})
        found["place"] = measured(rows, lambda: source.place(cut, plan))
        found["write_plan"] = measured(rows, lambda: source.write_plan(plan))
    return found


def prepare(rows: int, whole: bool) -> dict[str, Any]:
    """Prepares a graph.

    Args:
        rows: number of targets, of 256 dimensions.
        whole: in one process.

    Returns:
        `prepare_seconds` and `search_seconds`, on one CPU for each task; `peak_bytes` of the largest process, and
        `peak_bytes_by_work`; `idle_bytes`: of a process that has loaded what it needs and done nothing; `bytes_per_row`
        of the largest process less the idle one.
    """
    with tempfile.TemporaryDirectory(prefix="coevo-sort-") as folder:
        in_child(write_targets, folder, rows, DIM)
        source = _source(Path(folder))
        with own_memory(_named) as peaks:
            seconds = _whole(source, peaks) if whole else _by_parts(source)
    idle = peaks.pop("idle")
    largest = max(peaks.values())
    return {
        **{name: round(value, 3) for name, value in seconds.items()},
        "peak_bytes": largest,
        "peak_bytes_by_work": dict(sorted(peaks.items())),
        "idle_bytes": idle,
        "bytes_per_row": round((largest - idle) / rows, 1),
    }


def write_targets(folder: str, rows: int, dim: int) -> None:
    """Writes targets to `targets/` in a folder."""
    import numpy as np
    import pyarrow as pa

    from coevo_ray.store.artifact import finish
    from coevo_ray.store.data_files import write_table
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import vector_column

    random = np.random.default_rng(0)
    centres = random.standard_normal((CENTRES, dim), dtype=np.float32)
    place, entries = Location.parse(Path(folder) / "targets"), []
    for start in range(0, rows, _FILE_ROWS):
        count = min(rows, start + _FILE_ROWS) - start
        made = centres[random.integers(0, CENTRES, count)]
        made += random.standard_normal(made.shape, dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        table = pa.table({"row_id": np.arange(start, start + count), "target": vector_column(made)})
        entries.append(write_table(place, f"{start:012d}.parquet", table, 2048))
    finish(place, "targets", {}, {}, entries, {})


def _source(folder: Path) -> GraphSource:
    from coevo_ray.pipelines.graph_tasks import Cuts, GraphSource
    from coevo_ray.store.location import Location
    from coevo_ray.store.parts import Parts
    from coevo_ray.store.row_table import RowTable

    place = Location.parse(folder / "targets")
    parts = Parts.of(Location.parse(folder / "graph"), "graph")
    return GraphSource(place, RowTable(place, "targets"), parts, NEIGHBOURS, 0, True, "ivf", 1, True, Cuts())


def _by_parts(source: GraphSource) -> dict[str, float]:
    from coevo_ray.core.graph.search import block_rows
    from coevo_ray.pipelines.graph import _Part
    from coevo_ray.pipelines.graph_rows import sort_rows
    from coevo_ray.runtime.resources import Need
    from coevo_ray.runtime.session import ray_session
    from coevo_ray.runtime.tasks import start_task, task_result

    need = Need("task", 1)
    with ray_session():
        task_result("idle", start_task("idle", _load, need=need))
        started = time.perf_counter()
        rows = sort_rows(source, need)
        sorted_in = time.perf_counter() - started
        size, stage = block_rows(rows.cut.rows), _Part(source.threads, rows)
        started = time.perf_counter()
        for start in range(0, _SEARCHED * size, size):
            task_result("search", start_task("search", stage.make, {"start": start, "stop": start + size}, need=need))
        return {"prepare_seconds": sorted_in, "search_seconds": time.perf_counter() - started}


def _whole(source: GraphSource, peaks: dict[str, int]) -> dict[str, float]:
    from coevo_ray.core.graph.plan import device_of, make_plan
    from coevo_ray.core.graph.search import blocks
    from coevo_ray.core.graph.unit_rows import UnitRows
    from coevo_ray.store.graph_files import read_half

    _load()
    peaks["idle"] = anonymous(os.getpid())
    cpu = device_of("cpu")
    started = time.perf_counter()
    ids = source.targets.row_ids()
    rows = UnitRows.of(read_half(source.targets, ids), centre=True, names=ids)
    plan = make_plan(rows, NEIGHBOURS, "ivf", seed=0, recall_sample=1000, threads=1, device=cpu)
    source.write_plan(plan)
    rows = _sorted_in_place(rows, plan.cells.order)
    sorted_in = time.perf_counter() - started
    started = time.perf_counter()
    for _ in plan.search(rows, blocks(len(rows))[:_SEARCHED], 1, cpu):
        pass
    return {"prepare_seconds": sorted_in, "search_seconds": time.perf_counter() - started}


def _sorted_in_place(rows: UnitRows, order: Int32Array) -> UnitRows:
    """Sorts rows as the one process did: a few columns at a time, so that it held them once."""
    from coevo_ray.core.graph.unit_rows import UnitRows

    width = max(1, _STRIPE_BYTES // rows.raw.itemsize)
    for start in range(0, rows.dim, width):
        rows.raw[:, start : start + width] = rows.raw[order, start : start + width]
    return UnitRows(rows.raw, None if rows.scale is None else rows.scale[order], rows.mean)


def _load() -> None:
    """Loads the modules of a task, and idles long enough to be sampled."""
    for module in ("coevo_ray.core.graph.graph", "coevo_ray.pipelines.graph"):
        importlib.import_module(module)
    time.sleep(10 * OWN_EVERY_S)


def _named(pid: int, command: str) -> str:
    """The work of a process of this benchmark."""
    if pid == os.getpid():
        return "driver"
    if not command.startswith("ray::") or ": " not in command:
        return ""
    work = command.removeprefix("ray::").removesuffix("()")
    return "idle" if work.startswith("idle") else work
