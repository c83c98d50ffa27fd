"""Objectives: what makes a network that learns targets good, one change at a time, at an equal number of views.

    python -m benchmarks.objectives --json --data FOLDER [--pools NAME,...] [--only NAME,...] [--rows N] [--epochs E]
    python -m benchmarks.objectives --json --quick

Targets are the battery's, from features that it keeps; the network is trained in memory, in a plain loop over the
package's network, views and losses.
"""

from __future__ import annotations

import argparse
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.battery import targets as battery
from benchmarks.battery.encoding import available_priors, default_cache, encode_pool
from benchmarks.battery.heads import knn, tuned_linear
from benchmarks.battery.pools import Ids, Limits, Place, find_places
from benchmarks.battery.verdicts import cell
from benchmarks.common import cores, fill_in, finish, names, note, parser, positive, rows_of
from benchmarks.objectives.variants import VARIANTS, Variant
from coevo_ray.errors import CoevoError
from coevo_ray.training.feed.images import decode_square, scale_pixels
from coevo_ray.training.feed.views import Views, view_numbers
from coevo_ray.training.from_targets.network import TargetNetwork
from coevo_ray.training.loop.schedules import rate_factor

Vectors = npt.NDArray[np.float32]
CHOSEN_ON = "tiny_imagenet"
_BATCH, _WEIGHT_DECAY, _WARM_UP, _TENTH = 128, 0.05, 0.1, 0.1


@dataclass(frozen=True, eq=False)
class Material:
    """One pool.

    Attributes:
        images, test_images: uint8[n, 3, s, s].
        labels, test_labels: int64[n]; for evaluation alone.
        targets: kind -> float32[n, d] of the training rows.
    """

    images: torch.Tensor
    test_images: torch.Tensor
    labels: Ids
    test_labels: Ids
    targets: dict[str, Vectors]


def main() -> None:
    """Runs the benchmark."""
    a = _arguments()
    torch.set_num_threads(a.threads)
    try:
        places = [p for p in find_places(a.data, a.pool, a.pools, a.quick) if p.modality == "image"]
        table = {place.name: _measured(a, place) for place in places}
    except CoevoError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    for pool, rows in table.items():
        note(f"\n{pool}: linear head / with a tenth of the labels / 20 neighbours, percent")
        for name, row in rows.items():
            figures = " / ".join(f"{100 * row[measure]['mean']:.1f}" for measure in _MEASURES)
            note(f"{name:16} {figures}   {row['seconds']:.0f} s")
    settings = {key: getattr(a, key) for key in ("epochs", "model", "image_size", "quick")}
    finish("objectives", {"table": table, "repeats": a.seeds, "chosen_on": CHOSEN_ON, "settings": settings}, a.json)


_MEASURES = ("linear", "linear_tenth", "knn")


def _measured(a: Namespace, place: Place) -> dict[str, Any]:
    material = _material(a, place)
    table: dict[str, Any] = {}
    for name in a.only:
        runs = [_trained(a, VARIANTS[name], material, seed) for seed in range(a.seeds)]
        table[name] = {m: cell([run[m] for run in runs]) for m in _MEASURES}
        table[name]["seconds"] = round(float(np.mean([run["seconds"] for run in runs])), 1)
        note(f"{place.name} {name}: " + ", ".join(f"{m} {table[name][m]['mean']:.4f}" for m in _MEASURES))
    return table


def _material(a: Namespace, place: Place) -> Material:
    pool = place.load(Limits(a.rows, a.test_rows))
    features = encode_pool(pool, a.cache, available_priors("image")[0])
    data, _ = battery.data_of(pool, features, 0, (a.dim, battery.usual(len(pool.train))[1]))
    found = battery.coverage_all(data).targets[0]
    best = battery.by_quality(data).targets[0]
    mixed = battery.evenly_mixed(data).targets[0]
    targets = {"coverage_all": found, "one_prior": best, "mixed": mixed, "whitened": _whitened(found)}
    images, test_images = (
        torch.from_numpy(np.stack([decode_square(data, a.image_size) for data in cast(Sequence[bytes], part.samples)]))
        for part in (pool.train, pool.test)
    )
    return Material(images, test_images, pool.train.labels, pool.test.labels, targets)


