"""The command train: for a run's file, on a pool's labels, on a few labels, or on targets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coevo_ray.cli.options import JsonFlag, PolicyOptions, given, policy_options
from coevo_ray.cli.show import show
from coevo_ray.errors import UsageError

if TYPE_CHECKING:
    from coevo_ray.store.artifact import Artifact


def train(
    file: Annotated[Path | None, typer.Argument(help="YAML file of a run whose earlier stages are finished.")] = None,
    policy: Annotated[str | None, typer.Option(help="One policy; with FILE instead of those of the file.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="supervised, semi_supervised or targets: train without a FILE.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="With --objective: folder of the pool.")] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="With --objective: folder of targets; supervised gathers evidence on labels and copies."),
    ] = None,
    scores: Annotated[str | None, typer.Option(help="With --objective supervised: folder of scores.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Folder of a gate, or of labels that one exported. Default: the pool's own.")
    ] = None,
    pseudo_labels: Annotated[
        str | None, typer.Option(help="Semi-supervised: folder of the gate's pseudo-labels.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="With --objective: folder of the result.")] = None,
    model: Annotated[
        str | None, typer.Option(help="small_cnn, torchvision:NAME, timm:NAME or package.module:function.")
    ] = None,
    stem: Annotated[str | None, typer.Option(help="standard, or small for images of about 32 pixels.")] = None,
    head: Annotated[str | None, typer.Option(help="Of targets: linear or mlp, from features to targets.")] = None,
    augment: Annotated[str | None, typer.Option(help="Supervised: none, shift or shift_flip.")] = None,
    keep: Annotated[float | None, typer.Option(help="Supervised: kept share of an epoch.")] = None,
    keep_last: Annotated[
        float | None, typer.Option(help="Supervised: kept share of the last epoch; linear between.")
    ] = None,
    full_tail: Annotated[
        float | None, typer.Option(help="Supervised: share of the epochs, at the end, on all rows.")
    ] = None,
    class_power: Annotated[
        float | None, typer.Option(help="Supervised: class quotas in proportion to size ** this; 0 is equal.")
    ] = None,
    unbiased: Annotated[
        bool, typer.Option("--unbiased", help="Supervised: weigh rows by the inverse of their chance.")
    ] = False,
    policy_option: PolicyOptions = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Supervised: share that all classes divide.")] = None,
    mu: Annotated[int | None, typer.Option(help="Semi-supervised: unlabelled rows of a step per labelled one.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Semi-supervised: confidence from which a prediction becomes a target.")
    ] = None,
    thresholds: Annotated[str | None, typer.Option(help="Semi-supervised: class, or fixed for all classes.")] = None,
    consistency_weight: Annotated[
        float | None, typer.Option(help="Semi-supervised: weight of the unlabelled rows' loss.")
    ] = None,
    ramp_epochs: Annotated[
        float | None, typer.Option(help="Semi-supervised: epochs in which that weight rises from 0.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Semi-supervised: network or ema, who predicts targets.")] = None,
    strength: Annotated[float | None, typer.Option(help="Semi-supervised: strength of strong views, 0 to 2.")] = None,
    least_steps: Annotated[int | None, typer.Option(help="Semi-supervised: fewest steps of the training.")] = None,
    epoch_steps: Annotated[int | None, typer.Option(help="Semi-supervised: steps of an epoch.")] = None,
    pseudo_weight: Annotated[
        str | None, typer.Option(help="Semi-supervised: confidence or one, weight of a pseudo-label.")
    ] = None,
    labelled_too: Annotated[
        bool | None, typer.Option(help="Semi-supervised: labelled rows are among those for consistency too.")
    ] = None,
    flip: Annotated[bool | None, typer.Option(help="Semi-supervised and targets: mirror half of the views.")] = None,
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
    """Train on each epoch's subset after the earlier stages of a run; or on labels, on a few of them, or on targets."""
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
    of_labels = {
        "augment": augment,
        "keep": keep,
        "keep_last": keep_last,
        "full_tail": full_tail,
        "class_power": class_power,
        "unbiased": unbiased or None,
        "label_smoothing": label_smoothing,
    }
    more_of_labels = {"scores": scores, "policy_option": policy_option or None}
    of_few = {
        "mu": mu,
        "thresholds": thresholds,
        "threshold": threshold,
        "consistency_weight": consistency_weight,
        "ramp_epochs": ramp_epochs,
        "teacher": teacher,
        "strength": strength,
        "least_steps": least_steps,
        "epoch_steps": epoch_steps,
        "pseudo_weight": pseudo_weight,
        "labelled_too": labelled_too,
    }
    only_supervised = {"FILE": file, "policy": policy, **of_labels, **more_of_labels}
    only_few, of_views, of_gate = {**of_few, "pseudo_labels": pseudo_labels}, {"flip": flip}, {"labels": labels}
    if objective is None:
        others = {
            **places,
            "targets": targets,
            "head": head,
            **of_labels,
            **more_of_labels,
            **only_few,
            **of_views,
            **of_gate,
        }
        trained = _train_file(file, policy, {**others, **settings, **compute})
        show({name: dict(model) for name, model in trained.items()}, as_json)
        return
    chosen = {**settings, "compute": {"cpus": 1, **given(**compute)}}
    if objective == "targets":
        _check_objective(objective, {**only_supervised, **only_few, **of_gate}, {**places, "targets": targets})
        from coevo_ray.app import api

        summary = api.train_targets(given(**chosen, head=head, flip=flip), str(pool), str(targets), str(out))
    elif objective == "semi_supervised":
        _check_objective(objective, {**only_supervised, "targets": targets, "head": head}, places)
        from coevo_ray.app import api

        given_settings = given(**chosen, **of_few, flip=flip)
        summary = api.train_semi_supervised(given_settings, str(pool), str(out), labels, pseudo_labels)
    else:
        _check_objective(objective, {"FILE": file, "head": head, **only_few, **of_views}, places)
        chosen |= {**of_labels, **_policies(policy, policy_options(policy_option)), "labels": "pool"}
        from coevo_ray.app import api

        summary = api.train_supervised(given(**chosen), str(pool), str(out), scores, targets=targets, labels=labels)
    show({"model": str(out), **summary}, as_json)


