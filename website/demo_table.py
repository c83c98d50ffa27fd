"""The table of the demo's set-up in docs/start.md, from benchmarks/results/demo-*.json: `python -m website.demo_table`.

Each simple alternative that was measured has a row, those that are better than ours among them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "start.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- demo: made by python -m website.demo_table -->\n\n", "\n<!-- /demo -->\n"
# Part of the result -> its row, the cell that is shown, and ours.
_PARTS = {
    "targets": ("targets, all labels", "1", "targets"),
    "gate": ("labels: a fifth", "0.2", "gate"),
    "policies": ("30 % of the rows per epoch", "0.3", "factors"),
}
_NAMES = {
    "full": "all rows",
    "full_budget": "all rows, fewer epochs",
    "margin": "smallest margin",
    "random": "random rows",
    "rotation": "rotation",
    "pixels": "the pixels themselves",
}


def table() -> str:
    """The table, in Markdown."""
    found = {pool: _read(pool) for pool in ("digits", "docstrings")}
    lines = ["| decided | pool | simple way | its accuracy | coevo-ray | points | |", "|---|---|---|---|---|---|---|"]
    for part, (decided, at, ours) in _PARTS.items():
        for pool, run in found.items():
            each = run["pools"][pool]
            cells, verdicts = each[part][at], each["verdicts"][part][at]
            for simple in sorted(verdicts, key=lambda name: -float(cells[name]["mean"])):
                lines.append(_row(decided, pool, simple, cells, verdicts[simple], ours))
    draws = " and ".join(f"{len(run['seeds'])} draws of the {pool}" for pool, run in found.items())
    return "\n".join([*lines, "", f"Mean over {draws}, with the standard error of the difference."]) + "\n"


def _read(pool: str) -> Any:
    return json.loads((RESULTS / f"demo-{pool}.json").read_text(encoding="utf-8"))


def _row(decided: str, pool: str, simple: str, cells: Any, said: Any, ours: str) -> str:
    name = _NAMES.get(simple, f"{simple} alone")
    before, after = 100 * cells[simple]["mean"], 100 * cells[ours]["mean"]
    difference = f"{said['points']:+.1f} ± {said['standard_error']:.1f}"
    return f"| {decided} | {pool} | {name} | {before:.1f} | {after:.1f} | {difference} | {said['verdict']} |"


def main() -> None:
    """Writes the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no place for the table")
    PAGE.write_text(head + BEGIN + table() + END + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
