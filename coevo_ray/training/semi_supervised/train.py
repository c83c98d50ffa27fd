"""The objective `semi_supervised`: a few labels, and consistency between views of all rows, with Ray Train."""

from __future__ import annotations

import os
import time
from typing import Any

import ray

from coevo_ray.actors.progress_board import progress_board
from coevo_ray.config import SemiTrainConfig, make_config
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.progress import say
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import ray_errors
from coevo_ray.store.artifact import Manifest, begin, digest_array, finish, write_blob
from coevo_ray.store.location import Location
from coevo_ray.training.loop.metrics import METRICS, json_lines
from coevo_ray.training.loop.ray_train import fit, load_checkpoint
from coevo_ray.training.loop.weights import write_weights
from coevo_ray.training.models import check_model
from coevo_ray.training.semi_supervised.loop import train_loop
from coevo_ray.training.semi_supervised.rows import Table, gather_rows, open_labels, open_pseudo_labels
from coevo_ray.training.semi_supervised.step import SemiRows

_TITLE = "train semi_supervised"
# Of the last epoch, what the summary repeats.
_FIGURES = ("labelled_loss", "consistency_loss", "confident_share", "pseudo_accuracy", "own_accuracy", "samples")
_POOR = 0.5  # of the targets of labelled rows


def train_semi_supervised(
    config: SemiTrainConfig | dict[str, Any],
    pool: Pool | str | os.PathLike[str],
    out: str | os.PathLike[str] | Location,
    labels: Table | None = None,
    pseudo_labels: Table | None = None,
) -> dict[str, Any]:
    """Trains a network on the labels of some training rows and on the images of all (FixMatch, arXiv 2001.07685).

    Each step has labelled rows and `mu` times as many unlabelled ones. A labelled row's weak view has a cross-entropy
    with its label. Of an unlabelled row's weak view the teacher predicts the class; where it is sure enough, that class
    is the target of the row's strong view. Labelled rows come round and round; an epoch is one pass over the others,
    and with few of them several, so that the training has `least_steps`.

    Args:
        config: network, views, rule, schedule; a dict is validated.
        pool: images, or their folder. Labels of unlabelled training rows are read for `pseudo_accuracy` alone, those of
            held-out rows for `accuracy`.
        out: folder of the result: `model.safetensors` (and `ema.safetensors`), `model.json`, `metrics.jsonl` with an
            object for each epoch, and manifest; `training.supervised.load_classifier` reads it.
        labels: label table of the pool, as the gate makes it, or its folder; None for the pool's own labels, of which
            unlabelled rows have none.
        pseudo_labels: table of pseudo-labels, its folder, or that of the gate that exported them: these rows train as
            labelled ones, weighted by their confidence. Labels go before pseudo-labels.

    Returns:
        The summary: `accuracy` of the last epoch on held-out rows, with averaged weights `ema_accuracy`; its
        `labelled_loss`, `consistency_loss`, `confident_share` (of unlabelled rows with a target), `pseudo_accuracy`
        (of these targets, where labels are known) and `own_accuracy` (of labelled rows' targets); `labelled`,
        `pseudo_labelled` and `unlabelled` rows; `steps`, `samples` and `seconds` of training, and the `history`. With a
        label on every training row it is supervised training.

    Raises:
        InputError: an input is missing, of another pool or holds texts, labels are unfit or of one class alone, or
            training diverged.
        UsageError: the settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = config if isinstance(config, SemiTrainConfig) else make_config(SemiTrainConfig, config, "train")
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    if pool.modality != "image":
        raise InputError(
            f"the pool at {pool.location} holds {pool.samples.plural}", "give a pool of images: views are made of them"
        )
    table = None if labels is None else open_labels(labels, pool)
    pseudo = None if pseudo_labels is None else open_pseudo_labels(pseudo_labels, pool)
    rows = gather_rows(pool, table, pseudo, config.pseudo_weight)
    check_model(config.model, rows.classes, config.image_size, config.stem)
    content = {"objective": "semi_supervised", **config.content()}
    inputs = {"pool": pool.manifest.identity}
    inputs["labels"] = digest_array(pool.labels()) if table is None else table.manifest.identity
    if pseudo is not None:
        inputs["pseudo_labels"] = pseudo.manifest.identity
    location = Location.parse(out)
    done = begin(location, "model", content, inputs)
    if done is None:
        done = _train(config, pool, rows, location, content, inputs)
    return done.summary


def _train(
    config: SemiTrainConfig,
    pool: Pool,
    rows: SemiRows,
    location: Location,
    content: dict[str, Any],
    inputs: dict[str, str],
) -> Manifest:
    started = time.monotonic()
    counts = rows.counts()
    if counts["unlabelled"] == 0:
        say(f"{_TITLE}: every training row has a label, so this is supervised training")
    _, others, steps = rows.plan(config)
    if others is not None and config.epoch_steps is None and steps > others.cycle.steps:
        passes = f"{steps / others.cycle.steps:.1f} passes over {len(others.row_ids)} rows"
        say(f"{_TITLE}: an epoch is {passes}, so that the training has {config.least_steps} steps (least_steps)")
    with ray_session(), ray_errors(_TITLE), progress_board(_TITLE, config.epochs, "epochs") as board:
        arguments = {
            "config": config,
            "pool": pool.location,
            "rows": ray.put(rows),
            "board": board,
            "out": location,
        }
        checkpoint = fit(_TITLE, train_loop, arguments, config.compute, location.child("training"))
    state, history = load_checkpoint(checkpoint)
    last = history[-1]
    if last["own_accuracy"] is not None and last["own_accuracy"] < _POOR:
        say(
            f"{_TITLE}: of the targets of labelled rows only {last['own_accuracy']:.0%} are their labels, and those of "
            "other rows are hardly better: train for more steps, or with consistency_weight 0"
        )
    card = {"model": config.model, "stem": config.stem, "image_size": config.image_size, "classes": rows.classes}
    files = write_weights(location, state, card)
    files.append(write_blob(location, METRICS, json_lines(history)))
    summary: dict[str, Any] = {
        "objective": "semi_supervised",
        **{name: last[name] for name in ("accuracy", "ema_accuracy", *_FIGURES) if name in last},
        "seconds": round(last["seconds"], 3),
        "epochs": len(history),
        "steps": len(history) * steps,
        **counts,
        "history": history,
        "wall_seconds": round(time.monotonic() - started, 3),
    }
    return finish(location, "model", content, inputs, files, summary)
