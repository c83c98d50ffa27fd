"""Policies: accuracy of heads on frozen features, under every policy, at equal visits.

    python -m benchmarks.policies --json --data URI [--rows N] [--seeds K] [--work DIR]
    python -m benchmarks.policies --json --quick

Four pools are made of one data set: clean, a fifth of the labels wrong, the smallest class 50 times rarer than the
largest, and nine tenths near-copies. Accuracy is the mean over classes on the same clean test split; all seeds of a row
are trained side by side, each with a ledger of its own. Networks are trained by `benchmarks.battery networks`.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import busiest, finish, in_child, note, parser, positive, rows_of
from benchmarks.policies.data import SETTINGS, encode_images, make_setting
from benchmarks.policies.heads import Head, train_heads
from coevo_ray.core.selection.policies import KeptShares

KEPT = (0.1, 0.3, 0.5, 0.7)
_BARE = {"max_doubt": 1.0, "share_copies": False, "quota_power": 1.0}
# Row of the table -> policy and its options. Parts of `factors` stand alone too, to see what each is worth.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "full_budget": ("full_budget", {}),
    "static_random": ("static_random", {}),
    "random": ("random", {}),
    "rotation": ("rotation", {}),
    "rotation_equal_classes": ("rotation", {"class_power": 0.0}),
    "scored": ("scored", {}),
    "infobatch": ("infobatch", {}),
    "rho_loss": ("rho_loss", {}),
    "order_dp": ("order_dp", {}),
    "repb": ("repb", {}),
    "rcap": ("rcap", {}),
    "seta": ("seta", {}),
    "loss": ("loss", {}),
    "entropy": ("entropy", {}),
    "factors": ("factors", {}),
    "factors_bare": ("factors", _BARE),
    "factors_doubt": ("factors", {**_BARE, "max_doubt": 0.25}),
    "factors_half_doubt": ("factors", {"max_doubt": 0.5}),
    "factors_copies": ("factors", {**_BARE, "share_copies": True}),
    "factors_classes": ("factors", {**_BARE, "quota_power": 0.0}),
}
# What `full` does is the same for every kept share: trained once for each pool.
_ONCE = "full"


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 50_000, 1_400)
    made.add_argument("--data", help="folder of train-*.parquet and test-*.parquet; otherwise scikit-learn's digits")
    made.add_argument("--seeds", type=positive, default=5, help="trainings of each row")
    made.add_argument("--epochs", type=positive, default=20, help="epochs of the full schedule")
    made.add_argument("--hidden", type=int, default=256, help="units of the head's hidden layer, 0 for a linear head")
    made.add_argument("--work", help="folder that keeps the encoded images for the next run")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.work or temporary)
        children = [in_child(encode_images, arguments.data, folder, rows_of(arguments))]
        table: dict[str, Any] = {}
        for setting in SETTINGS:
            seeds = min(arguments.seeds, 2) if arguments.quick else arguments.seeds
            kept = KEPT[:2] if arguments.quick else KEPT
            head = Head(hidden=arguments.hidden, epochs=4 if arguments.quick else arguments.epochs)
            children.append(in_child(measure, children[0].result, setting, kept, head, seeds))
            table[setting] = children[-1].result
    result = {
        "rows": rows_of(arguments),
        "head": {"hidden": head.hidden, "epochs": head.epochs},
        "repeats": seeds,
        "table": table,
        "busy_before": busiest(children),
    }
    finish("policies", result, arguments.json)


def measure(file: Path, name: str, kept: tuple[float, ...], head: Head, seeds: int) -> dict[str, Any]:
    """One pool's part of the table; runs in a child process.

    Returns:
        Kept share -> row -> mean, spread (standard deviation over seeds), seconds of all seeds together, seconds of
        preparing what the policy looks at, and visits of a seed.
    """
    setting = make_setting(file, name, seed=0)
    note(f"{name}: {len(setting.labels):,} rows, {(setting.doubt > 0.25).mean():.1%} doubted")
    part: dict[str, Any] = {}
    once: dict[str, Any] = {}
    for keep in kept:
        part[str(keep)] = {}
        for row, (policy, options) in ROWS.items():
            if row == _ONCE and once:
                part[str(keep)][row] = once
                continue
            trained = train_heads(setting, policy, options, KeptShares(keep), head, list(range(seeds)))
            cell = _cell(trained["accuracy"], trained["seconds"], trained["visits"])
            part[str(keep)][row] = {**cell, "preparation_seconds": round(trained["preparation_seconds"], 2)}
            once = part[str(keep)][row] if row == _ONCE else once
            note(f"{name} {keep} {row}: {part[str(keep)][row]}")
    return part


def _cell(accuracy: list[float], seconds: float, visits: int) -> dict[str, Any]:
    return {
        "mean": round(statistics.fmean(accuracy), 4),
        "spread": round(statistics.stdev(accuracy), 4) if len(accuracy) > 1 else 0.0,
        "seconds": round(seconds, 2),
        "visits": visits,
    }
