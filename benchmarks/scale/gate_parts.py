"""A gate whose graph lies in several actors, against one that holds it in its own process.

Both open the same made-up graph (`parts.made_up`), take labels of a hundredth of the rows and predictions that lie in
Ray's object store, and draw a round. What they say of all rows must be the same. A process is seen by its memory that
no other shares (RssAnon); bytes for each row are the slope between two sizes, without what every process has.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Child, in_child, note
from benchmarks.memory import own_memory
from benchmarks.scale.parts import COPIES, LABELLED, NEIGHBOURS, ROUND, guesses, write_graph

if TYPE_CHECKING:
    from coevo_ray.actors.actor import StoredPart
    from coevo_ray.pipelines.gate.gate_maker import GateMaker

CPUS = 0.25
_KINDS = {"SelectionActor": "gate", "GraphPartActor": "part of the graph"}


def measure(sizes: Sequence[int], classes: int, actors: int) -> tuple[dict[str, Any], list[Child]]:
    """Measures both ways.

    Args:
        sizes: numbers of rows, two or more, increasing.
        classes: C.
        actors: that hold the graph in parts.

    Returns:
        `ways`: "one" and "parts" -> rows -> result of `gate`; `equal`: rows -> whether both say the same of all rows;
        `bytes_per_row`: way -> kind of process -> slope between the largest sizes; and the processes.
    """
    ways: dict[str, dict[str, Any]] = {"one": {}, "parts": {}}
    children: list[Child] = []
    for rows in sizes:
        for way, parts in (("one", 1), ("parts", actors)):
            child = in_child(gate, rows, classes, parts)
            children.append(child)
            ways[way][str(rows)] = child.result
            note(f"gate, {way}: {rows:,} rows, {child.result}")
    slopes = {way: _slopes(found, *sizes[-2:]) for way, found in ways.items()}
    equal = {str(rows): ways["one"][str(rows)]["said"] == ways["parts"][str(rows)]["said"] for rows in sizes}
    settings = {"classes": classes, "actors": actors, "neighbours": NEIGHBOURS, "copies": COPIES}
    return {**settings, "ways": ways, "equal": equal, "bytes_per_row": slopes}, children


def _slopes(found: dict[str, Any], few: int, many: int) -> dict[str, float]:
    small, large = found[str(few)]["peak_bytes"], found[str(many)]["peak_bytes"]
    return {kind: round((large[kind] - small[kind]) / (many - few), 1) for kind in large}


def gate(rows: int, classes: int, parts: int) -> dict[str, Any]:
    """Opens a gate and draws its first round by gain.

    Args:
        rows: N.
        classes: C.
        parts: of the graph.

    Returns:
        `seconds` of its steps; `peak_bytes`: kind of process -> most of one; `said`: hash of what it says of all rows.
    """
    from coevo_ray.actors.actor import start_selection
    from coevo_ray.runtime.session import ray_session

    with tempfile.TemporaryDirectory(prefix="coevo-scale-") as folder:
        maker = in_child(_write, folder, rows, classes, parts).result
        with ray_session():
            predictions = _predictions(rows, classes, parts)
            with own_memory(_named) as peaks:
                seconds: dict[str, float] = {}
                handle = start_selection("scale", maker)
                _timed(seconds, "open", handle.gate.gate_status)
                first = handle.gate.request(round(LABELLED * rows))
                handle.gate.submit(first, first % classes, "made up")
                _timed(seconds, "predictions", lambda: handle.update_predictions(predictions))
                asked = _timed(seconds, "draw", handle.gate.request)
            gains, believed = handle.gate.gains(), handle.gate.pseudo_labels(0.0)
            handle.stop()
    said = hashlib.sha256()
    for each in (
        asked,
        gains["row_id"],
        gains["gain"],
        *(believed[name] for name in ("row_id", "label", "confidence")),
    ):
        said.update(each.tobytes())
    return {"seconds": seconds, "peak_bytes": dict(sorted(peaks.items())), "said": said.hexdigest()}


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    seconds[name] = round(time.perf_counter() - started, 3)
    return result


def _named(pid: int, command: str) -> str:
    return next((kind for actor, kind in _KINDS.items() if command.startswith(f"ray::{actor}")), "")


def _predictions(rows: int, classes: int, parts: int) -> list[StoredPart]:
    """Predictions in the object store, made by tasks."""
    import ray

    from coevo_ray.actors.actor import StoredPart
    from coevo_ray.core.gate.class_blocks import BLOCK_CELLS, class_ranges

    ranges = tuple(class_ranges(rows, classes, BLOCK_CELLS // parts))
    made = []
    for part in guesses(rows, classes, ranges):

        def make(part: Any = part) -> list[Any]:
            return [part.row_ids(), *(part.block(number) for number in range(len(part.ranges)))]

        ids, *blocks = ray.remote(make).options(num_cpus=CPUS, num_returns=1 + len(ranges)).remote()
        made.append(StoredPart(ranges, ids, tuple(blocks)))
    ray.wait([part.ids for part in made], num_returns=len(made))
    return made


def _write(folder: str, rows: int, classes: int, parts: int) -> GateMaker:
    """Writes a graph, and targets of two dimensions that it names."""
    from benchmarks.scale.sorting import write_targets
    from coevo_ray.core.gate.config import GateConfig, OfferConfig
    from coevo_ray.pipelines.gate.gate_maker import GateMaker
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import RowTable

    write_targets(folder, rows, 2)
    targets = RowTable(Location.parse(Path(folder) / "targets"), "targets")
    place = Location.parse(Path(folder) / "gate")
    write_graph(str(place.child("graph")), rows, targets.manifest.identity)
    config = GateConfig(classes=classes, round_size=round(ROUND * rows))
    return GateMaker(config, place, targets, OfferConfig(), parts, CPUS)
