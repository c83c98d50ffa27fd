"""The neighbour graph of a pool's rows (Info-Coevolution, arXiv 2506.08070) as an artifact.

The gate and the evidence on labels and copies use it. One Ray task reads the targets as float16, sorts them into cells
and puts them into the object store; then each task searches a range of rows and writes its part of the graph. Existing
parts are not searched again, and the graph is the same for any number of parts, tasks and nodes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from safetensors.numpy import save as save_safetensors

from coevo_ray.core.graph.plan import GraphPlan, Method, device_of, make_plan
from coevo_ray.core.graph.search import block_rows, blocks
from coevo_ray.core.graph.unit_rows import UnitRows
from coevo_ray.core.json import JsonObject
from coevo_ray.pool.pool import Pool
from coevo_ray.progress import say
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.shards import Row, ray_errors, run_each
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import describe, write_blob
from coevo_ray.store.graph_files import KIND, ROWS, read_half
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, FileEntry, Manifest, load_manifest
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.writing import writing

PART_ROWS = 16_384
_RECALL_SAMPLE = 1000
_PLAN, _CELLS = "plan.json", "cells.safetensors"


def build_graph_artifact(
    pool: Pool,
    targets: RowTable,
    location: Location,
    *,
    neighbours: int,
    seed: int,
    cpus: float,
    centre: bool = False,
    method: Method = "auto",
    gpus: float = 0,
    part_rows: int = PART_ROWS,
    held_out: bool = False,
    known: Location | None = None,
) -> Manifest:
    """Builds the neighbour graph of the training rows' targets in Ray tasks; needs a Ray session.

    The first task holds the targets once as float16 (half a GiB for a million rows of 256 dimensions) and an eighth
    more, the object store holds them once on each searching node, and each search needs about 200 MiB more.

    Args:
        pool: states the held-out rows.
        targets: features of the pool's rows.
        location: folder of the graph.
        neighbours, seed: see `build_graph`.
        cpus: of each task, and its threads.
        centre: compare targets less their mean. What all rows share says nothing about which of them are alike.
        method: see `build_graph`.
        gpus: of each task; with any, rows are compared on it.
        part_rows: rows that one task searches, rounded up to blocks.
        held_out: whether held-out rows are in the graph, too.
        known: folder that may hold this very graph, made for another stage: its files are copied.

    Raises:
        InputError: there are fewer than two rows, or targets are zero or not finite.
        UsageError: the unfinished graph has other settings or features.
        StoppedError: the store or the cluster failed; build it again to continue.
    """
    content: JsonObject = {"neighbours": neighbours, "seed": seed, "centre": centre}
    content |= ({} if method == "auto" else {"method": method}) | ({"held_out": True} if held_out else {})
    inputs = {"pool": pool.manifest.identity, "targets": targets.manifest.identity}
    with writing(location):
        done = begin(location, KIND, content, inputs)
        if done is not None:
            return done
        started = time.monotonic()
        need = Need("task", cpus, gpus)
        if known is not None and (there := _same(known, content, inputs)) is not None:
            with ray_errors(KIND):
                copied = _copy(there, known, location, need)
            if copied is not None:
                return finish(location, KIND, content, inputs, copied, there.summary)
        threads = max(1, int(cpus))
        parts = Parts.of(location, KIND, content, inputs)
        source = _Source(pool.location, targets, parts, neighbours, seed, centre, method, threads, held_out)
        with ray_errors(KIND):
            head, arrays = start_task("prepare graph", _Source.prepare, source, need=need, returns=2)
            found: JsonObject = task_result("prepare graph", head)
            entries = _search(source, arrays, found, part_rows, need)
        fields = found["fields"]
        if fields["parameters"].get("goal_reached") is False and fields["recall"] is not None:
            say(f"graph: recall {fields['recall']:.3f} on a sample, below {fields['parameters']['recall_goal']}")
        summary = {"rows": found["rows"], "fields": fields, "seconds": round(time.monotonic() - started, 3)}
        return finish(location, KIND, content, inputs, [*found["entries"], *entries], summary)


def _same(known: Location, content: JsonObject, inputs: dict[str, str]) -> Manifest | None:
    """The manifest of a finished graph of these settings and inputs; None where there is none."""
    if not known.child(MANIFEST).is_file():
        return None
    manifest = load_manifest(known, KIND)
    return manifest if (manifest.config, manifest.inputs) == (content, inputs) else None


def _copy(manifest: Manifest, source: Location, location: Location, need: Need) -> list[FileEntry] | None:
    """Copies a graph's files; None if one of them is not what its manifest says, so that the graph has to be built."""
    files: list[Row] = [{"name": file.path} for file in manifest.files]
    stage = _Copy(source, location)
    made = run_each("copy graph", files, stage.make, need=need, total=len(files), unit="files")
    found = {row["name"]: row["entry"] for row in made}
    copied = [found[file.path] for file in manifest.files]
    return copied if copied == list(manifest.files) else None


