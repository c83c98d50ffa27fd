"""Options of the command line, which all parts of the battery share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.battery.network_training import Network
from benchmarks.battery.pools import Limits
from benchmarks.battery.settings import SETTINGS


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        cache: folder of encoded pools.
        limits: the most rows of a pool.
        settings: of `SETTINGS`, in their order.
        kept: shares of the rows that an epoch keeps, for policies.
        seeds: repeats of every method, from seed 0; two or more, as verdicts need.
        quick: a small run that shows the form.
        threads: of the computation.
        network: what `networks` trains.
        models: what `backbones` trains in its place; none for its own list.
        image_size: pixels of its input.
        epochs: of its trainings, on labels (a kept share of each) and on targets (all rows).
        rates: peak learning rates, among which its trainings on labels choose.
        choose: also run our methods with other constants, and choose among them for each pool on the others.
    """

    cache: Path
    limits: Limits = field(default_factory=Limits)
    settings: tuple[str, ...] = SETTINGS
    kept: tuple[float, ...] = (0.1, 0.3, 0.5)
    seeds: int = 3
    quick: bool = False
    threads: int = 1
    network: Network = field(default_factory=Network)
    models: tuple[str, ...] = ()
    image_size: int = 32
    epochs: int = 20
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    choose: bool = False
