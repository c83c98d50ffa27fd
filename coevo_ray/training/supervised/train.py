"""Supervised training on each epoch's subset, with Ray Train (DESIGN sections 5.3, 5.5, 5.6)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray
from torch import nn

from coevo_ray.actors.actor import start_selection
from coevo_ray.actors.ledger_inputs import LedgerInputs
from coevo_ray.actors.progress_board import progress_board
from coevo_ray.config import TrainConfig
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.selection.policies import SelectionContext
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.artifact import begin, digest, digest_array, finish, load_manifest, write_blob
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.loop.metrics import METRICS, json_lines
from coevo_ray.training.loop.ray_train import fit, load_checkpoint
from coevo_ray.training.loop.weights import CARD, read_weights, write_weights
from coevo_ray.training.models import check_model, make_model
from coevo_ray.training.supervised.loop import train_loop

# What of a policy's `uses` comes from the evidence table.
EVIDENCE = frozenset({"doubt", "copies", "copy"})


def train_policy(
    config: TrainConfig,
    policy: str,
    pool: Pool,
    labels: Int64Array,
    scores: RowTable | None,
    out: Place,
    evidence: RowTable | None = None,
) -> Location:
    """Trains a network under one policy and evaluates it on the held-out split after each epoch.

    Args:
        config: network, optimizer, schedule, kept share.
        policy: name of the policy.
        pool: images.
        labels: int64[rows of the pool], -1 where there is none; held-out rows' labels are for evaluation only.
        scores: score table of the pool's rows, or None.
        out: folder of the result: `model.safetensors` (and `ema.safetensors`), `model.json`, `metrics.jsonl` with an
            object for each epoch, journal and manifest.
        evidence: evidence on labels and copies, for policies that look at it, or None.

    Raises:
        InputError: no labelled training row, a policy that needs scores has none, or training diverged.
        UsageError: the model is unknown, or settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    location = Location.parse(out)
    rule = config.make_policy(policy)
    content = config.model_dump(mode="json", exclude={"compute", "policies", "policy_options"})
    content |= {"policy": policy, "policy_options": config.policy_options.get(policy, {})}
    inputs = {"pool": pool.manifest.identity, "labels": digest_array(labels)}
    if scores is not None:
        inputs["scores"] = scores.manifest.identity
    if evidence is not None and rule.uses & EVIDENCE:
        inputs["evidence"] = evidence.manifest.identity
    check_model(config.model, pool.classes, config.image_size, config.stem)
    if begin(location, "model", content, inputs) is not None:
        return location
    started = time.monotonic()
    candidates = (pool.splits() == 0) & (labels >= 0)
    if not candidates.any():
        raise InputError("no training row has a label", "ingest a source with labels, or run the gate first")
    ledger = LedgerInputs(
        policy,
        config,
        labels,
        candidates,
        None if scores is None else scores.location,
        location.child("journal"),
        evidence.location if evidence is not None and "evidence" in inputs else None,
    )
    planned = planned_rows(config, policy, int(candidates.sum()))
    with ray_session():
        selection = start_selection(digest([str(location), inputs]), ledger.make)
        try:
            with progress_board(f"train {policy}", len(planned), "epochs") as board:
                arguments = {
                    "config": config,
                    "planned": planned,
                    "candidates": int(candidates.sum()),
                    "report_losses": rule.needs_losses,
                    "pool": pool.location,
                    "classes": pool.classes,
                    "labels": ray.put(labels),
                    "selection": selection,
                    "board": board,
                    "out": location,
                }
                checkpoint = fit(f"train {policy}", train_loop, arguments, config.compute, location.child("training"))
            usage = selection.usage_histogram()
        finally:
            selection.stop()
    state, history = load_checkpoint(checkpoint)
    last = history[-1]
    card = {"model": config.model, "stem": config.stem, "image_size": config.image_size, "classes": pool.classes}
    files = write_weights(location, state, card)
    files.append(write_blob(location, METRICS, json_lines(history)))
    summary: dict[str, Any] = {
        "policy": policy,
        **{name: last[name] for name in ("accuracy", "ema_accuracy", "samples") if name in last},
        "seconds": round(last["seconds"], 3),
        "epochs": len(history),
        "candidates": int(candidates.sum()),
        "history": history,
        "usage": {str(k): v for k, v in usage.items()},
        "wall_seconds": round(time.monotonic() - started, 3),
    }
    finish(location, "model", content, inputs, files, summary)
    return location


def check_one_policy(config: TrainConfig) -> None:
    """Refuses settings for several trainings.

    Raises:
        UsageError: they name several policies.
    """
    if len(config.policies) != 1:
        raise UsageError(f"policies are {list(config.policies)}", "give one; a run's file may have several")


def looks_at_evidence(config: TrainConfig) -> bool:
    """Whether any of the policies looks at doubt about labels or at copies."""
    return any(config.make_policy(policy).uses & EVIDENCE for policy in config.policies)


def load_classifier(location: ArtifactLike, *, average: bool = False) -> nn.Module:
    """Reads a trained classifier back, ready to predict.

    Args:
        location: what a training made, or its folder.
        average: take the averaged weights (`ema`).

    Raises:
        InputError: there is no finished classifier here, or it has no averaged weights.
        UsageError: its model is not known on this machine.
    """
    location = Location.parse(location)
    load_manifest(location, "model")
    card = location.child(CARD).read_json()
    if "classes" not in card:
        raise InputError(f"{location} is no classifier", "give what supervised training made")
    network = make_model(card["model"], card["classes"], stem=card["stem"], image_size=card["image_size"])
    read_weights(location, network, average=average)
    return network.eval()


def planned_rows(config: TrainConfig, policy: str, candidates: int) -> list[int]:
    """Rows of each epoch that will be run, as far as the policy knows them beforehand.

    Args:
        config: kept shares and epochs.
        policy: name of the policy.
        candidates: rows that may be selected.

    Raises:
        UsageError: the policy is unknown.
    """
    rule, nothing = config.make_policy(policy), np.broadcast_to(np.int64(0), (candidates,))  # takes no memory
    return [
        rule.rows_planned(
            SelectionContext(
                epoch=epoch,
                epochs=config.epochs,
                keep=config.shares.at(epoch, config.epochs),
                seed=config.seed,
                candidates=nothing,
                usage=nothing,
            )
        )
        for epoch in range(rule.epochs_to_run(config.epochs, config.shares))
    ]