@dataclass(frozen=True)
class _Copy:
    """Ray Data stage: a file of a graph -> its copy in another folder."""

    source: Location
    location: Location

    def make(self, row: Row) -> Row:
        """Copies one file."""
        entry = write_blob(self.location, row["name"], self.source.child(row["name"]).read_bytes())
        return {"rows": 1, "name": row["name"], "entry": entry}


def _search(source: _Source, arrays: Any, found: JsonObject, part_rows: int, need: Need) -> list[FileEntry]:
    rows: int = found["rows"]
    size = block_rows(rows)
    size *= -(-part_rows // size)
    ranges = [(start, min(rows, start + size)) for start in range(0, rows, size)]
    parts: Parts = found["parts"]
    there = parts.entries(_part_name(a, b) for a, b in ranges)
    todo = [{"start": a, "stop": b} for a, b in ranges if _part_name(a, b) not in there]
    stage = _Part(source, parts, arrays)
    total = sum(part["stop"] - part["start"] for part in todo)
    found_rows = run_each(KIND, todo, stage.make, need=need, total=total)
    made = {row["start"]: row["entry"] for row in found_rows}
    return [made.get(a) or there[_part_name(a, b)] for a, b in ranges]


@dataclass(frozen=True)
class _Source:
    """The inputs of a graph; see `build_graph_artifact`."""

    pool: Location
    targets: RowTable
    parts: Parts
    neighbours: int
    seed: int
    centre: bool
    method: Method
    threads: int
    held_out: bool

    def prepare(self) -> tuple[JsonObject, JsonObject]:
        """Ray task: reads, plans and sorts the rows.

        Returns:
            Small facts for the driver, and the inputs of the searches, which stay in the object store.
        """
        ids = self.targets.row_ids()
        if not self.held_out:
            ids = np.intersect1d(ids, Pool(self.pool).train_ids(), assume_unique=True)
        rows = UnitRows.of(read_half(self.targets, ids), centre=self.centre, names=ids)
        location = self.parts.folder
        entries = [write_blob(location, ROWS, save_safetensors({"row_ids": ids}))]
        plan, parts = self._plan(rows)
        entries += [describe(location, name) for name in (_CELLS, _PLAN)]
        fields = {"method": plan.method, "recall": plan.recall, "parameters": plan.parameters}
        count, rows = len(rows), plan.sort(rows, in_place=True)
        return {"rows": count, "fields": fields, "parts": parts, "entries": entries}, {"rows": rows, "plan": plan}

    def _plan(self, rows: UnitRows) -> tuple[GraphPlan, Parts]:
        """The plan, and the parts that are searched by it; one of an earlier attempt is kept with its parts."""
        file = self.parts.folder.child(_PLAN)
        if file.is_file():
            fields = file.read_json()
            parts = self._searched_by(fields)
            cells = parts.arrays(_CELLS)
            if cells is not None:
                return GraphPlan.from_arrays(fields, {name: array.copy() for name, array in cells[0].items()}), parts
        plan = make_plan(
            rows,
            self.neighbours,
            self.method,
            seed=self.seed,
            recall_sample=_RECALL_SAMPLE,
            threads=self.threads,
            device=device_of(None),
        )
        fields, arrays = plan.arrays()
        parts = self._searched_by(json.loads(json.dumps(fields)))
        write_blob(self.parts.folder, _PLAN, json.dumps(fields).encode())
        parts.write_arrays(_CELLS, arrays)
        return plan, parts

    def _searched_by(self, fields: object) -> Parts:
        return Parts.of(self.parts.folder, self.parts.made_of, fields)


@dataclass(frozen=True)
class _Part:
    """Ray Data stage: a range of sorted rows -> one file of the graph.

    Attributes:
        source: what the graph is made from.
        parts: files of the graph.
        arrays: reference to the second result of `_Source.prepare`.
    """

    source: _Source
    parts: Parts
    arrays: Any

    def make(self, row: Row) -> Row:
        """Searches one range and writes its neighbours."""
        shared = ray.get(self.arrays)
        rows, plan = shared["rows"], shared["plan"]
        start, stop = row["start"], row["stop"]
        mine = [block for block in blocks(len(rows)) if start <= block.start < stop]
        found = list(plan.search(rows, mine, self.source.threads, device_of(None)))
        names = ("rows", "indices", "similarities")
        arrays = {name: np.concatenate(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)}
        entry = self.parts.write_arrays(_part_name(start, stop), arrays)
        return {"rows": stop - start, "start": start, "entry": entry}


def _part_name(start: int, stop: int) -> str:
    return f"part-{start:012d}-{stop:012d}.safetensors"
