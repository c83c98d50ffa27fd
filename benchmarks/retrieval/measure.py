"""Retrieval: what rows of an open pool are worth that `coevo-ray retrieve` takes, beside random rows and simple rules.

    python -m benchmarks.retrieval --json --data URI [--rows N] [--seeds K] [--first-seed S] [--work DIR]
    python -m benchmarks.retrieval --json --quick

A gate asks for a quarter of an own pool's labels. Then each method takes rows of an open pool, their labels join the
own ones, and a linear head is fitted and judged on test rows. Own and open pool are drawn anew for each seed, in three
settings: from the same data; the own pool without one class and with few rows of two others; half of the open pool
near-copies and rows of other data.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import busiest, cores, finish, in_child, note, parser, positive, rows_of
from benchmarks.labels.measure import DECAY_ROWS, DIGITS_DECAY_ROWS
from benchmarks.policies.data import encode_images
from benchmarks.retrieval.data import SETTINGS, encode_foreign, image_size
from benchmarks.retrieval.summary import setting_of

FIRST_SEED = 10  # earlier ones were looked at while defaults were chosen
ROUNDS = 5  # of the gate before
OWN_LABELS = 0.05  # of the training images: a quarter of the own pool
BUDGETS = (0.01, 0.04)  # of the training images


@dataclass(frozen=True)
class Plan:
    """What all tasks share.

    Attributes:
        file: encoded images.
        foreign: encoded images of other data.
        counts: own labels after each round of the gate.
        budgets: rows to retrieve.
        decay_rows: weight decay of the head, times labels.
    """

    file: Path
    foreign: Path
    counts: list[int]
    budgets: list[int]
    decay_rows: float


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 50_000, 1_400)
    made.add_argument("--data", help="folder of train-*.parquet and test-*.parquet; otherwise scikit-learn's digits")
    made.add_argument("--seeds", type=positive, default=8, help="repeats, each with other pools")
    made.add_argument("--first-seed", type=int, default=FIRST_SEED, help="the first of them")
    made.add_argument("--work", help="folder that keeps the encoded images for the next run")
    arguments = made.parse_args()
    repeats = min(arguments.seeds, 2) if arguments.quick else arguments.seeds
    seeds = range(arguments.first_seed, arguments.first_seed + repeats)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.work or temporary)
        encoded = in_child(encode_images, arguments.data, folder, rows_of(arguments))
        rows, size = image_size(encoded.result)
        foreign = in_child(encode_foreign, folder, rows // 10, size, bool(arguments.data))
        decay_rows = DECAY_ROWS if arguments.data else DIGITS_DECAY_ROWS
        plan = Plan(encoded.result, foreign.result, counts_of(rows), [round(b * rows) for b in BUDGETS], decay_rows)
        tasks = [(setting, seed) for setting in SETTINGS for seed in seeds]
        done = list(run(plan, tasks))
    result = {
        "rows": rows,
        "own_rows": rows // 5,
        "open_rows": 2 * rows // 5,
        "own_labels": plan.counts[-1],
        "budgets": plan.budgets,
        "repeats": repeats,
        "first_seed": arguments.first_seed,
        "workers": cores(),
        "decay_rows": decay_rows,
        "settings": {
            name: setting_of([f for (s, _), f in zip(tasks, done, strict=True) if s == name]) for name in SETTINGS
        },
        "busy_before": busiest([encoded, foreign]),
    }
    finish("retrieval", result, arguments.json)


def counts_of(rows: int) -> list[int]:
    """Own labels after each round."""
    return [round(OWN_LABELS * rows * (i + 1) / ROUNDS) for i in range(ROUNDS)]


def run(plan: Plan, tasks: list[tuple[str, int]]) -> Iterator[dict[str, Any]]:
    """Results of settings and seeds, in as many processes of one thread as there are cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), mp_context=context, initializer=_one_thread) as workers:
        waiting = [workers.submit(do, plan, *task) for task in tasks]
        for number, (task, future) in enumerate(zip(tasks, waiting, strict=True), 1):
            found = future.result()
            last = {name: f"{of[plan.budgets[-1]]['accuracy']:.4f}" for name, of in found["methods"].items()}
            note(f"{number}/{len(tasks)} {task[0]} {task[1]}: {last}")
            yield found


def do(plan: Plan, setting: str, seed: int) -> dict[str, Any]:
    """One setting and seed; runs in a worker process."""
    from benchmarks.retrieval.data import make_case
    from benchmarks.retrieval.summary import run_case

    case = make_case(plan.file, plan.foreign, setting, seed)
    return run_case(case, seed, plan.counts, plan.budgets, plan.decay_rows)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
