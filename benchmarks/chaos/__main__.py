"""Chaos: kills on a cluster of real processes, and kill points of both journals.

    python -m benchmarks.chaos --kills 100 --seed 0 --json [--quick] [--journal-points N] [--record FILE]

Starts a cluster of three raylets on this machine, runs `coevo-ray encode`, `train` and `gate` on small pools, and kills
what they are made of: actors, tasks, workers, services, drivers, raylets and the head. A command that was stopped is
given again. Held is a kill after which the result is byte by byte that of an undisturbed run, no label or usage is lost
or doubled, the command ended with 0 only when it was done and otherwise with 4, and nothing of it works any more.
Progress is on stderr. With --record the result so far is written after every trial.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos.check import Undisturbed
from benchmarks.chaos.cluster import LocalCluster
from benchmarks.chaos.faults import FaultyStore, possible, run_fault
from benchmarks.chaos.inputs import make_inputs
from benchmarks.chaos.journals import kill_points
from benchmarks.chaos.services import Gate, Ledger
from benchmarks.chaos.slow import NOTES
from benchmarks.chaos.targets import DECK, QUICK, Target
from benchmarks.chaos.trial import Outcome, Place, run_trial, undisturbed
from benchmarks.chaos.workloads import WORKLOADS, Workload
from benchmarks.common import facts, note

# As in a local session Ray Train looks at its workers 5 times a second. Three nodes share a machine: no worker starts
# before it is asked for, and none yields to whatever else runs there.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_worker_niceness": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    started = time.monotonic()
    result: dict[str, Any] = {"benchmark": "chaos", "seed": arguments.seed, "repeats": 1}
    points = arguments.journal_points
    if points:
        found = {each.name: kill_points(each, points, arguments.seed) for each in (Ledger(), Gate())}
        result["journal_kill_points"] = found
        note(f"journals: {[(name, each['held'], each['points']) for name, each in found.items()]}")
    with tempfile.TemporaryDirectory(prefix="cc-") as folder:
        os.environ["RAY_TMPDIR"] = folder
        (Path(folder) / "ray").mkdir()  # Ray writes the latest address there
        place = Place(Path(folder) / "work")
        place.folder.mkdir()
        make_inputs(place.inputs)
        place.out("none")
        known = _Undisturbed(place, result, arguments.known)
        for name, runs in (("kills", _trials(arguments, place, known)), ("faults", _faults(arguments, place, known))):
            outcomes: list[Outcome] = []
            for outcome in runs:
                outcomes.append(outcome)
                result |= summary(outcomes) if name == "kills" else {"store_faults": fault_summary(outcomes)}
                result["seconds"] = round(time.monotonic() - started, 1)
                if arguments.record:
                    arguments.record.write_text(json.dumps(result | facts(), indent=1) + "\n")
    print(json.dumps(result | facts(), indent=None if arguments.json else 2))


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object on the last line of stdout")
    made.add_argument("--quick", action="store_true", help="a handful of kills, and few kill points")
    made.add_argument("--kills", type=int, help="kills at least; otherwise 100, with --quick 5")
    made.add_argument("--seed", type=int, default=0, help="of the targets' order and of the moments")
    made.add_argument("--journal-points", type=int, help="kill points of each journal; otherwise 10000, or 100")
    made.add_argument("--store-faults", type=int, help="runs on stores with a fault; otherwise all 9, or none")
    made.add_argument(
        "--known", type=Path, help="file that keeps what undisturbed runs have in common for a later call"
    )
    made.add_argument("--record", type=Path, help="file that has the result so far after every trial")
    arguments = made.parse_args()
    for name, full, quick in (("kills", 100, 5), ("journal_points", 10_000, 100), ("store_faults", 9, 0)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, quick if arguments.quick else full)
    return arguments


class _Undisturbed:
    """Facts that undisturbed runs of each command share; a command runs when it is first asked for.

    Args:
        place: where they run.
        result: gets how many facts there are, and which of them may differ.
        file: keeps them for a later call, if it is given.
    """

    def __init__(self, place: Place, result: dict[str, Any], file: Path | None) -> None:
        self._place, self._result, self._file = place, result, file
        read = json.loads(file.read_text()) if file is not None and file.is_file() else {}
        self._known = {name: Undisturbed(facts, frozenset(differ)) for name, (facts, differ) in read.items()}

    def of(self, cluster: LocalCluster, workload: Workload) -> Undisturbed:
        """For a command; the cluster runs it."""
        if workload.name not in self._known:
            self._known[workload.name] = undisturbed(cluster, self._place, workload)
            if self._file is not None:
                kept = {name: (each.facts, sorted(each.differ)) for name, each in self._known.items()}
                self._file.write_text(json.dumps(kept))
        known = self._known[workload.name]
        self._result.setdefault("facts", {})[workload.name] = len(known.facts)
        self._result.setdefault("may_differ", {})[workload.name] = sorted(known.differ)
        return known


def _trials(arguments: argparse.Namespace, place: Place, known: _Undisturbed) -> Iterator[Outcome]:
    """Trials until there were enough kills."""
    kills = 0
    if not arguments.kills:
        return
    with _cluster(place, {}) as cluster:
        for number, (workload, targets) in enumerate(_cards(arguments)):
            if kills >= arguments.kills:
                return
            seed = f"{arguments.seed} {number} {workload.name}"
            outcome = run_trial(cluster, place, workload, targets, known.of(cluster, workload), seed)
            kills += len(outcome.struck)
            note(f"{kills} of {arguments.kills} kills; {outcome}")
            yield outcome


def _faults(arguments: argparse.Namespace, place: Place, known: _Undisturbed) -> Iterator[Outcome]:
    """Runs on stores with a fault."""
    if not arguments.store_faults:
        return
    store = FaultyStore(place.folder, place.folder / "faulty")
    faults = possible()
    runs = [
        (workload, fault)
        for turn in range(len(WORKLOADS))
        for workload, fault in zip(_turned(turn), faults, strict=False)
    ]
    with _cluster(place, store.environment) as cluster:
        for workload, fault in runs[: arguments.store_faults]:
            outcome = run_fault(cluster, place, store, workload, fault, known.of(cluster, workload))
            note(f"{fault}: {outcome}")
            yield outcome


def _turned(by: int) -> tuple[Workload, ...]:
    """The commands in another order, so that few runs have each command and each fault."""
    return WORKLOADS[by:] + WORKLOADS[:by]


@contextmanager
def _cluster(place: Place, environment: dict[str, str]) -> Iterator[LocalCluster]:
    cluster = LocalCluster(place.folder.parent, {**ENVIRONMENT, NOTES: str(place.notes), **environment})
    try:
        yield cluster
    finally:
        cluster.stop()


def _cards(arguments: argparse.Namespace) -> Iterator[tuple[Workload, tuple[Target, ...]]]:
    chance = random.Random(arguments.seed)
    while True:
        cards = list(QUICK if arguments.quick else DECK)
        chance.shuffle(cards)
        yield from cards


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """`kills`, `held`, `lost`, `by_target` and the trials; where a trial lost something none of its kills is held."""
    struck = Counter(name for outcome in outcomes for name in outcome.struck)
    held = Counter(name for outcome in outcomes if not outcome.lost for name in outcome.struck)
    return {
        "kills": sum(struck.values()),
        "held": sum(held.values()),
        "lost": [
            {"workload": each.workload, "struck": each.struck, "lost": each.lost} for each in outcomes if each.lost
        ],
        "by_target": {name: {"kills": struck[name], "held": held[name]} for name in sorted(struck)},
        "missed": dict(Counter(name for outcome in outcomes for name in outcome.missed)),
        "trials": [asdict(outcome) for outcome in outcomes],
    }


def fault_summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """`runs`, `held`, `lost`, and the runs."""
    lost = [asdict(outcome) for outcome in outcomes if outcome.lost]
    return {
        "runs": len(outcomes),
        "held": len(outcomes) - len(lost),
        "lost": lost,
        "trials": [asdict(outcome) for outcome in outcomes],
    }


if __name__ == "__main__":
    main()
