"""What `benchmarks.policies.measure` printed as tables for people.

    python -m benchmarks.policies.table benchmarks/results/policies.json > benchmarks/results/policies.md

A cell is lost where a baseline is ahead of `factors` by more than the larger of both spreads, won where `factors` is
ahead of all of them by more than that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OURS = "factors"
# What `factors` is compared with: as many visits, and no knowledge of the settings.
BASELINES = (
    *("full_budget", "rotation", "random", "static_random", "scored"),
    *("infobatch", "rho_loss", "order_dp", "repb", "rcap", "seta", "loss", "entropy"),
)

Cell = dict[str, Any]


def main() -> None:
    """Reads the file that is named and prints the tables."""
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8").strip().splitlines()[-1])
    print("\n".join(lines(result)))


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The page."""
    yield "# Policies"
    yield ""
    yield (
        f"Accuracy in percent, mean over classes, +- standard deviation over {result['repeats']} seeds; a head of "
        f"{result['head']['hidden']} hidden units on frozen features of {result['rows']:,} images, "
        f"{result['head']['epochs']} epochs. In brackets visits, counted, of one training, and seconds of all "
        "seeds together, + those of preparing what the policy looks at. `python -m benchmarks.policies.table`."
    )
    for setting, by_keep in result["table"].items():
        yield from _table(setting, by_keep)


def _table(setting: str, by_keep: dict[str, dict[str, Cell]]) -> Iterator[str]:
    shares = list(by_keep)
    yield from (
        "",
        f"## {setting}",
        "",
        "| kept share | " + " | ".join(shares) + " |",
        "|---" * (len(shares) + 1) + "|",
    )
    for row in by_keep[shares[0]]:
        yield f"| {row} | " + " | ".join(shown(by_keep[share][row]) for share in shares) + " |"
    yield ""
    for share in shares:
        yield f"- {share}: {verdict(by_keep[share])}"


def shown(cell: Cell) -> str:
    """A cell's accuracy, spread, visits and seconds."""
    before = f" + {cell['preparation_seconds']:.0f}" if cell.get("preparation_seconds") else ""
    spent = f"{cell['visits']:,} x, {cell['seconds']:.0f}{before} s"
    return f"{100 * cell['mean']:.1f} +- {100 * cell['spread']:.1f} ({spent})"


def verdict(cells: dict[str, Cell]) -> str:
    """How `factors` stands against the baselines."""
    ours = cells[OURS]
    margins = {row: _ahead(ours, cells[row]) for row in BASELINES if row in cells}
    lost = {row: m for row, m in margins.items() if m < -max(ours["spread"], cells[row]["spread"])}
    best = max((row for row in BASELINES if row in cells), key=lambda row: cells[row]["mean"])
    if lost:
        return "lost to " + ", ".join(f"{row} by {-100 * m:.1f}" for row, m in lost.items())
    if all(m > max(ours["spread"], cells[row]["spread"]) for row, m in margins.items()):
        return f"won, by {100 * margins[best]:.1f} against {best}"
    return f"even with {best} ({100 * margins[best]:+.1f})"


def _ahead(ours: Cell, other: Cell) -> float:
    return float(ours["mean"] - other["mean"])


if __name__ == "__main__":
    main()
