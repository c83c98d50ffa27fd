"""The neighbour graph of a pool's rows (Info-Coevolution, arXiv 2506.08070) as an artifact.

The gate and the evidence on labels and copies use it. Tasks read the targets as float16 and sort them by cell
(`graph_rows`); then each task searches a range of sorted rows and writes its part of the graph. Existing parts are not
searched again, and the graph is the same for any number of parts, tasks and nodes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from coevo_ray.core.graph.plan import Method, device_of
from coevo_ray.core.graph.search import block_rows, blocks
from coevo_ray.core.json import JsonObject
from coevo_ray.pipelines.graph_rows import SortedRows, sort_rows
from coevo_ray.pipelines.graph_tasks import Cuts, GraphSource
from coevo_ray.pool.pool import Pool
from coevo_ray.progress import say
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.shards import Row, ray_errors, run_each
from coevo_ray.store.artifact import begin, finish
from coevo_ray.store.data_files import write_blob
from coevo_ray.store.graph_files import KIND
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST, FileEntry, Manifest, load_manifest
from coevo_ray.store.parts import Parts
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.writing import writing

PART_ROWS = 16_384
_CUTS = Cuts()


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
    cuts: Cuts = _CUTS,
) -> Manifest:
    """Builds the neighbour graph of the training rows' targets in Ray tasks; needs a Ray session.

    No process holds all targets: they are in the object stores of the nodes, as float16 (half a GiB for a million rows
    of 256 dimensions, twice that while they are sorted), and tasks hold a range or a few blocks of 128 MiB of them. One
    task at a time holds some numbers of each row, at most 40 bytes (`benchmarks.scale sorting`).

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
        cuts: sizes of the parts of all rows that a process holds; for tests.

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
        source = GraphSource(pool.location, targets, parts, neighbours, seed, centre, method, threads, held_out, cuts)
        with ray_errors(KIND):
            rows = sort_rows(source, need)
            entries = [*rows.entries, *_search(source, rows, part_rows, need)]
        fields = rows.fields
        if fields["parameters"].get("goal_reached") is False and fields["recall"] is not None:
            say(f"graph: recall {fields['recall']:.3f} on a sample, below {fields['parameters']['recall_goal']}")
        summary = {"rows": rows.cut.rows, "fields": fields, "seconds": round(time.monotonic() - started, 3)}
        return finish(location, KIND, content, inputs, entries, summary)


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


def _search(source: GraphSource, rows: SortedRows, part_rows: int, need: Need) -> list[FileEntry]:
    count = rows.cut.rows
    size = block_rows(count)
    size *= -(-part_rows // size)
    ranges = [(start, min(count, start + size)) for start in range(0, count, size)]
    there = rows.parts.entries(_part_name(a, b) for a, b in ranges)
    todo: list[Row] = [{"start": a, "stop": b} for a, b in ranges if _part_name(a, b) not in there]
    total = sum(part["stop"] - part["start"] for part in todo)
    found_rows = run_each(KIND, todo, _Part(source.threads, rows).make, need=need, total=total)
    made = {row["start"]: row["entry"] for row in found_rows}
    return [made.get(a) or there[_part_name(a, b)] for a, b in ranges]


@dataclass(frozen=True)
class _Part:
    """Ray Data stage: a range of sorted rows -> one file of the graph.

    Attributes:
        threads: of a search.
        rows: the sorted rows.
    """

    threads: int
    rows: SortedRows

    def make(self, row: Row) -> Row:
        """Searches one range and writes its neighbours."""
        plan: Any = ray.get(self.rows.plan)  # a GraphPlan
        rows = self.rows.open(plan.cells, self.threads)
        start, stop = row["start"], row["stop"]
        mine = [block for block in blocks(len(rows)) if start <= block.start < stop]
        found = list(plan.search(rows, mine, self.threads, device_of(None)))
        names = ("rows", "indices", "similarities")
        arrays = {name: np.concatenate(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)}
        entry = self.rows.parts.write_arrays(_part_name(start, stop), arrays)
        return {"rows": stop - start, "start": start, "entry": entry}


def _part_name(start: int, stop: int) -> str:
    return f"part-{start:012d}-{stop:012d}.safetensors"
