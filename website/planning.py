"""The page that plans a pool of up to 10^9 rows, from the measured constants in `benchmarks/results`.

Nothing here was run at these sizes. Each figure is a measured cost of a row times the rows; for the graph the measured
growth, too. What a figure stands on is named beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from website.worth import RESULTS

SIZES = (10**7, 10**8, 10**9)
CORE_HOUR, GPU_HOUR, GPU_RATE = 0.05, 2.0, 2_000  # supposed: USD, USD, rows a second of one GPU
DIM, NEIGHBOURS, EPOCHS, ROUNDS = 256, 16, 100, 20
_SHARD_ROWS, _MOST_ROWS = 2048, 10**11
_GIB, _HOUR = 1 << 30, 3600.0


@dataclass(frozen=True)
class Line:
    """A quantity of a stage: how it grows with rows, and the result that it comes from."""

    stage: str
    of_rows: Callable[[int], float]
    source: str


def page() -> str:
    """The page, as Markdown."""
    return "\n".join(
        [
            _HEAD,
            "## Processor hours\n",
            _table(hours(), "core-hours"),
            _AFTER_HOURS.format(
                rate=_count(GPU_RATE), gpu=_gpu_hours(10**9), price=_money(_gpu_hours(10**9) * GPU_HOUR), usd=GPU_HOUR
            ),
            "## Memory of the largest process\n",
            _table(memory(), "GiB"),
            _AFTER_MEMORY.format(store=_short(_stored(10**8)), rows=_count(10**8)),
            "## Disk\n",
            _table(disk(), "GiB"),
            _AFTER_DISK,
            "## What breaks first\n",
            _breaks(),
        ]
    )


def hours() -> list[Line]:
    """Core-hours of a stage."""
    encode, scale, gate, feed = (_read(name) for name in ("encode-50000", "scale-growth", "gate-1000000", "feed"))
    build = gate["by_part"]["ours"]["build_seconds"] * gate["hardware"]["cores"]
    slope = scale["slopes"]["graph"]
    per_row = {stage: row[max(row, key=int)]["us_per_row"] / 1e6 for stage, row in scale["table"].items()}
    herding, predicted = per_row["gate: draw_herding"], per_row["gate: predictions"]
    copies = per_row["gate: own_copies"] + per_row["gate: groups"]
    ledger = _read("selection-100000000")
    selected = ledger["by_policy"]["factors_all"]["cpu_seconds"] / ledger["rows"]
    fed = feed["workers"] / feed["rows_per_s"]["fixed"]["ours"]["2"]["median"]
    encoded = encode["hardware"]["cores"] / encode["rows_per_s"]["ours"]
    return [
        Line("encode, one small prior on CPUs", _times(encoded / _HOUR), "encode-50000"),
        Line("graph", lambda rows: build * (rows / gate["rows"]) ** slope / _HOUR, "gate-1000000, scale-growth"),
        Line("scores of factors", _times(per_row["score"] / _HOUR), "scale-growth"),
        Line(f"gate, {ROUNDS} rounds", _times((ROUNDS * (herding + predicted) + copies) / _HOUR), "scale-growth"),
        Line(f"selection, {EPOCHS} epochs of `factors`", _times(EPOCHS * selected / _HOUR), "selection-100000000"),
        Line(f"feed, {EPOCHS} epochs at keep 0.3", _times(0.3 * EPOCHS * fed / _HOUR), "feed"),
    ]


def memory() -> list[Line]:
    """GiB of the process of a stage that needs most."""
    ledger, wide, parted = map(_read, ("selection-100000000", "scale-predictions-10000000", "scale-gate-3000000"))
    kept, actors = ledger["by_policy"]["factors_all"]["peak_bytes_per_row"], parted["actors"]
    predicted = (wide["parts"]["predictions"]["peak_bytes"] - 2 * _GIB) / wide["rows"]
    by_kind = parted["bytes_per_row"]["parts"]
    drawing = by_kind["gate"] + 8 * parted["neighbours"]
    encode = max(_read("encode_memory")["peak_bytes"])
    order, epoch = _read("scale-sorting-1000000"), _read("epoch_memory")
    task, numbers = order["ways"]["parts"], max(each["transient_bytes_per_row"] for each in order["numbers"].values())
    read = epoch["ways"]["parts"]["bytes_per_row"]["own"]
    return [
        Line("encode, all its processes of a node", lambda rows: encode / _GIB, "encode_memory"),
        Line("graph, numbers of all rows in one task", _times(numbers / _GIB), "scale-sorting-1000000"),
        Line("graph, a task on ranges or blocks", _by_root(order["rows"], task), "scale-sorting-1000000"),
        Line("copies (evidence, dedup)", _copies, "scale-copies-10000000"),
        Line(
            f"gate, {wide['classes']:,} classes, with its graph",
            lambda rows: max(predicted * rows / _GIB + _block(rows, 1), drawing * rows / _GIB),
            "scale-predictions-10000000, scale-gate-3000000",
        ),
        Line(f"gate, its graph in {actors} actors", _times(by_kind["gate"] / _GIB), "scale-gate-3000000"),
        Line(
            f"each of these {actors} actors",
            lambda rows: by_kind["part of the graph"] * rows / _GIB + _block(rows, actors),
            "scale-gate-3000000",
        ),
        Line("selection by `factors`", _times(kept / _GIB), "selection-100000000"),
        Line("training, rows of an epoch in each worker", lambda rows: read * epoch["rows"] / _GIB, "epoch_memory"),
        Line("labels of the pool, in each node's object store", _times(2 / _GIB), "int16, up to 32,767 classes"),
    ]


def disk() -> list[Line]:
    """GiB of an artifact."""
    run = _read("vector_run")
    by_name, per_part = run["bytes_per_row"], EPOCHS / 8
    return [
        Line(f"targets, {run['dim']} dimensions", _times(by_name["encode/targets"] / _GIB), "vector_run"),
        Line("contribution of a participant", _times(by_name["encode/contributions/00"] / _GIB), "vector_run"),
        Line(f"graph, {NEIGHBOURS} neighbours", _times(by_name["gate/graph"] / _GIB), "vector_run"),
        Line("factors of all rows", _times(by_name["sae/scores"] / _GIB), "vector_run"),
        Line(f"journal of {EPOCHS} epochs", _times(per_part / _GIB), "a bit for each row and epoch"),
    ]


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _times(per_row: float) -> Callable[[int], float]:
    return lambda rows: per_row * rows


def _copies(rows: int) -> float:
    """GiB of near-duplicates: a graph of some GiB is read in parts of one, which takes twice that again."""
    found = _read("scale-copies-10000000")
    whole, parts = (found["parts"][name] for name in ("own_copies", "stored_copies"))
    by_row: tuple[float, float] = (whole["peak_bytes"] / found["rows"], parts["transient_bytes_per_row"])
    return min(by_row[0] * rows / _GIB, by_row[1] * rows / _GIB + 3)


def _block(rows: int, actors: int) -> float:
    """GiB of a block of predictions: of all rows, 2 GiB shared by the actors, but two classes at least."""
    return max(2.0 / actors, 8 * rows / _GIB)


def _stored(rows: int) -> float:
    """GiB of a graph's targets: float16, a scale and a row's number."""
    return (2 * DIM + 8) * rows / _GIB


def _by_root(measured: int, task: dict[str, Any]) -> Callable[[int], float]:
    """GiB of a task that holds so many rows whatever their number, and products with all cells: 2 for the root."""
    own = task["peak_bytes"] - task["idle_bytes"]
    return lambda rows: (task["idle_bytes"] + own * max(1.0, math.sqrt(rows / measured))) / _GIB


def _gpu_hours(rows: int) -> float:
    return rows / GPU_RATE / _HOUR


def _table(lines: list[Line], unit: str) -> str:
    heads = "".join(f" {_count(rows)} |" for rows in SIZES)
    body = "".join(
        f"| {line.stage} |{''.join(f' {_short(line.of_rows(rows))} |' for rows in SIZES)} {line.source} |\n"
        for line in lines
    )
    return f"| {unit} |{heads} from |\n|---|{'---|' * (len(SIZES) + 1)}\n{body}"


def _breaks() -> str:
    """Lists for each stage the pool size at which its largest process outgrows a large node."""
    limits = [(limit, line.stage) for line in memory() if (limit := _rows_within(line, 256.0)) is not None]
    lines = "".join(f"| {_count(rows)} | {stage} |\n" for rows, stage in sorted(limits))
    return f"{_BREAKS_HEAD}| rows | the largest process passes 256 GiB |\n|---|---|\n{lines}\n{_BREAKS}"


def _rows_within(line: Line, gib: float) -> int | None:
    """Rows for which a line is within so many GiB; None where those are more than anyone has."""
    low, high = 0, _MOST_ROWS
    if line.of_rows(high) <= gib:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if line.of_rows(middle) <= gib else (low, middle)
    return low


def _count(rows: int) -> str:
    for size, word in ((10**9, " billion"), (10**6, " million")):
        if rows >= size:
            return f"{rows / size:.3g}{word}"
    return f"{rows:,}"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _money(usd: float) -> str:
    return f"{usd:,.0f} USD"


_HEAD = f"""# Planning a large pool

