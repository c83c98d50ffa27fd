"""Labels against accuracy: how many labels each way to choose rows needs for a head on frozen features.

    python -m benchmarks.labels --json --data URI [--rows N] [--seeds K] [--network N] [--work DIR]
    python -m benchmarks.labels --json --quick

The head is linear, on principal components of EfficientNet-Lite0's features. Within a seed all methods start from the
same random rows. Queries of scikit-activeml that are too slow for all rows run on a smaller pool, with the gate beside
them. The gate's own stop rule runs on three pools: clean, half near-copies, and the smallest class 50 times rarer than
the largest. With --network a small ResNet is trained from scratch on so many of the images, with all labels and with
three tenths of them, also semi-supervised.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks._labels_summary import stops, table_of, with_pseudo_labels
from benchmarks._policies_data import encode_images
from benchmarks.common import Child, busiest, cores, finish, in_child, note, parser, positive, rows_of

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


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 50_000, 1_400)
    made.add_argument("--data", help="folder of train-*.parquet and test-*.parquet; otherwise scikit-learn's digits")
    made.add_argument("--seeds", type=positive, default=5, help="repeats of each method, from other first rows")
    made.add_argument("--small-rows", type=positive, help=f"rows of the small pool; otherwise {SMALL_ROWS:,}")
    made.add_argument("--decay-rows", type=float, help="weight decay of the head, times labels")
    made.add_argument("--network", type=positive, help="images that a small network is trained on; otherwise none is")
    made.add_argument("--work", help="folder that keeps the encoded images for the next run")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        encoded = in_child(encode_images, arguments.data, Path(arguments.work or temporary), rows_of(arguments))
        result, children = measure(arguments, encoded.result, folder)
        children.append(encoded)
        if arguments.network:
            from benchmarks._labels_network import TRAINING, measure_networks

            training = {**TRAINING, "epochs": 1, "epoch_steps": 2} if arguments.quick else TRAINING
            early = [share for share in result["shares"] if share <= SEMI_SHARE]
            given = (arguments.network, early, result["decay_rows"], min(arguments.seeds, NETWORK_SEEDS), training)
            children.append(in_child(measure_networks, encoded.result, folder / "networks", *given))
            result["networks"] = children[-1].result
    finish("labels", {**result, "busy_before": busiest(children)}, arguments.json)


def measure(arguments: argparse.Namespace, file: Path, folder: Path) -> tuple[dict[str, Any], list[Child]]:
    """All but the networks.

    Args:
        arguments: of the command line.
        file: encoded images.
        folder: gets the pools.

    Returns:
        The result, and the child processes that made the pools.
    """
    from benchmarks._labels_data import POOLS, SMALL, make_pools

    small = arguments.small_rows or (QUICK_SMALL_ROWS if arguments.quick else SMALL_ROWS)
    shares = QUICK_SHARES if arguments.quick else SHARES
    seeds = min(arguments.seeds, 2) if arguments.quick else arguments.seeds
    child = in_child(make_pools, file, folder, (*POOLS, SMALL), small, cores())
    decay_rows = arguments.decay_rows or (DECAY_ROWS if arguments.data else DIGITS_DECAY_ROWS)
    done = dict(run(folder, tasks_of(seeds), shares, decay_rows))
    return {
        "rows": rows_of(arguments),
        "repeats": seeds,
        "workers": cores(),
        "peer": f"scikit-activeml {version('scikit-activeml')}",
        "decay_rows": decay_rows,
        **table_of(done, "clean", shares),
        "small_pool": table_of(done, SMALL, shares),
        "stop": stops(done, POOLS),
        "pseudo_labels": with_pseudo_labels(done, [share for share in shares if share <= SEMI_SHARE]),
        "networks": None,
    }, [child]


def tasks_of(seeds: int) -> list[Task]:
    """Everything that is measured, pool by pool."""
    from benchmarks._labels_data import POOLS, SMALL
    from benchmarks._labels_methods import GATE, GATES, GREEDY, RANKING, SIMPLE

    tasks: list[Task] = []
    for name, methods in (("clean", (*GATES, *SIMPLE, *RANKING)), (SMALL, (GATE, *SIMPLE, *GREEDY))):
        tasks.append(("full", name, "full", 0))
        tasks += [("curve", name, method, seed) for method in methods for seed in range(seeds)]
    tasks += [("semi", "clean", "semi", seed) for seed in range(seeds)]
    tasks += [("stop", name, "stop", seed) for name in POOLS for seed in range(seeds)]
    return tasks


def run(folder: Path, tasks: list[Task], shares: tuple[float, ...], decay_rows: float) -> Iterator[tuple[Task, Any]]:
    """Results of tasks, in as many processes of one thread as there are cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), mp_context=context, initializer=_one_thread) as pool:
        waiting = [(task, pool.submit(do, folder, task, shares, decay_rows)) for task in tasks]
        for number, (task, future) in enumerate(waiting, 1):
            found = future.result()
            note(f"{number}/{len(tasks)} {' '.join(str(part) for part in task)}: {_short(found)}")
            yield task, found


def _short(found: Any) -> str:
    if isinstance(found, float):
        return f"{found:.4f}"
    shown = {key: value for key, value in found.items() if key in ("stopped_by", "share", "seconds")}
    last = found["accuracy"][-1] if isinstance(found["accuracy"], list) else found["accuracy"]
    return f"{last:.4f} {shown}"


def do(folder: Path, task: Task, shares: tuple[float, ...], decay_rows: float) -> Any:
    """One task; runs in a worker process."""
    from benchmarks._labels_curve import counts_of, curve, full_accuracy
    from benchmarks._labels_data import load_pool
    from benchmarks._labels_semi import semi_curve
    from benchmarks._labels_stop import run_to_stop

    kind, name, method, seed = task
    pool = load_pool(folder / f"{name}.npz")
    counts = counts_of(pool, shares)
    if kind == "full":
        return full_accuracy(pool, decay_rows)
    if kind == "semi":
        early = counts_of(pool, [share for share in shares if share <= SEMI_SHARE])
        return semi_curve(pool, seed, early, decay_rows)
    if kind == "stop":
        return run_to_stop(pool, seed)
    return curve(pool, method, seed, counts, decay_rows)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
