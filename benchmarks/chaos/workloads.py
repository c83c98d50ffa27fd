"""The commands that are disturbed, and how far each is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.slow import noted

SHARD_ROWS, BATCH_ROWS = 16, 4  # four forward passes a shard


@dataclass(frozen=True)
class Workload:
    """A command.

    Attributes:
        name: of the command.
        arguments: folder of the inputs -> its arguments, but for `--out`.
        progress: folder of notes, folder of the result -> how far it is, a number that grows by one at a time.
        stride: a kill follows so many of these after the one before, at least and at most.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    progress: Callable[[Path, Path], int]
    stride: tuple[int, int]


def _encode(inputs: Path) -> list[str]:
    # Other CPUs than the reading tasks': else Ray Data reads in the actors.
    compute = ["--cpus", "0.4", "--actors", "1", "--batch-rows", str(BATCH_ROWS), "--shard-rows", str(SHARD_ROWS)]
    prior = ["--prior", "callable:benchmarks.chaos.slow:Prior", "--dim", "8", "--shared", "40"]
    return ["encode", "--pool", str(inputs / "pictures"), *prior, *compute]


def _train(inputs: Path) -> list[str]:
    network = ["--model", "benchmarks.chaos.slow:network", "--image-size", "16", "--epochs", "4", "--batch-rows", "16"]
    policy = ["--policy", "rotation", "--keep", "0.5", "--cpus", "0.5", "--actors", "1"]
    return ["train", "--objective", "supervised", "--pool", str(inputs / "thumbnails"), *network, *policy]


def _gate(inputs: Path) -> list[str]:
    places = ["--pool", str(inputs / "thumbnails"), "--targets", str(inputs / "targets")]
    return ["gate", *places, "--max-rounds", "6", "--seed-fraction", "0.1", "--round-fraction", "0.06"]


def _records(_: Path, out: Path) -> int:
    numbers = [int(file.name[:10]) + 1 for file in (out / "journal").glob("[0-9]*[0-9].record")]
    numbers += [int(file.name[:10]) for file in (out / "journal").glob("[0-9]*.snapshot")]
    return max(numbers, default=0)


ENCODE = Workload("encode", _encode, lambda notes, _: len(noted(notes, "forward")), (2, 5))
TRAIN = Workload("train", _train, lambda notes, _: len(noted(notes, "step")), (1, 4))
GATE = Workload("gate", _gate, _records, (1, 2))
WORKLOADS = (ENCODE, TRAIN, GATE)
