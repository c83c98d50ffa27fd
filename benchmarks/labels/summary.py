"""What the seeds of the labels benchmark say together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.labels.curve import area

NEAR_FULL = 0.002
REFERENCE = "gate"
Done = Mapping[tuple[str, str, str, int], Any]


def table_of(done: Done, pool: str, shares: Sequence[float]) -> dict[str, Any]:
    """A pool's part of the result.

    Args:
        done: task -> what it gave.
        pool: its name.
        shares: of its rows.

    Returns:
        `full_accuracy`; `table`: method -> labels -> `mean` and `spread` of the accuracy; `areas`, see `_area`;
        `smallest_share_at_full_accuracy` and `seconds` (median over seeds, with and without the head) of each method.
    """
    runs: dict[str, list[Any]] = {}
    for (kind, name, method, _), found in done.items():
        if kind == "curve" and name == pool:
            runs.setdefault(method, []).append(found)
    full = done["full", pool, "full", 0]["accuracy"]
    counts = next(iter(runs.values()))[0]["counts"]
    table = {
        method: {str(count): cell(list(at)) for count, at in zip(counts, zip(*_curves(of), strict=True), strict=True)}
        for method, of in runs.items()
    }
    areas = {method: [area(counts, line) for line in _curves(of)] for method, of in runs.items()}
    return {
        "full_accuracy": round(full, 4),
        "shares": list(shares),
        "table": table,
        "smallest_share_at_full_accuracy": {
            method: next(
                (share for share, at in zip(shares, cells.values(), strict=True) if at["mean"] >= full - NEAR_FULL),
                None,
            )
            for method, cells in table.items()
        },
        "areas": {method: {**cell(values), **_against(values, areas[REFERENCE])} for method, values in areas.items()},
        "seconds": {
            method: {
                key: round(statistics.median(run[key] for run in of), 3) for key in ("seconds", "choosing_seconds")
            }
            for method, of in runs.items()
        },
    }


def _curves(runs: Sequence[Any]) -> list[list[float]]:
    return [run["accuracy"] for run in runs]


def cell(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    return {
        "mean": round(statistics.fmean(values), 4),
        "spread": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
    }


def _against(values: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Mean difference to the gate's, seed by seed, and its standard error."""
    differences = [a - b for a, b in zip(values, reference, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
    return {"minus_gate": round(statistics.fmean(differences), 5), "standard_error": round(error, 5)}


def stops(done: Done, pools: Sequence[str]) -> dict[str, Any]:
    """Pool -> what the gate's own stop rule did there.

    Returns:
        For each pool `mean` and `spread` of: `share` of labels; `accuracy`; `full_accuracy` on all labels;
        `accuracy_lost` of it; `random_accuracy` on as many random labels; `enough_share`, at which the gate came
        within 0.2 points of full accuracy, over the seeds where it did (`enough_seeds`). And how often each reason
        stopped it.
    """
    result: dict[str, Any] = {}
    for pool in pools:
        runs = [found for (kind, name, *_), found in done.items() if kind == "stop" and name == pool]
        enough = [run["enough_share"] for run in runs if run["enough_share"] is not None]
        keys = ("share", "accuracy", "full_accuracy", "random_accuracy", "rounds", "seconds")
        result[pool] = {
            **{key: cell([run[key] for run in runs]) for key in keys},
            "accuracy_lost": cell([run["full_accuracy"] - run["accuracy"] for run in runs]),
            "enough_share": cell(enough) if enough else None,
            "enough_seeds": len(enough),
            "stopped_by": dict(Counter(run["stopped_by"] for run in runs)),
        }
    return result


def with_pseudo_labels(done: Done, shares: Sequence[float]) -> dict[str, Any]:
    """Share of labels -> the head's accuracy on labels alone and, by least probability, with pseudo-labels."""
    runs = [found for (kind, *_), found in done.items() if kind == "semi"]
    result: dict[str, Any] = {}
    for i, share in enumerate(shares):
        result[str(share)] = {"labels_alone": cell([run["accuracy"][i] for run in runs])}
        for least in runs[0]["with_pseudo_labels"]:
            parts = [run["with_pseudo_labels"][least] for run in runs]
            accuracy = cell([part["accuracy"][i] for part in parts])
            mean = {key: round(statistics.fmean(p[key][i] for p in parts), 4) for key in ("share", "precision")}
            result[str(share)][least] = {**accuracy, **mean}
    return result


def networks(done: Done) -> dict[str, Any] | None:
    """What the networks reached; None where none was trained.

    Returns:
        `table`: row -> `mean` and `spread` of the accuracy, and `seconds` of a training; `labels` of those that have
        not all, `images`, `steps`, `repeats`.
    """
    rows: dict[str, list[Any]] = {}
    for (kind, _, row, _), found in done.items():
        if kind == "network":
            rows.setdefault(row, []).append(found)
    if not rows:
        return None
    counts = {run["labels"] for runs in rows.values() for run in runs}
    return {
        "images": max(counts),
        "labels": min(counts),
        "steps": rows["full"][0]["steps"],
        "repeats": len(rows["full"]),
        "table": {
            row: {
                **cell([run["accuracy"] for run in runs]),
                "seconds": round(statistics.median(run["seconds"] for run in runs), 1),
            }
            for row, runs in rows.items()
        },
    }
