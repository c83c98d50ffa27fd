"""Labels against accuracy: how many labels each way to choose rows needs for a head on frozen features.

    python -m benchmarks.labels --json --data URI [--rows N] [--seeds K] [--network N [--networks-only]]
        [--work DIR]
    python -m benchmarks.labels --json --quick

The head is linear, on principal components of EfficientNet-Lite0's features. Within a seed all methods start from the
same random rows. Queries of scikit-activeml that are too slow for all rows run on a smaller pool, with the gate beside
them; the gate and simple rules also run on a skewed one, in which the smallest class is 50 times rarer than the
largest. The gate's own stop rule runs on the clean pool, on one that is half near-copies, and on the skewed one. With
--network EfficientNet-Lite0 is fine-tuned on so many of the images, with all labels and with three tenths of them, also
semi-supervised; --networks-only does nothing else.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.common import busiest, cores, finish, in_child, note, parser, positive, rows_of
from benchmarks.labels.data import PICTURES, POOLS, SKEWED, SMALL, make_pools
from benchmarks.labels.summary import networks, stops, table_of, with_pseudo_labels
from benchmarks.policies.data import encode_images

SHARES = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
QUICK_SHARES = (0.02, 0.1, 0.3, 0.6)
SEMI_SHARE = 0.3
# Of 3 to 100, what is best for a head on 500 to 2 000 labels of CIFAR-10, and of digits.
DECAY_ROWS = 100.0
DIGITS_DECAY_ROWS = 3.0
SMALL_ROWS = 5000
QUICK_SMALL_ROWS = 400
NETWORK_SEEDS = 2  # a training takes minutes
Task = tuple[str, str, str, int]  # what is done; on which pool; method; seed


@dataclass(frozen=True)
class Plan:
    """What all tasks share.

    Attributes:
        folder: of the pools.
        file: encoded images.
        shares: of the labels after each round.
        decay_rows: weight decay of the head, times labels.
        quick: whether networks are hardly trained.
    """

    folder: Path
    file: Path
    shares: tuple[float, ...]
    decay_rows: float
    quick: bool = False

    @property
    def early(self) -> Plan:
        """Up to the share of labels of semi-supervised learning."""
        return replace(self, shares=tuple(share for share in self.shares if share <= SEMI_SHARE))


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 50_000, 1_400)
    made.add_argument("--data", help="folder of train-*.parquet and test-*.parquet; otherwise scikit-learn's digits")
    made.add_argument("--seeds", type=positive, default=5, help="repeats of each method, from other first rows")
    made.add_argument("--small-rows", type=positive, help=f"rows of the small pool; otherwise {SMALL_ROWS:,}")
    made.add_argument("--decay-rows", type=float, help="weight decay of the head, times labels")
    made.add_argument("--network", type=positive, help="images that a small network is trained on; otherwise none is")
    made.add_argument("--networks-only", action="store_true", help="with --network: no heads")
    made.add_argument("--work", help="folder that keeps the encoded images for the next run")
    arguments = made.parse_args()
    if arguments.networks_only and not arguments.network:
        made.error("--networks-only needs --network N")
    seeds = min(arguments.seeds, 2) if arguments.quick else arguments.seeds
    parts = {SMALL: arguments.small_rows or (QUICK_SMALL_ROWS if arguments.quick else SMALL_ROWS)}
    if arguments.network:
        parts[PICTURES] = arguments.network
    with tempfile.TemporaryDirectory() as temporary:
        encoded = in_child(encode_images, arguments.data, Path(arguments.work or temporary), rows_of(arguments))
        pools = in_child(make_pools, encoded.result, Path(temporary), parts, cores())
        shares = QUICK_SHARES if arguments.quick else SHARES
        decay_rows = arguments.decay_rows or (DECAY_ROWS if arguments.data else DIGITS_DECAY_ROWS)
        plan = Plan(Path(temporary), encoded.result, shares, decay_rows, arguments.quick)
        tasks = tasks_of(seeds, network=bool(arguments.network), heads=not arguments.networks_only)
        done = dict(run(plan, tasks))
    result = {
        "rows": rows_of(arguments),
        "repeats": seeds,
        "workers": cores(),
        "decay_rows": decay_rows,
        **({} if arguments.networks_only else heads(done, plan, parts[SMALL])),
        "networks": networks(done),
        "busy_before": busiest([encoded, pools]),
    }
    finish("labels", result, arguments.json)


def heads(done: dict[Task, Any], plan: Plan, small_rows: int) -> dict[str, Any]:
    """The result's part on heads."""
    return {
        "peer": f"scikit-activeml {version('scikit-activeml')}",
        **table_of(done, "clean", plan.shares),
        "small_pool": {"rows": small_rows, **table_of(done, SMALL, plan.shares)},
        "skewed_pool": table_of(done, SKEWED, plan.shares),
        "stop": stops(done, POOLS),
        "pseudo_labels": with_pseudo_labels(done, plan.early.shares),
    }


