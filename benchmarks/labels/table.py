"""What `benchmarks.labels.measure` printed as tables for people.

python -m benchmarks.labels.table benchmarks/results/labels.json > benchmarks/results/labels.md

A second file, of `--networks-only`, adds its networks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

OURS = "gate"
RANDOM = "random"
SEMI = "gate_semi_supervised"
TARGETS = {"supervised": 0.5, "semi-supervised": 0.3}  # share of labels for full accuracy - 0.2 points
NEAR_FULL = 0.002
SURE = "0.95"  # from which probability on `coevo-ray gate` takes a class without asking

Cell = dict[str, Any]


def main() -> None:
    """Reads the files that are named and prints the tables."""
    result, *others = (
        json.loads(Path(name).read_text(encoding="utf-8").strip().splitlines()[-1]) for name in sys.argv[1:]
    )
    for other in others:
        result["networks"] = other["networks"]
    print("\n".join(lines(result)))


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The page."""
    yield "# Labels"
    yield ""
    yield (
        f"Accuracy in percent on the test rows, mean over {result['repeats']} seeds +- standard deviation, of a linear "
        f"head on frozen features; rows are chosen from 1 % on, in a round for each column. `area` is under accuracy "
        "over log labels, as a mean accuracy; `to gate` its difference to the gate's, seed by seed, +- standard error; "
        "`enough` the smallest share of labels within 0.2 points of all labels' accuracy. Seconds are a seed's for all "
        "rounds, choosing alone, with one thread. `python -m benchmarks.labels.table`."
    )
    yield from _curves(f"{result['rows']:,} rows", result)
    yield from _curves("A smaller pool, with queries that are too slow for the whole one", result["small_pool"])
    yield from _curves(
        "A skewed pool: the smallest class 50 times rarer, judged on balanced rows", result["skewed_pool"]
    )
    yield from _stop(result["stop"])
    yield from _pseudo_labels(result)
    if result.get("networks"):
        yield from _networks(result["networks"])


def _curves(title: str, part: dict[str, Any]) -> Iterator[str]:
    shares = part["shares"]
    yield from ("", f"## {title}", "", f"All labels: {_percent(part['full_accuracy'])} %.", "")
    yield from _head(["method", "area", "to gate", *(_share(share) for share in shares), "enough", "s"])
    ranked = sorted(part["table"], key=lambda method: -part["areas"][method]["mean"])
    for method in ranked:
        area, enough = part["areas"][method], part["smallest_share_at_full_accuracy"][method]
        yield _row(
            [
                method,
                f"{100 * area['mean']:.2f} +- {100 * area['spread']:.2f}",
                f"{100 * area['minus_gate']:+.2f} +- {100 * area['standard_error']:.2f}",
                *(_shown(cell) for cell in part["table"][method].values()),
                "-" if enough is None else _share(enough),
                f"{part['seconds'][method]['choosing_seconds']:.1f}",
            ]
        )
    yield ""
    yield from (f"- {line}" for line in verdicts(part))


def verdicts(part: dict[str, Any]) -> Iterator[str]:
    """How the gate stands against the targets: enough labels, random, and the best peer."""
    table, shares = part["table"], part["shares"]
    enough = part["smallest_share_at_full_accuracy"][OURS]
    target = TARGETS["supervised"]
    said = "never" if enough is None else f"at {_share(enough)} of the labels"
    met = enough is not None and enough <= target
    yield f"within 0.2 points of all labels: {said}, {'met' if met else 'missed'} (target {_share(target)})"
    peers = [method for method in table if not method.startswith(OURS)]
    # The first rows are the same ones for all.
    points = list(zip(shares, table[OURS].values(), *(table[peer].values() for peer in peers), strict=True))[1:]
    random = [
        _share(share)
        for share, ours, *others in points
        if ours["mean"] <= dict(zip(peers, others, strict=True))[RANDOM]["mean"]
    ]
    yield "above random " + ("at every point" if not random else "but for " + ", ".join(random))
    behind = []
    for share, ours, *others in points:
        best, peer = max(zip(others, peers, strict=True), key=lambda pair: pair[0]["mean"])
        lost = best["mean"] - ours["mean"]
        if lost > max(ours["spread"], best["spread"]):
            behind.append(f"{_share(share)} ({peer} by {100 * lost:.2f})")
    yield "not below the best peer by more than the spread " + (
        "at any point" if not behind else "but for " + ", ".join(behind)
    )


def _stop(stop: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## The gate's own stop", "")
    yield from _head(
        ["pool", "share", "accuracy", "all labels", "lost", "as many at random", "enough on the way", "by"]
    )
    for pool, part in stop.items():
        enough, seeds = part["enough_share"], sum(part["stopped_by"].values())
        reached = "-" if enough is None else f"{_shown(enough)} ({part['enough_seeds']} of {seeds})"
        reasons = ", ".join(f"{reason} {times}" for reason, times in part["stopped_by"].items())
        keys = ("share", "accuracy", "full_accuracy", "accuracy_lost", "random_accuracy")
        yield _row([pool, *(_shown(part[key], 2) for key in keys), reached, reasons])


def _pseudo_labels(result: dict[str, Any]) -> Iterator[str]:
    by_share = result["pseudo_labels"]
    yield from ("", "## The head with the gate's pseudo-labels", "")
    columns = list(next(iter(by_share.values())))
    yield "Least probability of a pseudo-label; in brackets its share of the other rows, and how many are right."
    yield ""
    yield from _head(["labels", "labels alone", *(column for column in columns if column != "labels_alone")])
    for share, cells in by_share.items():
        yield _row([_share(float(share)), *(_with_share(cell) for cell in cells.values())])
    goal, last = result["full_accuracy"] - NEAR_FULL, list(by_share.values())[-1]
    yield ""
    yield _goal("the head", last[SURE]["mean"], goal)


def _networks(networks: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## EfficientNet-Lite0, fine-tuned", "")
    yield (
        f"{networks['images']:,} images, {networks['labels']:,} labels where not `full`, {networks['steps']:,} steps, "
        f"{networks['repeats']} seeds."
    )
    yield ""
    yield from _head(["row", "accuracy", "s"])
    for row, cell in networks["table"].items():
        yield _row([row, _shown(cell), f"{cell['seconds']:.0f}"])
    table = networks["table"]
    yield ""
    yield _goal("the network", table[SEMI]["mean"], table["full"]["mean"] - NEAR_FULL)


def _goal(what: str, best: float, goal: float) -> str:
    share = _share(TARGETS["semi-supervised"])
    met = "met" if best >= goal else f"missed by {100 * (goal - best):.1f} points"
    return (
        f"- {what}, semi-supervised, with {share} of the labels: {_percent(best)} % (target {_percent(goal)} %), {met}"
    )


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield _row(columns)
    yield "|---" * len(columns) + "|"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(cell: Cell, digits: int = 1) -> str:
    return f"{100 * cell['mean']:.{digits}f} +- {100 * cell['spread']:.{digits}f}"


def _with_share(cell: Cell) -> str:
    beside = f" ({_percent(cell['share'])}, {_percent(cell['precision'])})" if "share" in cell else ""
    return _shown(cell) + beside


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _share(share: float) -> str:
    return f"{100 * share:g} %"


if __name__ == "__main__":
    main()