def _whitened(vectors: Vectors) -> Vectors:
    """Every direction of the latent with the same variance."""
    left, _, right = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    white = left @ right
    unit: Vectors = (white / np.linalg.norm(white, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _trained(a: Namespace, variant: Variant, material: Material, seed: int) -> dict[str, float]:
    """Trains a network, and judges its frozen features."""
    torch.manual_seed(seed)
    targets = torch.from_numpy(material.targets[variant.targets])
    mean = targets.mean(dim=0) if variant.centre else torch.zeros(targets.shape[1])
    network = TargetNetwork.of_images(a.model, a.image_size, variant.head, targets.shape[1])
    network = network.to(memory_format=torch.channels_last)
    rate = variant.learning_rate
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=_WEIGHT_DECAY, fused=True)
    views = Views(variant.min_crop, colour=variant.colour)
    rows, epochs = len(targets), max(1, a.epochs // variant.views)
    steps, step = epochs * -(-rows // _BATCH), 0
    order = np.random.default_rng(seed)
    started = time.perf_counter()
    network.train()
    for epoch in range(epochs):
        mixed = order.permutation(rows)
        for first in range(0, rows, _BATCH):
            ids = mixed[first : first + _BATCH]
            images = material.images[ids]
            seen = [views.make(images, view_numbers(ids, seed, epoch, view)) for view in range(variant.views)]
            predicted = network(torch.cat(seen).contiguous(memory_format=torch.channels_last))
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_factor("onecycle", _WARM_UP, step / max(1, steps - 1))
            loss = variant.losses(predicted, targets[ids], mean).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
            optimizer.step()
            step += 1
    seconds = time.perf_counter() - started
    return {**_judged(network.backbone, material, seed), "seconds": seconds}


def _judged(backbone: nn.Module, material: Material, seed: int) -> dict[str, float]:
    train, test = (_features(backbone, images) for images in (material.images, material.test_images))
    y, y_test = material.labels, material.test_labels
    few = np.random.default_rng(seed).permutation(len(y))[: max(2, round(_TENTH * len(y)))]
    return {
        "linear": tuned_linear(train, y, test, y_test, seed),
        "linear_tenth": tuned_linear(train[few], y[few], test, y_test, seed),
        "knn": knn(train, y, test, y_test),
    }


@torch.inference_mode()
def _features(backbone: nn.Module, images: torch.Tensor) -> Vectors:
    backbone.eval()
    parts = [
        scale_pixels(part.float()).contiguous(memory_format=torch.channels_last) for part in torch.split(images, 512)
    ]
    found: Vectors = torch.cat([backbone(part) for part in parts]).numpy()
    return found


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], 5_000, 300)
    made.add_argument("--data", type=Path, help="folder with a folder of train*.parquet and test*.parquet a pool")
    made.add_argument("--pool", type=Path, action="append", default=[], help="folder of a pool of your own")
    made.add_argument("--pools", type=names, default=(), help="some of the pools, by name; otherwise all of images")
    made.add_argument("--only", type=_variants, default=tuple(VARIANTS), help=f"some of {','.join(VARIANTS)}")
    made.add_argument("--test-rows", type=positive, help="otherwise three fifths of --rows")
    made.add_argument("--epochs", type=positive, help="otherwise 16, with --quick 2; half of it with two views")
    made.add_argument("--seeds", type=positive, help="repeats of each training; otherwise 3, with --quick 1")
    made.add_argument("--model", default="benchmarks.networks:small_resnet", help="network, as for train")
    made.add_argument("--image-size", type=positive, help="pixels of its input; otherwise 32, with --quick 16")
    made.add_argument("--dim", type=positive, help="n of the targets; otherwise 256, with --quick 16")
    made.add_argument("--cache", type=Path, default=default_cache(), help="folder that keeps encoded pools")
    made.add_argument("--threads", type=positive, default=cores(), help="threads of the computation")
    arguments = made.parse_args()
    quick, rows = arguments.quick, rows_of(arguments)
    standard = {
        "rows": rows,
        "test_rows": max(1, rows * 3 // 5),
        "epochs": 2 if quick else 16,
        "seeds": 1 if quick else 3,
        "image_size": 16 if quick else 32,
        "dim": 16 if quick else 256,
    }
    return fill_in(arguments, standard)


def _variants(text: str) -> tuple[str, ...]:
    found = names(text)
    if unknown := sorted(set(found) - set(VARIANTS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not among {', '.join(VARIANTS)}")
    return found
