"""Head start: is a training that starts from a network of the targets ahead of one from scratch, and for how long?

    python -m benchmarks.head_start --json --data FOLDER [--pools NAME,...] [--rows N] [--seeds K] [--work DIR]
    python -m benchmarks.head_start --json --quick

Each part runs in a process of its own, one after another. Finished parts are kept in the working folder: the same
command continues there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.battery.pools import Limits, Place, find_places
from benchmarks.battery.priors import LITE
from benchmarks.common import cores, fill_in, finish, names, note, parser, positive, rows_of
from benchmarks.head_start import starts
from benchmarks.head_start.starts import Fit, Schedule, Setup, labels_folder
from benchmarks.parts import Parts
from coevo_ray.errors import CoevoError

SCRATCH, BYOL, ONE_PRIOR, CONSENSUS = "scratch", "byol", "one_prior", "consensus"
STARTS = (SCRATCH, BYOL, ONE_PRIOR, CONSENSUS)
# Peak learning rates of the supervised trainings. Each start and share of labels has its own choice among them.
RATES = (0.002, 0.006, 0.02, 0.06, 0.2, 0.6)
_FIRST_RATE = 0.02
_FEW_EPOCHS = 40  # with a part of the labels
_QUICK_SECONDS = 5.0  # of BYOL
_STEPS_OF_EPOCH = 16  # with few labels the batch is smaller

Curve = list[dict[str, float]]


class Run:
    """The benchmark over one pool.

    Args:
        arguments: of the command line.
        place: the pool.
        folder: working folder; gets one of this pool and these settings.
        deadline: see `Parts`.
    """

    def __init__(self, arguments: Namespace, place: Place, folder: Path, deadline: float | None) -> None:
        self.a, self.place = arguments, place
        self.folder = folder / f"{place.name}-{arguments.rows}-{arguments.test_rows}"
        self.parts = Parts(self.folder / "parts", deadline)
        self.setup = Setup(
            folder=str(self.folder),
            model=arguments.model,
            image_size=arguments.image_size,
            precision=arguments.precision,
            threads=cores(),
            gpus=arguments.gpus,
        )

    def measured(self) -> dict[str, Any] | None:
        """All figures of the pool; None where time was up before the last of them."""
        a, limits = self.a, Limits(self.a.rows, self.a.test_rows)
        values = [str(self.place.folder), self.a.rows, self.a.test_rows, list(a.shares), "folds"]
        pool = self.parts.get("pools", values, starts.make_pools, self.setup, self.place, limits, a.shares)
        before = {start: self._networks(start) for start in STARTS}
        if pool is None or any(made is None for made in before.values()):
            return None
        tuned = {
            share: {start: self._rate(start, before[start], share, pool) for start in STARTS}
            for share in map(float, pool["folds"])
        }
        rates = {share: tuned[min(t for t in tuned if t >= share)] for share in a.shares}
        curves = {
            share: {start: self._fits(start, before[start], share, rates[share][start], pool) for start in STARTS}
            for share in a.shares
        }
        most = max(a.shares)
        halves = {
            start: self._fits(start, before[start], most, rates[most][start], pool, half=True)
            for start in STARTS
            if start != SCRATCH
        }
        if self.parts.left_out:
            return None
        return {"pool": pool, "before": before, "rates": rates, "curves": curves, "halves": halves}

    def _networks(self, start: str) -> dict[str, Any] | None:
        """The cost of a start before any label, and its networks, one for each seed."""
        if start == SCRATCH:
            return {"encode_seconds": 0.0, "train_seconds": 0.0, "inits": [None] * self.a.seeds}
        if start == BYOL:
            return self._byol_networks()
        encoded = self._encoded(start)
        if encoded is None:
            return None
        settings = {"epochs": self.a.target_epochs, "batch_rows": self.a.batch_rows}
        inits = [self._out(f"{start}-{seed}", settings) for seed in range(self.a.seeds)]
        made = [
            self._part(f"targets-{start}-{seed}", settings, starts.learn_targets, start, settings, seed, inits[seed])
            for seed in range(self.a.seeds)
        ]
        cost = self._cost(encoded["seconds"], made, inits)
        return None if cost is None else {**cost, "encoding": encoded}

    def _encoded(self, start: str) -> dict[str, Any] | None:
        priors: tuple[str, ...] = self.a.priors
        if start == ONE_PRIOR:
            every = self._encoded(CONSENSUS)
            if every is None:
                return None
            priors = (every["best_prior"],)
        found: dict[str, Any] | None = self._part(
            f"encode-{start}", [priors, self.a.dim], starts.encode, start, priors, self.a.dim
        )
        return found

    def _byol_networks(self) -> dict[str, Any] | None:
        """BYOL for as long as the consensus took, its encoding counted."""
        ours = self._networks(CONSENSUS)
        if ours is None:
            return None
        a = self.a
        settings = {
            "batch_rows": a.batch_rows,
            "learning_rate": a.byol_learning_rate,
            "weight_decay": a.weight_decay,
        }
        inits = [self._out(f"{BYOL}-{seed}", settings) for seed in range(a.seeds)]
        made = []
        for seed, seconds in enumerate(ours["each"]):
            whole = seconds + ours["encode_seconds"]
            if a.quick:
                whole = min(whole, _QUICK_SECONDS)
            # The seconds are measured and differ from run to run: a finished part does not depend on them.
            made.append(self._part(f"byol-{seed}", settings, starts.learn_byol, settings, whole, seed, inits[seed]))
        return self._cost(0.0, made, inits)

    def _cost(self, encode: float, made: Sequence[Any], inits: list[str]) -> dict[str, Any] | None:
        if any(each is None for each in made):
            return None
        each = [one["seconds"] for one in made]
        figures = {k: [one[k] for one in made] for k in ("linear_probe", "knn", "epochs") if k in made[0]}
        return {
            "encode_seconds": encode,
            "train_seconds": round(statistics.fmean(each), 2),
            "each": each,
            "inits": inits,
            **figures,
        }

    def _rate(self, start: str, before: Any, share: float, pool: Any) -> float | None:
        """The rate that is best on held-out folds of the share's labels, not at an edge of those tried."""
        folds, inits = pool["folds"][str(share)], before["inits"]
        pools = tuple(starts.tuning_folder(share, fold) for fold in range(folds))
        networks = tuple(inits[fold % len(inits)] for fold in range(folds))
        schedule = self._schedule(share, pool)
        fit = Fit(pools, schedule, _FIRST_RATE, networks, self.a.freeze_epochs, self.a.layer_decay)
        found: dict[float, float] = {}
        while rates := untried(found):
            for rate in rates:
                curves = self._fitted(f"tune-{start}-{share:g}-{rate:g}", fit.at(rate))
                if curves is None:
                    return None
                found[rate] = statistics.fmean(curve[-1]["accuracy"] for curve in curves)
        return best_of(found)

    def _fits(
        self, start: str, before: Any, share: float, rate: float | None, pool: Any, half: bool = False
    ) -> list[Curve] | None:
        if rate is None:
            return None
        schedule, inits = self._schedule(share, pool), tuple(before["inits"])
        if half:
            schedule = replace(schedule, epochs=max(1, schedule.epochs // 2))
        pools = (labels_folder(share),) * len(inits)
        fit = Fit(pools, schedule, rate, inits, self.a.freeze_epochs, self.a.layer_decay)
        return self._fitted(f"{'half' if half else 'labels'}-{start}-{share:g}", fit)

    def _fitted(self, name: str, fit: Fit) -> list[Curve] | None:
        settings = asdict(fit)
        found: list[Curve] | None = self._part(name, settings, starts.learn_labels, fit, self._out(name, settings))
        return found

    def _schedule(self, share: float, pool: Any) -> Schedule:
        batch = min(self.a.batch_rows, max(8, pool["labels"][str(share)] // _STEPS_OF_EPOCH))
        return Schedule(self.a.epochs if share == 1 else self.a.few_epochs, batch)

    def _out(self, name: str, settings: Any) -> str:
        from benchmarks.targets.tables import digest_of

        return f"{self.folder}/models/{name}-{digest_of({'s': settings, 'setup': asdict(self.setup)})}"

    def _part(self, name: str, settings: Any, function: Any, *arguments: Any) -> Any:
        return self.parts.get(name, [settings, asdict(self.setup)], function, self.setup, *arguments)


def best_of(found: dict[float, float]) -> float:
    """The rate of the best accuracy; of several the smallest."""
    return min(found, key=lambda rate: (-found[rate], rate))


def untried(found: dict[float, float]) -> list[float]:
    """Rates to try next, after rate -> accuracy so far: those beside the best."""
    if not found:
        return [_FIRST_RATE]
    place = RATES.index(best_of(found))
    return [rate for rate in RATES[max(0, place - 1) : place + 2] if rate not in found]


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    deadline = None if arguments.time_limit is None else time.monotonic() + arguments.time_limit
    try:
        places = find_places(arguments.data, arguments.pool, arguments.pools, arguments.quick)
    except CoevoError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    places = [place for place in places if place.modality == "image"]
    with tempfile.TemporaryDirectory(prefix="coevo-head-start-") as temporary:
        folder = Path(arguments.work or temporary).resolve()
        runs = [Run(arguments, place, folder, deadline) for place in places]
        found = {run.place.name: run.measured() for run in runs}
    left_out = sorted({part for run in runs for part in run.parts.left_out})
    result = {
        **summary({name: each for name, each in found.items() if each is not None}),
        "repeats": arguments.seeds,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k in _SETTINGS},
        "left_out": left_out,
        "busy_before": round(max(b for run in runs for b in run.parts.busy), 3),
    }
    note("\n".join(page(result)))
    finish("head_start", result, arguments.json)
    if left_out:
        note("time was up: the same command with the same --work continues")
        sys.exit(4)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The result of some pools.

    Args:
        found: pool -> what `Run.measured` gives.

    Returns:
        `table`: pool -> share of labels -> start -> for each epoch `epochs`, `seconds` (with those before the first
        label), `accuracy` (mean over seeds) and `spread` (standard deviation); `epochs_to_scratch`: pool -> share ->
        start -> first epoch whose mean reaches that of scratch at its end, or null; `gain`: pool -> share -> start ->
        points above scratch at the end; `half`: pool -> start -> the end of trainings on the largest share of labels
        with a schedule of half as many epochs, and their points above scratch's whole one (`gain`); `before`: pool ->
        start -> seconds of encoding and training before the first label; `rates`: pool -> share -> start -> peak rate;
        `pools`.
    """
    parts: tuple[str, ...] = ("table", "epochs_to_scratch", "gain", "half", "before", "rates", "pools")
    result: dict[str, Any] = {name: {} for name in parts}
    for pool, each in found.items():
        before = {
            start: {k: v for k, v in made.items() if k not in ("inits", "each")}
            for start, made in each["before"].items()
        }
        table: dict[str, Any] = {}
        for share, by_start in each["curves"].items():
            table[f"{share:g}"] = {
                start: _mean(curves, before[start]["encode_seconds"] + before[start]["train_seconds"])
                for start, curves in by_start.items()
            }
        goals = {share: rows[SCRATCH][-1]["accuracy"] for share, rows in table.items()}
        result["table"][pool] = table
        result["epochs_to_scratch"][pool] = {
            share: {start: _reached(curve, goals[share]) for start, curve in rows.items()}
            for share, rows in table.items()
        }
        result["gain"][pool] = {
            share: {start: round(100 * (curve[-1]["accuracy"] - goals[share]), 2) for start, curve in rows.items()}
            for share, rows in table.items()
        }
        goal = goals[f"{max(each['curves']):g}"]
        ends = {
            start: _mean(curves, before[start]["encode_seconds"] + before[start]["train_seconds"])[-1]
            for start, curves in each["halves"].items()
        }
        result["half"][pool] = {
            start: {**end, "gain": round(100 * (end["accuracy"] - goal), 2)} for start, end in ends.items()
        }
        result["before"][pool], result["pools"][pool] = before, each["pool"]
        result["rates"][pool] = {f"{share:g}": rates for share, rates in each["rates"].items()}
    return result


def _mean(curves: Sequence[Curve], before: float) -> Curve:
    rows = []
    for entries in zip(*curves, strict=True):
        accuracies = [entry["accuracy"] for entry in entries]
        rows.append(
            {
                "epochs": entries[0]["epochs"],
                "seconds": round(before + statistics.fmean(entry["seconds"] for entry in entries), 2),
                "accuracy": round(statistics.fmean(accuracies), 5),
                "spread": round(statistics.stdev(accuracies), 5) if len(accuracies) > 1 else 0.0,
            }
        )
    return rows


def _reached(curve: Curve, goal: float) -> float | None:
    return next((row["epochs"] for row in curve if row["accuracy"] >= goal), None)


def page(result: dict[str, Any]) -> list[str]:
    """The result as a page for people."""
    lines = ["# Head start", "", f"Percent on test rows, mean over {result['repeats']} seeds +- standard deviation."]
    for pool, table in result["table"].items():
        facts, before = result["pools"][pool], result["before"][pool]
        lines += ["", f"## {pool}", "", f"{facts['rows']:,} rows, {facts['test_rows']:,} test rows, "]
        lines[-1] += f"{facts['classes']} classes. `to scratch`: epochs until scratch's last accuracy."
        lines += ["", "| labels | start | accuracy | to scratch | epochs | seconds | of these before | rate |"]
        lines.append("|---" * 8 + "|")
        for share, rows in table.items():
            for start, curve in rows.items():
                last, reached = curve[-1], result["epochs_to_scratch"][pool][share][start]
                earlier = before[start]["encode_seconds"] + before[start]["train_seconds"]
                cells = [
                    f"{float(share):.0%}",
                    start,
                    f"{100 * last['accuracy']:.1f} +- {100 * last['spread']:.1f}",
                    "not" if reached is None else f"{reached}",
                    f"{last['epochs']}",
                    f"{last['seconds']:.0f}",
                    f"{earlier:.0f}",
                    f"{result['rates'][pool][share][start]:g}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
        halves = ", ".join(
            f"{start} {100 * end['accuracy']:.1f} +- {100 * end['spread']:.1f} ({end['gain']:+.1f})"
            for start, end in result["half"][pool].items()
        )
        epochs = next(iter(result["half"][pool].values()))["epochs"]
        lines += ["", f"With {epochs} epochs on all of these labels, and beside scratch's whole training: {halves}."]
    return lines


_SETTINGS = (
    *("rows", "test_rows", "model", "image_size", "epochs", "few_epochs", "target_epochs", "batch_rows", "precision"),
    *("dim", "priors", "byol_learning_rate", "weight_decay", "freeze_epochs", "layer_decay", "gpus", "quick"),
)


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], 10_000, 300)
    made.add_argument("--data", type=Path, help="folder with a folder of train*.parquet and test*.parquet a pool")
    made.add_argument("--pool", type=Path, action="append", default=[], help="folder of a pool of your own")
    made.add_argument("--pools", type=names, default=(), help="some of the pools, by name; otherwise all of images")
    made.add_argument("--test-rows", type=positive, help="held-out rows; otherwise a fifth of --rows")
    made.add_argument("--seeds", type=positive, help="repeats of each training; otherwise 3, with --quick 1")
    made.add_argument("--shares", type=_shares, default=(1.0, 0.1, 0.01), help="of the labels")
    made.add_argument("--model", default="benchmarks.networks:small_resnet", help="network, as for train")
    made.add_argument("--image-size", type=positive, help="pixels of its input; otherwise 32, with --quick 16")
    made.add_argument("--epochs", type=positive, help="of supervised trainings; otherwise 15, with --quick 2")
    made.add_argument("--few-epochs", type=positive, help=f"with a part of the labels; otherwise {_FEW_EPOCHS}, or 2")
    made.add_argument("--target-epochs", type=positive, help="of trainings on targets; otherwise 30, with --quick 1")
    made.add_argument("--batch-rows", type=positive, default=128, help="rows of a batch, at most")
    made.add_argument("--byol-learning-rate", type=float, default=0.002, help="of BYOL")
    made.add_argument("--weight-decay", type=float, default=0.05, help="of BYOL; targets have their own default")
    made.add_argument("--freeze-epochs", type=int, default=0, help="of supervised trainings from a start")
    made.add_argument("--layer-decay", type=float, default=1.0, help="of supervised trainings from a start")
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of all trainings")
    made.add_argument("--dim", type=positive, help="n of the targets; otherwise 256, with --quick 16")
    made.add_argument("--priors", type=names, default=LITE, help="public priors")
    made.add_argument("--gpus", type=int, default=0, help="GPUs of each actor and each training")
    made.add_argument("--work", help="working folder, kept; otherwise a temporary one")
    made.add_argument("--time-limit", type=float, help="begin nothing after so many seconds, and exit with 4")
    arguments = made.parse_args()
    if find_spec("lightly") is None:
        made.error("BYOL needs lightly: pip install 'coevo-ray[bench]'")
    return _filled(arguments)


def _filled(arguments: Namespace) -> Namespace:
    """Settings that follow from others."""
    quick, rows = arguments.quick, rows_of(arguments)
    standard = {
        "rows": rows,
        "test_rows": max(1, rows // 5),
        "seeds": 1 if quick else 3,
        "image_size": 16 if quick else 32,
        "epochs": 2 if quick else 15,
        "few_epochs": 2 if quick else _FEW_EPOCHS,
        "target_epochs": 1 if quick else 30,
        "dim": 16 if quick else 256,
    }
    return fill_in(arguments, standard)


def _shares(text: str) -> tuple[float, ...]:
    shares = tuple(float(part) for part in text.split(","))
    if not all(0 < share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text}: shares lie above 0 and up to 1")
    return shares
