"""Pools, targets, networks to start from and supervised trainings of the head start benchmark, in child processes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.battery.pools import Ids, Limits, Place, Rows
from benchmarks.battery.priors import PIXELS
from benchmarks.targets.learners import Training, fit_peer

WHOLE = "pool"  # folder of the pool that is encoded, whose labels nobody reads
FOLDS = 5  # of a share's labelled rows; each choice of a learning rate holds one of them out
HELD_OUT = 300  # a choice takes as many folds as together have so many rows, if there are
FEWEST_TO_TUNE = 500  # labels; a smaller share takes the rates of the next larger one


@dataclass(frozen=True)
class Setup:
    """Settings that the trainings of one pool share.

    Attributes:
        folder: working folder of the pool.
        model: network by name.
        image_size: pixels of its input.
        precision: float32 or bfloat16.
        threads: of PyTorch.
        gpus: 0 for CPU.
    """

    folder: str
    model: str
    image_size: int
    precision: str
    threads: int
    gpus: int

    @property
    def compute(self) -> dict[str, Any]:
        """One worker with all the cores, or a GPU."""
        return {"actors": 1, "cpus": self.threads, "gpus": self.gpus}

    @property
    def network(self) -> dict[str, Any]:
        """Settings of every training."""
        return {"model": self.model, "image_size": self.image_size, "precision": self.precision}


@dataclass(frozen=True)
class Schedule:
    """A supervised training's length.

    Attributes:
        epochs: passes over the labelled rows.
        batch_rows: rows of a batch.
    """

    epochs: int
    batch_rows: int


def make_pools(setup: Setup, place: Place, limits: Limits, shares: tuple[float, ...]) -> dict[str, Any]:
    """Ingests the whole pool; for each share of labels its labelled rows; and those again to choose a rate on.

    Args:
        setup: its folder gets `pool/`, `labels-SHARE/` for each share, and `tune-SHARE-FOLD/` for each fold of it.
        place: the pool.
        limits: the most rows.
        shares: of the training rows, drawn at random; smaller ones are parts of larger ones.

    Returns:
        `rows`, `test_rows`, `classes`, share -> `labels`, and share -> `folds` where a rate is chosen on it.
    """
    pool = place.load(limits)
    order = np.random.default_rng(0).permutation(len(pool.train))
    labelled = {share: order[: max(2, round(share * len(order)))] for share in shares}
    folds = folds_of({share: len(rows) for share, rows in labelled.items()})
    _ingest(setup, WHOLE, pool.train, pool.test)
    for share, rows in labelled.items():
        _ingest(setup, labels_folder(share), pool.train.take(np.sort(rows)), pool.test)
        for fold in range(folds.get(share, 0)):
            held = np.arange(len(rows)) % FOLDS == fold
            train, test = (pool.train.take(np.sort(rows[part])) for part in (~held, held))
            _ingest(setup, tuning_folder(share, fold), train, test)
    return {
        "rows": len(pool.train),
        "test_rows": len(pool.test),
        "classes": len(pool.classes),
        "labels": {str(share): len(rows) for share, rows in labelled.items()},
        "folds": {str(share): count for share, count in folds.items()},
    }


def folds_of(labels: dict[float, int]) -> dict[float, int]:
    """Share -> folds on which its learning rate is chosen, of share -> labelled rows; the largest is always there."""
    largest = max(labels)
    tuned = {share: rows for share, rows in labels.items() if rows >= FEWEST_TO_TUNE or share == largest}
    return {share: min(FOLDS, -(-HELD_OUT * FOLDS // rows)) for share, rows in tuned.items()}


def tuning_folder(share: float, fold: int) -> str:
    """Folder of the pool of labelled rows whose fold is held out in place of the test rows."""
    return f"tune-{share:g}-{fold}"


def labels_folder(share: float) -> str:
    """Folder of the pool of labelled rows."""
    return f"labels-{share:g}"


def _ingest(setup: Setup, name: str, train: Rows, test: Rows) -> None:
    from coevo_ray.pipelines.ingest.ingest import ingest

    folder = Path(setup.folder)
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for split, rows in (("train", train), ("test", test)):
        file = folder / f"{name}-{split}.parquet"
        labels: Ids = rows.labels
        images = pa.array(list(rows.samples), pa.binary())
        pq.write_table(pa.table({"id": list(rows.ids), "image": images, "label": labels}), file)
        sources.append({"uri": str(file), "split": split, "key_column": "id"})
    ingest({"sources": sources}, str(folder / name))


def encode(setup: Setup, name: str, priors: tuple[str, ...], dim: int) -> dict[str, Any]:
    """Encodes the pool with some priors, every row by all of them.

    Returns:
        `seconds` of the command without the start of Ray, the `verdict` on the targets, and `best_prior`, the one that
        reaches the consensus best, told without labels.
    """
    from coevo_ray.pipelines.make_targets import encode as make_targets
    from coevo_ray.runtime.session import ray_session

    config = {
        "priors": [{"name": prior, "input_size": PIXELS} for prior in priors],
        "dim": dim,
        "coverage": "all",
        "compute": {"actors": 1 if setup.gpus else setup.threads, "cpus": 0.5, "gpus": setup.gpus},
    }
    with ray_session():
        started = time.perf_counter()
        targets = make_targets(config, f"{setup.folder}/{WHOLE}", f"{setup.folder}/encode/{name}")
        seconds = time.perf_counter() - started
    summary = targets.manifest.summary
    weights = [prior["weight"] for prior in summary["priors"]]
    best = priors[weights.index(max(weights))]
    return {"seconds": round(seconds, 2), "verdict": summary["verdict"]["text"], "best_prior": best}


def learn_targets(setup: Setup, name: str, settings: dict[str, Any], seed: int, out: str) -> dict[str, Any]:
    """Trains a network on targets, as the command does.

    Args:
        setup: what trainings share.
        name: of the targets.
        settings: of `train_targets` besides those of the setup.
        seed: of the training.
        out: folder of the network.

    Returns:
        `seconds` of training, `linear_probe` and `knn` of its features.
    """
    from coevo_ray.runtime.session import ray_session
    from coevo_ray.training.from_targets.train import train_targets

    config = {**setup.network, **settings, "seed": seed, "compute": setup.compute}
    with ray_session():
        place = f"{setup.folder}/encode/{name}/targets"
        summary = train_targets(config, f"{setup.folder}/{WHOLE}", place, out).manifest.summary
    return {key: summary[key] for key in ("seconds", "linear_probe", "knn", "epochs")}


def learn_byol(setup: Setup, settings: dict[str, Any], seconds: float, seed: int, out: str) -> dict[str, Any]:
    """Trains a network by BYOL for so many seconds, and writes it where a training can start from it.

    Args:
        setup: what trainings share.
        settings: `batch_rows`, `learning_rate` and `weight_decay`.
        seconds: of training.
        seed: of the training.
        out: folder of the network.

    Returns:
        `seconds` of training and `epochs`.
    """
    from coevo_ray.pool.pool import Pool
    from coevo_ray.store.artifact import finish
    from coevo_ray.store.location import Location
    from coevo_ray.training.networks import write_network_files

    pool = f"{setup.folder}/{WHOLE}"
    shared = {k: v for k, v in asdict(setup).items() if k != "folder"}
    rates = {"byol": settings["learning_rate"]}
    training = Training(
        pool=pool,
        batch_rows=settings["batch_rows"],
        learning_rate=rates,
        weight_decay=settings["weight_decay"],
        seed=seed,
        **shared,
    )
    backbone, made = fit_peer(training, "byol", Pool.open(pool), 1, seconds)
    state = {f"backbone.{name}": tensor.cpu() for name, tensor in backbone.state_dict().items()}
    place, card = Location.parse(out), {"model": setup.model, "stem": "standard", "image_size": setup.image_size}
    files = write_network_files(place, {"model": state}, card)
    finish(place, "model", {"objective": "byol", **settings}, {}, files, made)
    return made


@dataclass(frozen=True)
class Fit:
    """Supervised trainings from one kind of start.

    Attributes:
        pools: for each training the folder of labelled and held-out rows, in the working folder.
        schedule: their length.
        learning_rate: peak.
        inits: for each training the folder of the network that it starts from, or None.
        freeze_epochs, layer_decay: see the settings of training.
    """

    pools: tuple[str, ...]
    schedule: Schedule
    learning_rate: float
    inits: tuple[str | None, ...]
    freeze_epochs: int = 0
    layer_decay: float = 1.0

    def at(self, learning_rate: float) -> Fit:
        """The same at another rate."""
        return replace(self, learning_rate=learning_rate)


def learn_labels(setup: Setup, fit: Fit, out: str) -> list[list[dict[str, float]]]:
    """Runs each training, with the seed of its place, as the command does.

    Returns:
        For each training and epoch `epochs`, `seconds` of training so far, and `accuracy` on held-out rows.
    """
    from coevo_ray.pipelines.train import train_supervised
    from coevo_ray.runtime.session import ray_session

    found = []
    with ray_session():
        for seed, (pool, init) in enumerate(zip(fit.pools, fit.inits, strict=True)):
            config = {
                **setup.network,
                **asdict(fit.schedule),
                "learning_rate": fit.learning_rate,
                "augment": "shift_flip",
                "labels": "pool",
                "policies": ["full"],
                "keep": 1.0,
                "seed": seed,
                "compute": setup.compute,
            }
            if init is not None:
                config |= {"freeze_epochs": fit.freeze_epochs, "layer_decay": fit.layer_decay}
            model = train_supervised(config, f"{setup.folder}/{pool}", f"{out}-{seed}", init=init)
            history = model.manifest.summary["history"]
            found.append(
                [
                    {"epochs": e["epoch"] + 1, "seconds": round(e["seconds"], 2), "accuracy": round(e["accuracy"], 5)}
                    for e in history
                ]
            )
    return found
