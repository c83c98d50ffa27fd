"""Targets: does the knowledge sit in the data? A fresh network on stored targets against BYOL and others.

    python -m benchmarks.targets --json --data URI [--rows N] [--epochs N,...] [--seeds K] [--work DIR]
    python -m benchmarks.targets --json --quick

Each training runs in a process of its own, one after another, with the same backbone, views, optimizer and schedule.
Finished parts are kept in the working folder: the same command continues there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common import cores, fill_in, finish, middle, note, parser, positive, rows_of, spread
from benchmarks.parts import Parts
from benchmarks.targets import tables as tables
from benchmarks.targets.learners import Training, train_on_targets, train_peer

# Row of the result -> target table that it is trained on, and whose encoding that needs.
ON_TARGETS = {
    "single_best": ("single_best", "single_best"),
    "collaborative_aligned": ("collaborative", "collaborative"),
    "collaborative_unaligned": ("collaborative_unaligned", "collaborative"),
    "weak_aligned": ("weak", "weak"),
    "weak_unaligned": ("weak_unaligned", "weak"),
    "weak_reference": ("weak_reference", "weak"),
}
# Table -> the one whose contributions are merged again, and how.
VARIANTS = {
    "collaborative_unaligned": ("collaborative", {"alignment": "none"}),
    "weak_unaligned": ("weak", {"alignment": "none"}),
    "weak_reference": ("weak", {"reference": tables.UNTRAINED}),
}
OURS = "collaborative_aligned"
PEERS = ("random", "supervised", "byol")
EQUAL_TIME = ("byol_equal_training_seconds", "byol_equal_seconds")
NAMES = (*PEERS, *ON_TARGETS, *EQUAL_TIME, "sweep")


class Run:
    """One run of the benchmark over one pool.

    Args:
        arguments: of the command line.
        folder: working folder of these data.
        parts: finished parts.
    """

    def __init__(self, arguments: Namespace, folder: Path, parts: Parts) -> None:
        self.arguments, self.folder, self.parts = arguments, str(folder), parts
        self.data = {name: getattr(arguments, name) for name in ("data", "rows", "test_rows")}
        self.encoding = {"dim": arguments.dim, "shared": arguments.shared}
        self.pool = parts.get(
            "pool", self.data, tables.make_pool, self.folder, arguments.data, rows_of(arguments), arguments.test_rows
        )

    def encoded(self, name: str) -> Any:
        """Encodes the pool with some participants, once."""
        dim, shared = self.arguments.dim, self.arguments.shared
        if name == "wide":
            dim, shared = tables.WIDE_DIM, max(self.arguments.sweep_shared)
        compute = {"actors": self.arguments.actors, "cpus": 0.5, "gpus": self.arguments.gpus}
        settings = {**self.data, "dim": dim, "shared": shared}
        return self.parts.get(f"encode-{name}", settings, tables.encode_table, self.folder, name, dim, shared, compute)

    def variant(self, name: str) -> Any:
        """Makes a table from the contributions of another one; judges it, as every table."""
        settings = {**self.data, **self.encoding}
        if name in VARIANTS:
            of, config = VARIANTS[name]
            self.parts.get(f"table-{name}", settings, tables.merge_again, self.folder, of, name, config)
        return self.parts.get(f"judge-{name}", settings, tables.judge_table, self.folder, name)

    def training(self, seed: int) -> Training:
        """What the trainings of one seed share."""
        a = self.arguments
        rates = {"targets": a.learning_rate, "supervised": a.learning_rate, "byol": a.byol_learning_rate}
        return Training(
            pool=f"{self.folder}/pool",
            model=a.model,
            image_size=a.image_size,
            batch_rows=a.batch_rows,
            learning_rate=rates,
            weight_decay=a.weight_decay,
            precision=a.precision,
            threads=cores(),
            gpus=a.gpus,
            seed=seed,
        )

    def train(self, name: str, epochs: int, seed: int) -> Any:
        """One training of one row; None when time is up."""
        training = self.training(seed)
        part = f"train-{name}-{epochs}-{seed}"
        settings = {**self.data, **asdict(training), "epochs": epochs}
        if name in ON_TARGETS:
            table, of = ON_TARGETS[name]
            encoded, judged = self.encoded(of), self.variant(table)
            if encoded is None or judged is None:
                return None
            settings |= self.encoding
            out = f"{self.folder}/models/{part}-{tables.digest_of(settings)}"
            place = tables.table_path(self.folder, table)
            found = self.parts.get(part, settings, train_on_targets, training, place, epochs, out)
            if found is None:
                return None
            both = found["seconds"] + encoded["seconds"]
            return {**found, "seconds_with_encoding": both, "targets": judged, "encoding": encoded}
        if name in PEERS:
            return self.parts.get(part, settings, train_peer, training, name, epochs)
        ours = self.train(OURS, epochs, seed)
        if ours is None:
            return None
        seconds = ours["seconds" if name == "byol_equal_training_seconds" else "seconds_with_encoding"]
        return self.parts.get(part, {**settings, "s": seconds}, train_peer, training, "byol", epochs, seconds)

    def sweep(self) -> Any:
        """n and the shared set's size against what the targets are worth."""
        if self.encoded("wide") is None:
            return None
        a = self.arguments
        values = [a.sweep_dims, a.sweep_shared, a.dim, a.shared]
        return self.parts.get("sweep", {**self.data, "values": values}, tables.sweep, self.folder, *values)


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    deadline = None if arguments.time_limit is None else time.monotonic() + arguments.time_limit
    with tempfile.TemporaryDirectory(prefix="coevo-targets-") as temporary:
        data = {name: getattr(arguments, name) for name in ("data", "rows", "test_rows", "dim", "shared")}
        # Tables of other data or another n do not get in one another's way in one working folder.
        folder = Path(arguments.work or temporary).resolve() / tables.digest_of(data)
        parts = Parts(folder / "parts", deadline)
        run = Run(arguments, folder, parts)
        table = {name: _row(run, name) for name in NAMES if name in arguments.only and name != "sweep"}
        sweep = run.sweep() if "sweep" in arguments.only else None
    table = {name: row for name, row in table.items() if row}
    _print(table, sweep)
    result = {
        "table": table,
        "sweep": sweep,
        "repeats": arguments.seeds,
        "pool": run.pool,
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("json", "work", "data")},
        "left_out": sorted(set(parts.left_out)),
        "busy_before": round(max(parts.busy), 3),
    }
    finish("targets", result, arguments.json)
    if parts.left_out:
        note("time was up: the same command with the same --work continues")
        sys.exit(4)


