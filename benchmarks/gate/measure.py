"""The annotation gate: graph, gains and draws, against the published per-row loop over an hnswlib index.

    python -m benchmarks.gate --json [--quick] [--rows N]

Both sides get the same rows of 256 dimensions in 10 classes and the same predictions, and work by the published rule:
gains of all rows, then a fifth of them labelled in ten rounds. Beyond 100 000 rows there is no peer, and the gate works
by its default rule: 20 rounds, with new predictions after each.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import Child, busiest, finish, in_child, middle, note, parser, rows_of
from benchmarks.gate import data as _gate_data
from benchmarks.gate.sides import (
    EF_CONSTRUCTION,
    EF_SEARCH,
    LINKS,
    K,
    measure_loop,
    measure_offers,
    measure_ours,
    scratch,
)

REPEATS = 3
LEAST_ROWS = 1000
PEER_ROWS = 100_000
ROUNDS, PEER_ROUNDS, LABELLED = 20, 10, 0.2
OFFER_ROWS = 490_000  # and what arrives: to more than half a million rows arrivals are not compared with all
BATCHES = {1: 300, 32: 60, 256: 10}
QUICK_BATCHES = {1: 20, 32: 4}
_PARTS = ("build_seconds", "gain_seconds", "round_seconds")


def main() -> None:
    """Runs the benchmark."""
    arguments = parser(__doc__.split("\n")[0], 50_000, 2000).parse_args()
    rows = max(rows_of(arguments), LEAST_ROWS)
    repeats = 1 if arguments.quick or rows > PEER_ROWS else REPEATS
    batches = QUICK_BATCHES if arguments.quick or rows < PEER_ROWS // 4 else BATCHES
    with scratch() as folder:
        result, children = _measure(folder, rows, repeats, batches)
    finish("gate", {**result, "busy_before": busiest(children)}, arguments.json)


def _measure(folder: str, rows: int, repeats: int, batches: dict[int, int]) -> tuple[dict[str, Any], list[Child]]:
    with_peer = rows <= PEER_ROWS
    rounds, rule = (PEER_ROUNDS, "compat") if with_peer else (ROUNDS, "margin")
    size = max(1, round(LABELLED * rows / PEER_ROUNDS)) if with_peer else 1000
    arriving = sum(of * count for of, count in batches.items())
    note(f"making {rows:,} rows")
    in_child(_gate_data.make, folder, rows)
    ours, loops = [], []
    for repeat in range(repeats):
        ours.append(in_child(measure_ours, folder, rule, rounds, size, with_peer and repeat == 0))
        note(f"ours: {_seconds(ours[-1].result)}")
        if with_peer:
            loops.append(in_child(measure_loop, folder, rounds, size))
            note(f"loop: {_seconds(loops[-1].result)}")
    offers = in_child(measure_offers, folder, min(rows - arriving, OFFER_ROWS), batches)
    first = ours[0].result
    result = {
        "rows": rows,
        "dim": _gate_data.DIM,
        "classes": _gate_data.CLASSES,
        "neighbours": K,
        "rule": rule,
        "rounds": rounds,
        "labels": first["labels"],
        "repeats": repeats,
        "gain_and_draw_ratio_to_loop": _ratio(ours, loops, _PARTS[1:]),
        "total_ratio_to_loop": _ratio(ours, loops, _PARTS),
        "max_gain_difference": first["max_gain_difference"],
        "graph_recall": first["recall"]["checked"],
        "seconds": middle([_total(child, _PARTS) for child in ours]),
        "peak_bytes": max(child.result["peak_bytes"] for child in ours),
        "graph": {"method": first["method"], "recall_measured": first["recall"]["measured"], **first["parameters"]},
        "by_part": {
            "ours": _by_part(ours),
            "loop": _by_part(loops) if loops else None,
        },
        "loop": {
            "index": "hnswlib",
            "links": LINKS,
            "ef_construction": EF_CONSTRUCTION,
            "ef_search": EF_SEARCH,
            "recall": loops[0].result["recall"],
        }
        if loops
        else None,
        "offers": offers.result,
    }
    return result, [*ours, *loops, offers]


def _seconds(measured: dict[str, Any]) -> str:
    return ", ".join(f"{name.removesuffix('_seconds')} {measured[name]:.2f} s" for name in _PARTS)


def _total(child: Child, parts: tuple[str, ...]) -> float:
    return sum(float(child.result[name]) for name in parts)


def _ratio(ours: list[Child], loops: list[Child], parts: tuple[str, ...]) -> float | None:
    """The loop's seconds over ours, each pair side by side; None without a loop."""
    pairs = zip(ours, loops, strict=True) if loops else ()
    ratios = [_total(loop, parts) / _total(mine, parts) for mine, loop in pairs]
    return middle(ratios) if ratios else None


def _by_part(children: list[Child]) -> dict[str, float]:
    return {name: middle([child.result[name] for child in children]) for name in _PARTS}
