"""The README's table of what coevo-ray is worth, from the results: `python -m website.worth` writes it into README.md.

Accuracy in percent on test rows. Each row of the table has a cell of `benchmarks/results/*.json` beside the best simple
alternative that was measured with it; lost ones stay in.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- worth: made by python -m website.worth -->\n\n", "\n<!-- /worth -->\n"
_POOLS = {"banking77": "banking77", "cifar10": "CIFAR-10", "digits": "digits", "tiny_imagenet": "Tiny-ImageNet"}
_SIMPLE = {
    "full_budget": "all rows, fewer epochs",
    "margin": "smallest margin",
    "random": "random rows",
    "rotation": "rotation",
    "scratch": "from scratch",
    "single:efficientnet_lite:1": "best prior alone",
    "single:tfidf_chars": "best prior alone",
}


@dataclass(frozen=True)
class Cell:
    """A comparison: what is decided, where, by what simple means, both accuracies in [0, 1], and the verdict."""

    question: str
    pool: str
    simple: str
    before: float
    after: float
    verdict: str

    def row(self) -> str:
        """The cell as a line of the table."""
        before, after = 100 * self.before, 100 * self.after
        simple = _SIMPLE[self.simple]
        return f"| {self.question} | {_POOLS[self.pool]} | {simple} {before:.1f} | {after:.1f} | {self.verdict} |"


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _targets(pool: str, file: str) -> Cell:
    found = _read(file)
    verdict, table = found["verdicts"][pool]["coverage_all"]["linear"], found["table"][pool]
    against = verdict["against"]
    return Cell(
        "targets: all priors on each row",
        pool,
        against,
        table[against]["linear"],
        table["coverage_all"]["linear"],
        verdict["verdict"],
    )


def _labels(pool: str, setting: str, share: str, told: str) -> Cell:
    found = _read("battery-labels")
    verdict, table = found["verdicts"][pool][setting][share]["gate"], found["table"][pool][setting]
    against = verdict["against"]
    before, after = (table[method][share]["mean"] for method in (against, "gate"))
    return Cell(f"labels: {told}", pool, against, before, after, verdict["verdict"])


def _policy(pool: str, setting: str, kept: str, told: str) -> Cell:
    found = _read("battery-policies")
    verdict, table = found["verdicts"][pool][setting][kept]["factors"], found["table"][pool][setting][kept]
    against = verdict["against"]
    before, after = (table[policy]["mean"] for policy in (against, "factors"))
    return Cell(f"30 % of the rows per epoch: {told}", pool, against, before, after, verdict["verdict"])


def _head_start(pool: str) -> Cell:
    found = _read(f"head-start-{pool}")["table"][pool]["1"]
    before, after = found["scratch"][-1], found["consensus"][-1]
    won = after["accuracy"] - before["accuracy"] > 2 * (after["spread"] ** 2 + before["spread"] ** 2) ** 0.5
    return Cell(
        "network first trained on targets",
        pool,
        "scratch",
        before["accuracy"],
        after["accuracy"],
        "won" if won else "even",
    )


def cells() -> list[Cell]:
    """The comparisons of the table, in its order."""
    return [
        _targets("tiny_imagenet", "battery-targets-images"),
        _targets("banking77", "battery-targets-texts"),
        _head_start("cifar10"),
        _labels("banking77", "clean", "0.1", "a tenth"),
        _labels("digits", "long_tail", "0.2", "a fifth, long tail"),
        _labels("cifar10", "clean", "0.2", "a fifth"),
        _policy("banking77", "long_tail", "0.3", "long tail"),
        _policy("tiny_imagenet", "pair_noise", "0.3", "wrong labels"),
        _policy("cifar10", "clean", "0.3", "clean"),
        _policy("digits", "copies", "0.3", "copies"),
    ]


def told() -> str:
    """A sentence on all cells of two kinds, since the table has few."""
    labels = _count("battery-labels", "0.2", "gate")
    policies = _count("battery-policies", "0.3", "factors")
    return (
        "All cells, five pools in five settings each: at a fifth of the labels the gate "
        f"won {labels['won']}, was even in {labels['even']} and lost {labels['lost']};\n"
        "at 30 % of the rows `factors` "
        f"won {policies['won']}, was even in {policies['even']} and lost {policies['lost']}.\n"
    )


def _count(name: str, share: str, method: str) -> Counter[str]:
    verdicts = _read(name)["verdicts"].values()
    return Counter(setting[share][method]["verdict"] for pool in verdicts for setting in pool.values())


def table() -> str:
    """The table as Markdown, with its marks and a sentence on all cells."""
    head = "| decided | pool | best simple way | coevo-ray | verdict |\n|---|---|---|---|---|\n"
    return BEGIN + head + "".join(cell.row() + "\n" for cell in cells()) + "\n" + told() + END


def replace(page: str) -> str:
    """Puts the table between the marks of a page."""
    before, rest = page.split(BEGIN)
    return before + table() + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(replace(README.read_text(encoding="utf-8")), encoding="utf-8")
