"""How the work grows: with rows in one process, and with nodes on a cluster.

    python -m benchmarks.scale --json [--quick] [rows] [nodes] [--sizes N,N,...] [--nodes N,N,...] [--gpus G]
    python -m benchmarks.scale --json parts [--rows N] [--classes C] [--whole] [--parts NAME,...]
    python -m benchmarks.scale --json sorting [--rows N]
    python -m benchmarks.scale --json gate [--sizes N,N] [--classes C] [--actors A]

`rows`: parts of a gate's round and epochs of the ledger at several sizes, and the slope of their processor time in
log-log, 1 where a row costs the same in a pool of any size. `nodes`: encode, graph and scores on clusters of so many
nodes of one CPU each, with the same rows (strong) and with rows in proportion (weak). `parts`: one size, with memory.
`sorting`: memory of a graph's processes that sort all rows, against one process for all of them. `gate`: a gate whose
graph lies in several actors, against one that holds it in its own process.
Nodes are processes of this machine; with `--gpus` each has a share of its GPUs.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import Child, busiest, finish, names, parser, positive, rows_of
from benchmarks.scale import gate_parts, nodes, parts, slopes, sorting

_SIZES, _QUICK_SIZES = (10_000, 100_000, 1_000_000, 10_000_000), (10_000, 100_000)
_GATE_SIZES, _QUICK_GATE_SIZES = (250_000, 1_000_000), (20_000, 40_000)
_NODES, _QUICK_NODES = (1, 2, 3, 4), (1, 2)
_ROWS, _QUICK_ROWS = 4_000, 600  # of encode on one node


def main() -> None:
    """Runs the benchmark."""
    read = parser(__doc__.split("\n")[0], 1_000_000, 100_000)
    read.add_argument("what", nargs="*", default=["rows", "nodes"], help="rows, nodes, parts, sorting, gate")
    read.add_argument("--classes", type=positive, default=parts.CLASSES, help="parts: classes of the predictions")
    read.add_argument("--whole", action="store_true", help="parts: predictions at once, as far as memory allows")
    read.add_argument("--parts", type=names, default=tuple(parts.PARTS), help="parts: which to measure")
    read.add_argument("--sizes", type=_numbers, help="rows, gate: numbers of rows")
    read.add_argument("--nodes", type=_numbers, help="nodes: numbers of nodes")
    read.add_argument("--actors", type=positive, default=4, help="gate: that hold the graph")
    read.add_argument("--gpus", type=float, default=0.0, help="nodes: of each actor, and of each node")
    read.add_argument("--node-rows", type=positive, help="nodes: images on one node; ten times as many vectors")
    arguments = read.parse_args()
    if unknown := set(arguments.what) - {"rows", "nodes", "parts", "sorting", "gate"}:
        read.error(f"unknown: {', '.join(sorted(unknown))}")
    result: dict[str, Any] = {}
    children: list[Child] = []
    if "parts" in arguments.what:
        result, children = parts.measure(rows_of(arguments), arguments.classes, arguments.whole, arguments.parts)
    if "sorting" in arguments.what:
        found, more = sorting.measure(rows_of(arguments))
        result, children = {**result, **found}, children + more
    if "gate" in arguments.what:
        sizes = arguments.sizes or (_QUICK_GATE_SIZES if arguments.quick else _GATE_SIZES)
        found, more = gate_parts.measure(sizes, arguments.classes, arguments.actors)
        result, children = {**result, **found}, children + more
    if "rows" in arguments.what:
        found, more = slopes.measure(arguments.sizes or (_QUICK_SIZES if arguments.quick else _SIZES))
        result, children = {**result, **found}, children + more
    if "nodes" in arguments.what:
        rows = arguments.node_rows or (_QUICK_ROWS if arguments.quick else _ROWS)
        found, more = nodes.measure(
            arguments.nodes or (_QUICK_NODES if arguments.quick else _NODES), rows, arguments.gpus
        )
        table = {**result.pop("table", {}), **found.pop("table")}
        result, children = {**result, **found, "table": table}, children + more
    finish("scale", {**result, "repeats": 1, "busy_before": busiest(children)}, arguments.json)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(positive(each) for each in names(text))


if __name__ == "__main__":
    main()