def _row(run: Run, name: str) -> dict[str, Any]:
    """Epochs -> figures over the seeds; what time did not allow is missing."""
    row: dict[str, Any] = {}
    for epochs in (0,) if name == "random" else run.arguments.epochs:
        found = [run.train(name, epochs, seed) for seed in range(run.arguments.seeds)]
        found = [f for f in found if f is not None]
        if found:
            row[str(epochs)] = _figures(found)
    return row


def _figures(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the seeds, and their spread where there are several."""
    names = [n for n in ("linear_probe", "knn", "seconds", "seconds_with_encoding", "epochs") if n in found[0]]
    figures: dict[str, Any] = {n: middle([f[n] for f in found]) for n in names}
    figures["epochs_run"] = figures.pop("epochs")
    if len(found) > 1:
        figures["spread"] = {n: spread([f[n] for f in found]) for n in ("linear_probe", "knn", "seconds")}
    return {**figures, **{n: found[0][n] for n in ("targets", "encoding") if n in found[0]}}


def _print(table: dict[str, Any], sweep: Any) -> None:
    """The table for people, on stderr."""
    head = f"{'objective':28} {'epochs':>6} {'probe':>7} {'kNN':>7} {'seconds':>8} {'+encode':>8}"
    note(f"{head} {'targets: probe, kNN':>20}")
    for name, row in table.items():
        for epochs, f in row.items():
            judged = f.get("targets")
            known = f"{judged['linear_probe']:.3f}, {judged['knn']:.3f}" if judged else ""
            whole = f"{f['seconds_with_encoding']:.0f}" if "seconds_with_encoding" in f else ""
            ran = f"{f['epochs_run']:g}" if name in EQUAL_TIME else epochs
            figures = f"{f['linear_probe']:7.3f} {f['knn']:7.3f} {f['seconds']:8.0f}"
            note(f"{name:28} {ran:>6} {figures} {whole:>8} {known:>20}")
    for s in sweep or []:
        a, u = s["aligned"], s["unaligned"]
        probes = f"probe {a['linear_probe']:.3f} (unaligned {u['linear_probe']:.3f})"
        nearest = f"kNN {a['knn']:.3f} ({u['knn']:.3f})"
        note(f"n {s['dim']:4}  shared {s['shared_rows']:5}  R2 {s['alignment_r2']:.3f}  {probes}  {nearest}")


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], 50_000, 400)
    made.add_argument("--data", help="folder of Parquet (image, label), files named test-* held out; --quick: digits")
    made.add_argument("--test-rows", type=positive, help="held-out rows; otherwise a fifth of --rows")
    made.add_argument("--epochs", type=_numbers, help="epochs, or several: 5,20; otherwise 20, with --quick 2")
    made.add_argument("--seeds", type=positive, default=1, help="repeats of each training")
    made.add_argument("--model", default="benchmarks.networks:strided", help="network, as for train")
    made.add_argument("--image-size", type=positive, default=32, help="pixels of its input")
    made.add_argument("--batch-rows", type=positive, default=128, help="rows of a batch, two views each")
    made.add_argument("--learning-rate", type=float, default=0.002, help="of our objective and the supervised one")
    made.add_argument("--byol-learning-rate", type=float, default=0.002, help="of BYOL")
    made.add_argument("--weight-decay", type=float, default=0.05, help="of all")
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of all trainings")
    made.add_argument("--dim", type=positive, help="n of the targets; otherwise 128, with --quick 32")
    made.add_argument("--shared", type=positive, help="rows of the shared set; otherwise 1024, with --quick 96")
    made.add_argument("--sweep-dims", type=_numbers, help="otherwise 32,128,256, with --quick 16,32")
    made.add_argument("--sweep-shared", type=_numbers, help="otherwise 256,1024,4096, with --quick 48,96")
    made.add_argument("--actors", type=positive, default=cores(), help="actors of each prior")
    made.add_argument("--gpus", type=int, default=0, help="GPUs of each actor and each training")
    made.add_argument("--only", type=_names, default=NAMES, help=f"some of {','.join(NAMES)}")
    made.add_argument("--work", help="working folder, kept; otherwise a temporary one")
    made.add_argument("--time-limit", type=float, help="begin nothing after so many seconds, and exit with 4")
    arguments = made.parse_args()
    if arguments.data is None and not arguments.quick:
        made.error("name the data with --data, or use --quick for scikit-learn's digits")
    if {"byol", *EQUAL_TIME} & set(arguments.only) and find_spec("lightly") is None:
        made.error("BYOL needs lightly: pip install 'coevo-ray[bench]', or leave it out with --only")
    return _filled(arguments)


def _filled(arguments: Namespace) -> Namespace:
    """Settings that follow from others."""
    quick = arguments.quick
    standard = {
        "epochs": (2,) if quick else (20,),
        "dim": 32 if quick else 128,
        "shared": 96 if quick else 1024,
        "sweep_dims": (16, 32) if quick else (32, 128, 256),
        "sweep_shared": (48, 96) if quick else (256, 1024, 4096),
        "test_rows": max(1, rows_of(arguments) // 5),
        "rows": rows_of(arguments),
    }
    return fill_in(arguments, standard)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(positive(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{sorted(set(names) - set(NAMES))} are not among {', '.join(NAMES)}")
    return names
