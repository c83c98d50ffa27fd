"""Gate and graph at scale: time and transient memory of what a round does to all rows, in one process.

Each part runs in a process of its own, on a graph made up for it: neighbours anywhere in the pool, at the distances
that rows of ten dimensions have, a tenth of the rows copies of the one before. `predictions` hands the predictions of
C classes to a `GateService` with a journal on the local disk, a block of classes at a time as they come from Ray's
object store, or with `--whole` all at once. Draws are of 3 % of the rows, from predictions of ten classes.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import Child, in_child, note, peak_bytes

if TYPE_CHECKING:
    from coevo_ray.core.arrays import Arrays
    from coevo_ray.core.gate.gate import AnnotationGate
    from coevo_ray.core.graph.types import NeighbourGraph

NEIGHBOURS, DIMENSION, COPIES = 16, 10, 0.1
CLASSES, DRAWN_CLASSES = 1000, 10
LABELLED, ROUND = 0.01, 0.03
_CHUNK = 1 << 17
_PART = 1 << 16


def measure(rows: int, classes: int, whole: bool, parts: Sequence[str]) -> tuple[dict[str, Any], list[Child]]:
    """Measures parts, each in a process of its own.

    Args:
        rows: of the pool.
        classes: of the predictions.
        whole: hand predictions over at once.
        parts: keys of `PARTS`.

    Returns:
        The result, and its processes.
    """
    found, children = {}, list[Child]()
    for part in parts:
        child = in_child(PARTS[part], rows, classes, whole)
        children.append(child)
        found[part] = child.result
        note(f"{part}: {rows:,} rows, {child.result}")
    result = {
        "rows": rows,
        "classes": classes,
        "whole": whole,
        "neighbours": NEIGHBOURS,
        "drawn": round(ROUND * rows),
        "repeats": 1,
        "parts": found,
    }
    return result, children


def measured(rows: int, work: Callable[[], object]) -> dict[str, Any]:
    """Runs a part.

    Returns:
        `seconds`; `cpu_seconds`, over all threads; `kept_bytes`: of the process before; `peak_bytes`: largest during
        the part; `transient_bytes_per_row`: of their difference.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what there is now
    kept, cpu, started = peak_bytes(), time.process_time(), time.perf_counter()
    work()
    seconds, cpu, peak = time.perf_counter() - started, time.process_time() - cpu, peak_bytes()
    return {
        "seconds": round(seconds, 6),
        "cpu_seconds": round(cpu, 6),
        "kept_bytes": kept,
        "peak_bytes": peak,
        "transient_bytes_per_row": round((peak - kept) / rows, 1),
    }


