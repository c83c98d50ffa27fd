"""The command train: for a run's file, on a pool's labels, or on targets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from coevo_ray.cli.options import JsonFlag, given
from coevo_ray.cli.show import show
from coevo_ray.errors import UsageError


def train(
    file: Annotated[Path | None, typer.Argument(help="YAML file of a run whose earlier stages are finished.")] = None,
    policy: Annotated[str | None, typer.Option(help="One policy; with FILE instead of those of the file.")] = None,
    objective: Annotated[str | None, typer.Option(help="supervised or targets: train without a FILE.")] = None,
    pool: Annotated[str | None, typer.Option(help="With --objective: folder of the pool.")] = None,
    targets: Annotated[str | None, typer.Option(help="With --objective targets: their folder.")] = None,
    scores: Annotated[str | None, typer.Option(help="With --objective supervised: folder of scores.")] = None,
    out: Annotated[str | None, typer.Option(help="With --objective: folder of the result.")] = None,
    model: Annotated[
        str | None, typer.Option(help="small_cnn, torchvision:NAME, timm:NAME or package.module:function.")
    ] = None,
    stem: Annotated[str | None, typer.Option(help="standard, or small for images of about 32 pixels.")] = None,
    head: Annotated[str | None, typer.Option(help="Of targets: linear or mlp, from features to targets.")] = None,
    augment: Annotated[str | None, typer.Option(help="Supervised: none, shift or shift_flip.")] = None,
    keep: Annotated[float | None, typer.Option(help="Supervised: kept share of an epoch.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Supervised: share that all classes divide.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="onecycle, cosine or constant.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 on the weights; with adamw decoupled.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay per step of averaged weights.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training rows.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Rows of a global batch.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels of the network input.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32; bfloat16 or (GPU) float16 for autocast.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation, order and augmentation.")] = None,
    actors: Annotated[int | None, typer.Option(help="Ray Train workers.")] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs for each of them.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs for each of them.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Train on each epoch's subset after the earlier stages of a run; or on a pool's labels, or on stored targets."""
    settings: dict[str, Any] = {
        "model": model,
        "stem": stem,
        "optimizer": optimizer,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "ema": ema,
        "epochs": epochs,
        "batch_rows": batch_rows,
        "image_size": image_size,
    }
    settings |= {"learning_rate": learning_rate, "precision": precision, "seed": seed}
    compute = {"actors": actors, "cpus": cpus, "gpus": gpus}
    places = {"pool": pool, "out": out}
    of_targets = {"targets": targets, "head": head}
    of_labels = {"scores": scores, "augment": augment, "keep": keep, "label_smoothing": label_smoothing}
    if objective is None:
        show(_train_file(file, policy, {**places, **of_targets, **of_labels, **settings, **compute}), as_json)
        return
    chosen = {**settings, "compute": {"cpus": 1, **given(**compute)}}
    if objective == "targets":
        _check_objective(objective, {"FILE": file, "policy": policy, **of_labels}, {**places, "targets": targets})
        from coevo_ray import commands

        summary = commands.train_targets(given(**chosen, head=head), str(pool), str(targets), str(out))
    else:
        _check_objective(objective, {"FILE": file, **of_targets}, places)
        from coevo_ray import commands

        chosen |= {**of_labels, "policies": None if policy is None else [policy], "labels": "pool"}
        del chosen["scores"]
        summary = commands.train_supervised(given(**chosen), str(pool), str(out), scores)
    show({"model": str(out), **summary}, as_json)


def _train_file(file: Path | None, policy: str | None, others: dict[str, Any]) -> dict[str, Any]:
    if file is None:
        raise UsageError("train was given neither a FILE nor --objective", "give the YAML, or --objective")
    if given(**others):
        raise UsageError(
            f"{_options(given(**others))} with FILE, which has its own settings",
            "edit FILE, or give --objective instead",
        )
    from coevo_ray.config import load_config

    config = load_config(file)  # a mistake shows before the slow imports
    from coevo_ray import commands

    return commands.train(config, policy)


def _check_objective(objective: str, not_with_it: dict[str, Any], places: dict[str, str | None]) -> None:
    if objective not in ("supervised", "targets"):
        raise UsageError(f"unknown objective {objective!r}", "it can be: supervised, targets")
    if given(**not_with_it):
        raise UsageError(f"--objective {objective} with {_options(given(**not_with_it))}", "leave one of them out")
    missing = [name for name, value in places.items() if value is None]
    if missing:
        raise UsageError(f"--objective {objective} without {_options(missing)}", f"give {_options(places)}")


def _options(names: Iterable[str]) -> str:
    return ", ".join(name if name.isupper() else "--" + name.replace("_", "-") for name in names)