def _policies(policy: str | None, options: dict[str, Any]) -> dict[str, Any]:
    if policy is None:
        if options:
            raise UsageError("--policy-option without --policy", "say whose option it is: --policy factors")
        return {}
    return {"policies": [policy], "policy_options": {policy: options} if options else {}}


def _train_file(file: Path | None, policy: str | None, others: dict[str, Any]) -> dict[str, Artifact]:
    if file is None:
        raise UsageError("train was given neither a FILE nor --objective", "give the YAML, or --objective")
    if given(**others):
        raise UsageError(
            f"{_options(given(**others))} with FILE, which has its own settings",
            "edit FILE, or give --objective instead",
        )
    from coevo_ray.config import load_config

    config = load_config(file)  # a mistake shows before the slow imports
    from coevo_ray.app import api

    return api.train(config, policy)


def _check_objective(objective: str, not_with_it: dict[str, Any], places: dict[str, str | None]) -> None:
    if objective not in ("supervised", "semi_supervised", "targets"):
        raise UsageError(f"unknown objective {objective!r}", "it can be: supervised, semi_supervised, targets")
    if given(**not_with_it):
        raise UsageError(f"--objective {objective} with {_options(given(**not_with_it))}", "leave one of them out")
    missing = [name for name, value in places.items() if value is None]
    if missing:
        raise UsageError(f"--objective {objective} without {_options(missing)}", f"give {_options(places)}")


def _options(names: Iterable[str]) -> str:
    return ", ".join(name if name.isupper() else "--" + name.replace("_", "-") for name in names)
