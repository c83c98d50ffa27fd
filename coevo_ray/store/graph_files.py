"""Reads a neighbour graph's artifact, and the features that it was built on; needs neither Ray nor torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from coevo_ray.core.arrays import Arrays, Float16Array, Float32Array, Int64Array
from coevo_ray.core.graph.parted import PartedGraph, PartHolders
from coevo_ray.core.graph.types import GraphPart, NeighbourGraph, PartWork
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.store.checked import entry_of, read_sized
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import FileEntry, Manifest, load_manifest
from coevo_ray.store.row_table import RowTable, vectors

KIND = "graph"
ROWS = "rows.safetensors"
_NEIGHBOUR_BYTES = 6  # at least, of an index and a similarity of half precision
_MOST_NEIGHBOURS = 1 << 20
_PART_BYTES, _FEW_PARTS = 1 << 30, 2  # below, a graph is read whole: once is quicker than each time


def load_graph(location: Location, targets: RowTable | None = None) -> tuple[NeighbourGraph, Int64Array]:
    """Reads a finished graph, and the row_id of each of its rows, int64[n].

    Args:
        location: its folder.
        targets: the features that it must belong to; None skips the check.

    Raises:
        InputError: there is no finished graph, a part is damaged, or it belongs to other features.
    """
    files = GraphFiles.find(location, targets)
    shape, row_ids, fields = files.shape, files.row_ids, files.fields
    indices, similarities = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.float32)
    filled = np.zeros(len(row_ids), dtype=bool)
    for entry in files.entries:
        part = _part(location, entry, shape)
        indices[part["rows"]], similarities[part["rows"]] = part["indices"], part["similarities"]
        filled[part["rows"]] = True
    if not filled.all():
        raise InputError(
            f"{location} has neighbours of {int(filled.sum())} of {len(filled)} rows", "delete it and build it again"
        )
    return NeighbourGraph.from_arrays(fields, {"indices": indices, "similarities": similarities}), row_ids


def open_graph(
    location: Location, targets: RowTable | None = None, *, part_bytes: int = _PART_BYTES
) -> tuple[NeighbourGraph | PartedGraph, Int64Array]:
    """Opens a finished graph: one of more than two parts is not read at once, but a part at a time when it is used.

    Args:
        location, targets: see `load_graph`.
        part_bytes: of a part in memory.

    Returns:
        The graph, and the row_id of each of its rows, int64[n].

    Raises:
        InputError: as `load_graph`.
    """
    files = GraphFiles.find(location, targets)
    if not is_large(files.shape, part_bytes):
        return load_graph(location, targets)
    return files.open(_parts_of(files.shape, part_bytes), StoredParts), files.row_ids


def is_large(shape: tuple[int, int], part_bytes: int = _PART_BYTES) -> bool:
    """Tests whether a graph of N rows and k neighbours is read in parts of so many bytes by `open_graph`."""
    return _parts_of(shape, part_bytes) > _FEW_PARTS


def _parts_of(shape: tuple[int, int], part_bytes: int) -> int:
    return -(-math.prod(shape) * 8 // part_bytes)


@dataclass(frozen=True, eq=False)
class GraphFiles:
    """The files of a finished graph.

    Attributes:
        location: its folder.
        row_ids: int64[N], the row_id of each of its rows.
        fields: JSON fields of the graph, `parameters` with k among them.
        entries: files of neighbours; rows that are near each other are in the same one or in neighbouring ones.
    """

    location: Location
    row_ids: Int64Array
    fields: JsonObject
    entries: tuple[FileEntry, ...]

    @classmethod
    def find(cls, location: Location, targets: RowTable | None = None) -> GraphFiles:
        """Finds the files; see `load_graph`.

        Raises:
            InputError: there is no finished graph, it is damaged, or it belongs to other features.
        """
        manifest = load_manifest(location, KIND)
        have = manifest.inputs.get("targets")
        if targets is not None and have != targets.manifest.identity:
            raise InputError(
                f"the graph {location} was built on features {have}, those of {targets.location} are "
                f"{targets.manifest.identity}",
                "give the graph of these features, or build one in another folder",
            )
        row_ids = _row_ids(location, manifest)
        fields, entries = _fields(location, manifest), [e for e in manifest.files if e.path.startswith("part-")]
        shape, size = (len(row_ids), fields["parameters"]["k"]), sum(location.child(e.path).size() for e in entries)
        if size < math.prod(shape) * _NEIGHBOUR_BYTES:
            raise _unfit(location, f"{shape[1]} neighbours of {shape[0]} rows in {size} bytes")
        return cls(location, row_ids, fields, tuple(entries))

    @property
    def shape(self) -> tuple[int, int]:
        """N and k."""
        return len(self.row_ids), int(self.fields["parameters"]["k"])

    def open(self, count: int, hold: Callable[[Sequence[GraphPartFiles]], PartHolders]) -> PartedGraph:
        """The graph in `count` parts, or fewer, which `hold` holds.

        Raises:
            InputError: a file is damaged, or the parts are not the graph's.
        """
        return PartedGraph(self.shape, hold(self.cut(count)))

    def cut(self, count: int) -> list[GraphPartFiles]:
        """Cuts the graph into parts of about as many files, `count` of them or one for each file."""
        count = max(1, min(count, len(self.entries)))
        bounds = [len(self.entries) * i // count for i in range(count + 1)]
        return [
            GraphPartFiles(self.location, self.shape, self.entries[start:stop])
            for start, stop in itertools.pairwise(bounds)
        ]


@dataclass(frozen=True)
class GraphPartFiles:
    """Files of a part of a graph; pickles, so that whoever holds the part reads it.

    Attributes:
        location: folder of the graph.
        shape: N and k of the whole graph.
        entries: the files.
    """

    location: Location
    shape: tuple[int, int]
    entries: tuple[FileEntry, ...]

    def read(self) -> GraphPart:
        """Reads the part.

        Raises:
            InputError: a file is damaged.
        """
        found = [_part(self.location, entry, self.shape) for entry in self.entries]
        rows = np.concatenate([part["rows"] for part in found])
        place = np.empty(len(rows), dtype=np.int64)
        place[np.argsort(rows)] = np.arange(len(rows))
        indices = np.empty((len(rows), self.shape[1]), dtype=np.int32)
        similarities = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        start = 0
        while found:
            part = found.pop(0)
            at = place[start : start + len(part["rows"])]
            indices[at], similarities[at] = part["indices"], part["similarities"]
            start += len(at)
        if indices.size and not -1 <= indices.min() <= indices.max() < self.shape[0]:
            raise _unfit(self.location, "a part that names rows outside it")
        return GraphPart(self.shape[0], np.sort(rows).astype(np.int32), indices, similarities)


class StoredParts:
    """Parts of a graph that are read when something is asked of them, one after another: `core.graph.parted`'s holders.

    Args:
        parts: of one graph.
    """

    def __init__(self, parts: Sequence[GraphPartFiles]) -> None:
        self._parts = list(parts)

    def each(self, work: PartWork, shared: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Runs a function on all parts, see `PartHolders`."""
        for number, part in enumerate(self._parts):
            yield number, work(part.read(), *shared)

    def some(self, work: PartWork, given: Mapping[int, Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Runs a function on some parts, see `PartHolders`."""
        for number, own in given.items():
            yield number, work(self._parts[number].read(), *own)


def _row_ids(location: Location, manifest: Manifest) -> Int64Array:
    arrays = _arrays(location, entry_of(location, manifest, ROWS))
    row_ids = arrays.get("row_ids")
    if row_ids is None or row_ids.dtype != np.int64 or row_ids.ndim != 1 or (np.diff(row_ids) <= 0).any():
        raise _unfit(location, f"{ROWS} without increasing row_ids int64[n]")
    return row_ids


def _fields(location: Location, manifest: Manifest) -> JsonObject:
    """Reads the graph's fields in the summary: method, recall and parameters with k."""
    fields = manifest.summary.get("fields")
    parameters = fields.get("parameters") if isinstance(fields, dict) else None
    k = parameters.get("k") if isinstance(parameters, dict) else None
    if not isinstance(fields, dict) or type(k) is not int or not 1 <= k <= _MOST_NEIGHBOURS:
        raise _unfit(location, f"a summary with {ascii(k)[:40]} neighbours of a row")
    recall = fields.get("recall")
    if recall is not None and not (type(recall) in (int, float) and 0 <= recall <= 1):
        raise _unfit(location, f"a recall of {ascii(recall)[:40]}")
    return fields


def _part(location: Location, entry: FileEntry, shape: tuple[int, int]) -> Arrays:
    """One part, which fits into a graph of this shape."""
    part = _arrays(location, entry)
    rows, indices, similarities = (part.get(name) for name in ("rows", "indices", "similarities"))
    if rows is None or indices is None or similarities is None or rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise _unfit(location, f"{entry.path} without rows, indices and similarities")
    wanted = (len(rows), shape[1])
    kinds = (indices.dtype == np.int32, similarities.dtype.kind == "f")
    if indices.shape != wanted or similarities.shape != wanted or not all(kinds):
        raise _unfit(location, f"{entry.path} with arrays that are no neighbours of {wanted[0]} rows")
    if rows.size and not 0 <= rows.min() <= rows.max() < shape[0]:
        raise _unfit(location, f"{entry.path} with rows outside the graph")
    return part


def _arrays(location: Location, entry: FileEntry) -> Arrays:
    try:
        arrays: Arrays = load_safetensors(read_sized(location, entry))
    except SafetensorError as error:
        raise _unfit(location, f"{entry.path}, which is damaged ({error})") from error
    return arrays


def _unfit(location: Location, what: str) -> InputError:
    return InputError(f"the graph {location} has {what}", "delete it and build it again")


def read_targets(targets: RowTable, row_ids: Int64Array) -> Float32Array:
    """Targets of some rows, float32[n, dim]."""
    return vectors(targets.read(row_ids, ["target"]).column("target"))


def read_half(targets: RowTable, row_ids: Int64Array) -> Float16Array:
    """Targets of some rows, float16[n, dim], read a row group at a time into their one copy.

    Args:
        targets: the table.
        row_ids: int64[n], strictly increasing, all in the table.
    """
    made = np.empty((len(row_ids), target_dim(targets)), dtype=np.float16)
    if len(row_ids) == 0:
        return made
    for table in targets.iter_range(int(row_ids[0]), int(row_ids[-1]) + 1, ["target"]):
        ids = table.column("row_id").to_numpy()
        # Against those of its range alone: all of them for each row group would take time with the table's square.
        low, high = np.searchsorted(row_ids, [ids[0], ids[-1] + 1])
        inside = np.isin(ids, row_ids[low:high], assume_unique=True)
        made[np.searchsorted(row_ids, ids[inside])] = vectors(table.column("target"), np.float16)[inside]
    return made


def target_dim(targets: RowTable) -> int:
    """Number of values of a target; 0 without targets."""
    return int(targets.schema().field("target").type.list_size) if len(targets) else 0