def made_up(rows: int) -> NeighbourGraph:
    """A graph, see the module."""
    from coevo_ray.core.graph.types import NeighbourGraph

    random = np.random.default_rng(0)
    indices = np.empty((rows, NEIGHBOURS), dtype=np.int32)
    similarities = np.empty((rows, NEIGHBOURS), dtype=np.float32)
    for start in range(0, rows, _CHUNK):
        part = slice(start, min(rows, start + _CHUNK))
        own = np.arange(part.start, part.stop)
        indices[part] = (own[:, None] + random.integers(1, rows, (len(own), NEIGHBOURS))) % rows
        # Volumes of the balls out to each neighbour are the arrivals of a Poisson process.
        volume = np.cumsum(random.exponential(size=(len(own), NEIGHBOURS)), axis=1) / NEIGHBOURS
        distance = (0.6 + 0.1 * random.random((len(own), 1))) * volume ** (1 / DIMENSION)
        similarities[part] = 1 - distance**2 / 2
        twins = own[(own // 2) % round(1 / COPIES) == 0]
        twins = twins[(twins ^ 1) < rows]
        indices[twins, 0], similarities[twins, 0] = twins ^ 1, 0.999
    return NeighbourGraph(indices, similarities, "exact", 1.0)


def write_graph(folder: str, rows: int, targets: str) -> None:
    """Writes a made-up graph as an artifact, whose targets have that identity."""
    from coevo_ray.store.artifact import finish
    from coevo_ray.store.location import Location
    from coevo_ray.store.parts import Parts

    place, graph = Location.parse(folder), made_up(rows)
    files = Parts.of(place, "made up")
    entries = [files.write_arrays("rows.safetensors", {"row_ids": np.arange(rows)})]
    for start in range(0, rows, _PART):
        part = slice(start, min(rows, start + _PART))
        arrays: Arrays = {"rows": np.arange(part.start, part.stop, dtype=np.int32)}
        arrays |= {"indices": graph.indices[part], "similarities": graph.similarities[part]}
        entries.append(files.write_arrays(f"part-{start:012d}.safetensors", arrays))
    fields = {"method": "exact", "recall": 1.0, "parameters": {"k": NEIGHBOURS}}
    finish(place, "graph", {}, {"targets": targets}, entries, {"fields": fields})


@dataclasses.dataclass(frozen=True)
class Guesses:
    """Predictions of some rows, made when they are asked for: a first and a second class, the rest alike.

    Attributes:
        start, stop: the rows.
        classes: C, 3 or more.
        ranges: first class and end of each block.
    """

    start: int
    stop: int
    classes: int
    ranges: tuple[tuple[int, int], ...]

    def row_ids(self) -> npt.NDArray[np.int64]:
        """The rows, int64[n]."""
        return np.arange(self.start, self.stop)

    def block(self, number: int) -> npt.NDArray[np.float32]:
        """Probabilities of one range of classes, float32[n, w]."""
        first, end = self.ranges[number]
        count, random = self.stop - self.start, np.random.default_rng([1, self.start])
        best = random.integers(0, self.classes, count)
        other = (best + random.integers(1, self.classes, count)) % self.classes
        sure = random.uniform(0.3, 0.9, count).astype(np.float32)
        made = np.empty((count, end - first), dtype=np.float32)
        made[:] = (0.4 * (1 - sure) / (self.classes - 2))[:, None]
        for place, share in ((other, 0.6 * (1 - sure)), (best, sure)):
            here = np.flatnonzero((place >= first) & (place < end))
            made[here, place[here] - first] = share[here]
        return made


def guesses(rows: int, classes: int, ranges: Sequence[tuple[int, int]]) -> list[Guesses]:
    """Parts of rows, as many in each as the gate's tasks predict at a time."""
    return [Guesses(start, min(rows, start + _PART), classes, tuple(ranges)) for start in range(0, rows, _PART)]


def all_guesses(rows: int, classes: int) -> npt.NDArray[np.float32]:
    """The same predictions in one array, float32[N, C]."""
    made = np.empty((rows, classes), dtype=np.float32)
    for part in guesses(rows, classes, [(0, classes)]):
        made[part.start : part.stop] = part.block(0)
    return made


def gate_of(rows: int, classes: int, **settings: Any) -> AnnotationGate:
    """A gate with labels of random first rows, a hundredth of all."""
    from coevo_ray.core.gate.config import GateConfig
    from coevo_ray.core.gate.gate import AnnotationGate

    config = GateConfig(classes=classes, round_size=round(ROUND * rows), **settings)
    gate = AnnotationGate(config, made_up(rows), np.ones(rows, dtype=np.bool_))
    first = gate.request_seed(round(LABELLED * rows)).positions
    gate.submit(first, first % classes)
    return gate


def predictions(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """Takes predictions, and writes the snapshot."""
    from coevo_ray.actors.gate_service import GateService
    from coevo_ray.store.location import Location

    gate = gate_of(rows, classes)
    with tempfile.TemporaryDirectory(prefix="coevo-scale-") as folder:
        service = GateService(Location.parse(Path(folder) / "journal"), gate, np.arange(rows))
        parts: Any = ()
        if whole:
            parts = [(np.arange(rows), all_guesses(rows, classes))]
        else:
            from coevo_ray.core.gate.class_blocks import class_ranges

            parts = guesses(rows, classes, class_ranges(rows, classes))
        found = measured(rows, lambda: service.update_predictions(*parts))
    if gate.mean_gain is None:
        raise RuntimeError("the gate took no predictions")
    return found


def near_duplicates(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """Groups near-duplicates by numbers, those of version 0.1.0."""
    from coevo_ray.core.graph.copies import copy_groups

    graph = made_up(rows)
    return measured(rows, lambda: copy_groups(graph, 0.7, 0.2))


def own_copies(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """Groups near-duplicates by the pool's own measure."""
    from coevo_ray.core.graph.copies import copy_groups

    graph = made_up(rows)
    return measured(rows, lambda: copy_groups(graph))


def stored_copies(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """The same, on a graph that is read a part of 64 MiB at a time."""
    from coevo_ray.core.graph.copies import copy_groups
    from coevo_ray.store.graph_files import open_graph
    from coevo_ray.store.location import Location

    with tempfile.TemporaryDirectory(prefix="coevo-scale-") as folder:
        in_child(write_graph, folder, rows, "made up")
        place = Location.parse(folder)
        return measured(rows, lambda: copy_groups(open_graph(place, part_bytes=1 << 26)[0]))


def groups(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """Groups rows that lie together, for `draw: top`."""
    from coevo_ray.core.gate.groups import NeighbourGroups

    graph = made_up(rows)
    return measured(rows, lambda: NeighbourGroups.of(graph))


def _draw(rows: int, **settings: Any) -> dict[str, Any]:
    gate = gate_of(rows, DRAWN_CLASSES, **settings)
    gate.update_predictions(all_guesses(rows, DRAWN_CLASSES))
    if settings.get("draw") == "top" and settings.get("typical") != 0:
        gate.draw()  # makes the groups, once for all rounds
    return measured(rows, gate.draw)


def draw_herding(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """Draws a round by herding, the default while labels are few."""
    return _draw(rows)


def draw_typical(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """Draws a round of rows that are typical of groups."""
    return _draw(rows, draw="top")


def draw_top(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """Draws a round from the top of the gain, the default once there are labels."""
    return _draw(rows, draw="top", typical=0.0)


def draw_first(rows: int, classes: int, whole: bool) -> dict[str, Any]:
    """Draws random first rows."""
    from coevo_ray.core.gate.config import GateConfig
    from coevo_ray.core.gate.gate import AnnotationGate

    config = GateConfig(classes=DRAWN_CLASSES, round_size=1, copies=False)
    gate = AnnotationGate(config, made_up(rows), np.ones(rows, dtype=np.bool_))
    return measured(rows, lambda: gate.draw_seed(round(LABELLED * rows)))


PARTS = {
    "predictions": predictions,
    "near_duplicates": near_duplicates,
    "own_copies": own_copies,
    "stored_copies": stored_copies,
    "groups": groups,
    "draw_herding": draw_herding,
    "draw_typical": draw_typical,
    "draw_top": draw_top,
    "draw_first": draw_first,
}
