"""The battery: what the methods are worth on real pools that differ in kind, and on your own.

    python -m benchmarks.battery targets|labels|policies|networks|backbones|stop|doubt|doubt_rows|duplicates --json
        [--data FOLDER]
        [--pool FOLDER]... [--pools NAME,...] [--settings NAME,...] [--kept SHARE,...] [--seeds K] [--rows N]
        [--cache FOLDER] [--threads N] [--choose] [--model NAME] [--models NAME,...] [--image-size PIXELS]
        [--epochs N] [--batch-rows N] [--rates RATE,...] [--device NAME]
    python -m benchmarks.battery labels --json --quick

Without --data it runs on scikit-learn's digits, and on any pool that --pool names.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from benchmarks.battery.encoding import default_cache
from benchmarks.battery.network_training import Network
from benchmarks.battery.options import Options
from benchmarks.battery.pools import Limits, Place, find_places
from benchmarks.battery.settings import SETTINGS, usable
from benchmarks.battery.table import lines
from benchmarks.common import cores, finish, parser, positive, rows_of
from coevo_ray.errors import CoevoError, UsageError

# Each is a module of this package with measure(places, options) -> result.
PARTS = ("targets", "labels", "policies", "networks", "backbones", "stop", "doubt", "doubt_rows", "duplicates")
_TRAIN_ROWS, _QUICK_ROWS = 15_000, 2_000
_SEEDS, _QUICK_SEEDS = 3, 2
_KEPT, _QUICK_KEPT = (0.1, 0.3, 0.5), (0.3,)

Measure = Callable[[Sequence[Place], Options], dict[str, Any]]


def main() -> None:
    """Runs one part of the battery."""
    arguments = _arguments()
    try:
        measure = find_part(arguments.part)
        places = find_places(arguments.data, arguments.pool, arguments.pools, arguments.quick)
        options = options_of(arguments)
        import torch

        torch.set_num_threads(options.threads)
        result = measure(places, options)
    except CoevoError as error:
        print(f"{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    whole = {"part": arguments.part, "quick": options.quick, "repeats": options.seeds, **result}
    if arguments.json:
        finish("battery", whole, True)
    else:
        print("\n".join(lines(whole)))


def find_part(name: str) -> Measure:
    """The function that measures a part.

    Raises:
        UsageError: the part is not built yet.
    """
    module = f"benchmarks.battery.{name}"
    if find_spec(module) is None:
        there = [part for part in PARTS if find_spec(f"benchmarks.battery.{part}") is not None]
        raise UsageError(f"the battery has no {module} yet", f"use {' or '.join(there)}")
    return cast(Measure, import_module(module).measure)


def options_of(arguments: Namespace) -> Options:
    """The options of a run."""
    rows = rows_of(arguments)
    return Options(
        cache=arguments.cache,
        limits=Limits(rows, -(-rows // (2 if arguments.quick else 3))),
        settings=arguments.settings,
        kept=arguments.kept or (_QUICK_KEPT if arguments.quick else _KEPT),
        seeds=arguments.seeds or (_QUICK_SEEDS if arguments.quick else _SEEDS),
        quick=arguments.quick,
        threads=arguments.threads,
        network=Network(arguments.model, arguments.device, arguments.batch_rows),
        models=arguments.models,
        epochs=arguments.epochs,
        rates=arguments.rates,
        image_size=arguments.image_size or (16 if arguments.quick else 32),
        choose=arguments.choose,
    )


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], _TRAIN_ROWS, _QUICK_ROWS)
    made.add_argument("part", choices=PARTS, help="what is measured")
    made.add_argument(
        "--data", type=Path, help="folder with a folder of train*.parquet and test*.parquet for each pool"
    )
    made.add_argument(
        "--pool", type=Path, action="append", default=[], help="folder of a pool of your own; several times for several"
    )
    made.add_argument("--pools", type=_names, default=(), help="some of the pools, by name; otherwise all")
    made.add_argument("--settings", type=_settings, default=SETTINGS, help=f"some of {','.join(SETTINGS)}")
    shares = ",".join(map(str, _KEPT))
    made.add_argument("--kept", type=_shares, help=f"shares of the rows that an epoch keeps (policies): {shares}")
    made.add_argument("--seeds", type=_several, help=f"repeats, otherwise {_SEEDS}, with --quick {_QUICK_SEEDS}")
    made.add_argument("--cache", type=Path, default=default_cache(), help="folder that keeps encoded pools")
    made.add_argument("--threads", type=positive, default=cores(), help="threads of the computation")
    made.add_argument("--model", default=Network.model, help="what `networks` trains, named as for train")
    made.add_argument("--models", type=_names, default=(), help="what `backbones` trains; otherwise its own list")
    made.add_argument("--epochs", type=positive, default=Options.epochs, help="of `networks` and `backbones`")
    made.add_argument("--rates", type=_rates, default=Options.rates, help="learning rates they choose among")
    made.add_argument("--batch-rows", type=positive, default=Network.batch_rows, help="of a step of both")
    made.add_argument("--image-size", type=positive, help="pixels of its input; otherwise 32, with --quick 16")
    made.add_argument("--device", default=Network.device, help="of torch, where it is trained")
    made.add_argument(
        "--choose", action="store_true", help="also other constants of ours, chosen for each pool on the other pools"
    )
    return made.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _settings(text: str) -> tuple[str, ...]:
    names = _names(text)
    if unknown := sorted(set(names) - set(SETTINGS)):
        raise ArgumentTypeError(f"{', '.join(unknown)} not among {', '.join(SETTINGS)}")
    return usable(names)


def _shares(text: str) -> tuple[float, ...]:
    shares = tuple(float(each) for each in _names(text))
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise ArgumentTypeError(f"{wrong[0]:g} is no share above 0, up to 1")
    return shares


def _rates(text: str) -> tuple[float, ...]:
    return tuple(float(each) for each in _names(text))


def _several(text: str) -> int:
    seeds = positive(text)
    if seeds < 2:
        raise ArgumentTypeError(f"{seeds} seed has no spread; verdicts need 2 or more")
    return seeds


if __name__ == "__main__":
    main()