What 10 million to 1 billion rows take, from the measured cost of a row in [results](results.md). **Nobody has run these
sizes**: the largest measured are 100 million rows for selection, 10 million for the memory of copies and of a gate with
its graph, 3 million for a gate in parts, 1 million for scores and the graph, and 50 000 images for encode. Figures are
for {DIM} dimensions and {NEIGHBOURS}
neighbours.
"""

_AFTER_HOURS = f"""
The graph grows by the slope from 10^5 to 10^6 rows; beyond, it may grow faster, up to the power 1.5 by which its cells
grow. At a supposed {CORE_HOUR} USD a core-hour, multiply by {CORE_HOUR}.

Encode is the stage for GPUs: nobody has measured one with coevo-ray yet (`python -m benchmarks.encode_gpu` does). At a
supposed {{rate}} rows a second, a billion rows are {{gpu:,.0f}} GPU-hours, or {{price}} at {{usd}} USD an hour. All
GPUs share the rows, and each row is encoded once whatever is trained later. Encode, scores and the graph's searches
run on as many nodes as there are. Selection runs in one process; so does the gate, whose graph and what it computes for
all rows may lie in several actors on several nodes ([compute.actors](design.md#gate-parts)).
"""

_AFTER_MEMORY = """
A training worker fetches the row_ids and weights of an epoch from the ledger, a window of row groups at a time, and
reads the rows of its own part. Labels are in the object store, once on each node.

A graph's targets are in the object stores of all nodes together: {store} GiB for {rows} rows, and up to twice that
while they are sorted. Ray moves to the nodes' disks what is too much. A search fetches blocks of them from other nodes,
most of all there are for each 16,384 rows where stores have no room to keep them: give the stores of the nodes that
room, or networks that carry it.
"""

_AFTER_DISK = f"""
The pool holds a copy of the samples, so add their size. A file has about {_SHARD_ROWS:,} rows, so a billion rows make
half a million objects for each artifact. An object of up to 10 MB takes one request to write and two to read. Give
runs that work at the same time folders of their own: stores limit requests by prefix.
"""

_BREAKS_HEAD = """On nodes with 256 GiB:

"""

_BREAKS = """In memory a gate with its graph in its own process comes first; `gate: {compute: {actors: N}}` moves graph
and predictions out of it, and the more actors, the less each holds. In hours it is the graph, whose cost grows faster
than the rows; the gate, evidence and dedup stand on it. For more rows, cut the pool: ingest parts of up to 100 million
rows as pools of their own, and run a gate on each. Copies across parts are not found then. Selection by factors alone
(scores without evidence) needs no graph, and holds a billion rows in one process.

On GPUs, faiss and cuVS build such graphs faster than this code does. coevo-ray cannot read theirs yet.
"""
