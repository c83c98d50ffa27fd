"""Heads on vectors as `train` makes them, beside logistic regression with a tuned penalty.

    python -m benchmarks.vector_heads --json [--quick] [--data FOLDER] [--pools NAME,...] [--rows N] [--seeds K]

For each pool of the battery: features of its standard prior, as they are and in their first 256 principal components,
which is what stored targets look like. `linear` and `mlp` make the steps of `train --objective supervised` in memory,
on all rows, for 10 epochs, with each learning rate and weight decay of a grid. Those of the package were chosen by the
mean over all pools; `chosen_elsewhere` has for each pool the pair that is best on the other pools.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.battery.encoding import available_priors, default_cache, encode_pool
from benchmarks.battery.heads import tuned_linear
from benchmarks.battery.pools import Limits, find_places, loaded
from benchmarks.common import finish, names, note, parser, positive, rows_of, spread
from coevo_ray.config import TrainConfig
from coevo_ray.training.inputs.choose import settled
from coevo_ray.training.inputs.vectors import VectorNetwork, VectorShape
from coevo_ray.training.loop.descent import Descent
from coevo_ray.training.loop.schedules import Progress, rate_factor
from coevo_ray.training.models import HEADS

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

COMPONENTS = 256
_RATES, _DECAYS = (0.01, 0.02, 0.03, 0.05, 0.1), (5e-4, 2e-3, 8e-3, 3e-2)
_QUICK_RATES, _QUICK_DECAYS = (0.02, 0.05), (8e-3,)


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    torch.set_num_threads(1)
    rows, seeds = rows_of(arguments), range(1 if arguments.quick else arguments.seeds)
    grid = list(itertools.product(*((_QUICK_RATES, _QUICK_DECAYS) if arguments.quick else (_RATES, _DECAYS))))
    places = find_places(arguments.data, names=arguments.pools, quick=arguments.quick)
    table: dict[str, dict[str, Any]] = {}
    for pool in loaded(places, Limits(rows, -(-rows // 3))):
        prior = available_priors(pool.modality)[0][:1]
        [features] = encode_pool(pool, arguments.cache, prior)
        for form, (x, test) in _forms(features.train, features.test):
            cell = _cell((x, pool.train.labels), (test, pool.test.labels), len(pool.classes), grid, seeds)
            table.setdefault(pool.name, {})[form] = cell
            note(f"{pool.name} {form}: {cell['tuned_linear']:.4f}; " + "; ".join(f"{h} {cell[h]}" for h in HEADS))
    package = settled(TrainConfig(features="x"), "vector")
    result = {
        "rows": rows,
        "repeats": len(seeds),
        "table": table,
        "package": {"learning_rate": package.learning_rate, "weight_decay": package.weight_decay},
        "chosen_elsewhere": {pool: {h: _best(table, h, without=pool) for h in HEADS} for pool in table},
        "chosen": {head: _best(table, head) for head in HEADS},
    }
    finish("vector_heads", result, arguments.json)


def _arguments() -> argparse.Namespace:
    made = parser(__doc__.split("\n")[0], 5_000, 600)
    made.add_argument("--data", type=Path, help="folder of pools; otherwise scikit-learn's digits")
    made.add_argument("--pools", type=names, default=(), help="those to take")
    made.add_argument("--seeds", type=positive, default=2, help="trainings of each cell")
    made.add_argument("--cache", type=Path, default=default_cache(), help="folder of encoded pools")
    return made.parse_args()


def _forms(
    train: npt.NDArray[np.float16], test: npt.NDArray[np.float16]
) -> Iterator[tuple[str, tuple[Vectors, Vectors]]]:
    """Features as they are, and their first principal components."""
    x, t = train.astype(np.float32), test.astype(np.float32)
    yield "features", (x, t)
    mean = x.mean(axis=0)
    directions = np.linalg.svd(x - mean, full_matrices=False)[2][:COMPONENTS].T
    yield "components", (np.ascontiguousarray((x - mean) @ directions), np.ascontiguousarray((t - mean) @ directions))


def _cell(
    train: tuple[Vectors, Ids], test: tuple[Vectors, Ids], classes: int, grid: list[tuple[float, float]], seeds: range
) -> dict[str, Any]:
    """Accuracy of the tuned head, and of each head by `rate/decay`, with the package's own as `linear` and `mlp`."""
    reference = tuned_linear(*train, *test, 0)
    found: dict[str, Any] = {"tuned_linear": round(reference, 4), "grid": {}}
    for head in HEADS:
        own = [_accuracy(train, test, classes, head, seed, {}) for seed in seeds]
        found[head] = spread(own)
        found["grid"][head] = {
            f"{rate:g}/{decay:g}": round(
                float(
                    np.mean(
                        [
                            _accuracy(train, test, classes, head, seed, {"learning_rate": rate, "weight_decay": decay})
                            for seed in seeds
                        ]
                    )
                ),
                4,
            )
            for rate, decay in grid
        }
    return found


def _accuracy(
    train: tuple[Vectors, Ids], test: tuple[Vectors, Ids], classes: int, head: str, seed: int, chosen: dict[str, float]
) -> float:
    """Share of test rows that a head classifies rightly after the steps of `train`."""
    settings = TrainConfig.model_validate({"model": head, "features": "x", "seed": seed, **chosen})
    config, (x, y) = settled(settings, "vector"), train
    torch.manual_seed(seed)
    network = VectorShape(x.shape[1]).network(head, classes)
    assert isinstance(network, VectorNetwork)
    mean = x.mean(axis=0)
    network.normalise(torch.from_numpy(mean), float(np.square(x - mean).mean()))
    descent = Descent(config, network, network, torch.device("cpu"))
    rows, truth, random = torch.from_numpy(x), torch.from_numpy(y), np.random.default_rng(seed)
    steps, progress = -(-len(x) // config.batch_rows), Progress()
    progress.plan(steps, [steps] * (config.epochs - 1))
    for _ in range(config.epochs):
        for part in np.array_split(random.permutation(len(x)), steps):
            descent.set_rate(rate_factor(config.schedule, config.warm_up, progress.step()))
            descent.step(torch.nn.functional.cross_entropy(network(rows[part]), truth[part]))
    with torch.inference_mode():
        predicted = network.eval()(torch.from_numpy(test[0])).argmax(dim=1).numpy()
    return float((predicted == test[1]).mean())


def _best(table: dict[str, Any], head: str, without: str = "") -> dict[str, Any]:
    """The pair with the best mean gap to the tuned head, and that gap there and on the pool left out, in points."""
    gaps = {
        pool: {
            pair: float(np.mean([form["grid"][head][pair] - form["tuned_linear"] for form in forms.values()])) * 100
            for pair in next(iter(forms.values()))["grid"][head]
        }
        for pool, forms in table.items()
    }
    used = {pool: found for pool, found in gaps.items() if pool != without} or gaps
    pairs = next(iter(gaps.values()))
    best = max(pairs, key=lambda pair: np.mean([found[pair] for found in used.values()]))
    told = {"pair": best, "gap": round(float(np.mean([found[best] for found in used.values()])), 2)}
    return told | ({"gap_here": round(gaps[without][best], 2)} if without else {})


if __name__ == "__main__":
    main()