def tasks_of(seeds: int, *, network: bool = False, heads: bool = True) -> list[Task]:
    """Everything that is measured, pool by pool."""
    from benchmarks.labels.method import RANKING
    from benchmarks.labels.methods import FROM_THE_TOP, GATE, GATES, GREEDY, SIMPLE
    from benchmarks.labels.network import ROWS

    tasks: list[Task] = []
    parts = (
        ("clean", (*GATES, *SIMPLE, *RANKING)),
        (SMALL, (GATE, FROM_THE_TOP, *SIMPLE, *GREEDY)),
        (SKEWED, (GATE, FROM_THE_TOP, *SIMPLE)),
    )
    for name, methods in parts if heads else ():
        tasks.append(("full", name, "full", 0))
        tasks += [("curve", name, method, seed) for method in methods for seed in range(seeds)]
    if heads:
        tasks += [("semi", "clean", "semi", seed) for seed in range(seeds)]
        tasks += [("stop", name, "stop", seed) for name in POOLS for seed in range(seeds)]
    if network:
        tasks += [("network", PICTURES, row, seed) for row in ROWS for seed in range(min(seeds, NETWORK_SEEDS))]
    return tasks


def run(plan: Plan, tasks: list[Task]) -> Iterator[tuple[Task, Any]]:
    """Results of tasks, in as many processes of one thread as there are cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), mp_context=context, initializer=_one_thread) as workers:
        waiting = [(task, workers.submit(do, plan, task)) for task in tasks]
        for number, (task, future) in enumerate(waiting, 1):
            found = future.result()
            note(f"{number}/{len(tasks)} {' '.join(str(part) for part in task)}: {_short(found)}")
            yield task, found


def _short(found: dict[str, Any]) -> str:
    last = found["accuracy"][-1] if isinstance(found["accuracy"], list) else found["accuracy"]
    stopped = f", stopped by {found['stopped_by']} at {found['share']:.0%}" if "stopped_by" in found else ""
    return f"{last:.4f}{stopped}, {found['seconds']:.1f} s"


def do(plan: Plan, task: Task) -> dict[str, Any]:
    """One task; runs in a worker process."""
    from benchmarks.labels.curve import counts_of, curve, on_all_labels
    from benchmarks.labels.data import load_pool
    from benchmarks.labels.network import TRAINING, train_row
    from benchmarks.labels.semi import semi_curve
    from benchmarks.labels.stop import run_to_stop

    kind, name, method, seed = task
    pool, decay_rows = load_pool(plan.folder / f"{name}.npz"), plan.decay_rows
    if kind == "full":
        return on_all_labels(pool, decay_rows)
    if kind == "stop":
        return run_to_stop(pool, seed)
    if kind == "curve":
        return curve(pool, method, seed, counts_of(pool, plan.shares), decay_rows)
    early = counts_of(pool, plan.early.shares)
    if kind == "semi":
        return semi_curve(pool, seed, early, decay_rows)
    training = {**TRAINING, "epochs": 1, "epoch_steps": 2} if plan.quick else TRAINING
    return train_row(pool, plan.file, method, seed, early, decay_rows, training)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
