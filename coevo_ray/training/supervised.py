"""Supervised training on each epoch's subset, with Ray Train (DESIGN sections 5.3, 5.5, 5.6)."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
import torch.distributed
from safetensors.torch import save as save_safetensors
from torch import nn

from coevo_ray.actors.progress import progress_board
from coevo_ray.actors.selection import SelectionHandle, start_selection
from coevo_ray.actors.service import SelectionService
from coevo_ray.config import TrainConfig
from coevo_ray.core.epoch_plan import Subset
from coevo_ray.core.ledger import SelectionLedger
from coevo_ray.core.rows import Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.pool import Pool
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.artifact import begin, digest, finish, write_blob
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.feed import Feed
from coevo_ray.training.images import ImageTransform
from coevo_ray.training.learner import Learner
from coevo_ray.training.models import make_model
from coevo_ray.training.trainer import fit, load_checkpoint, worker_threads


@dataclass(frozen=True)
class LedgerInputs:
    """What the selection actor builds its ledger from.

    Attributes:
        policy: name of the policy.
        config: kept share, epochs, seed.
        labels: int64[rows], -1 where a row has none; rows with a label and not held out may be selected.
        candidates: bool[rows].
        scores: score table, or None for policies that need none.
        journal: folder of the journal.
    """

    policy: str
    config: TrainConfig
    labels: Int64Array
    candidates: npt.NDArray[np.bool_]
    scores: Location | None
    journal: Location

    def make(self) -> SelectionService:
        """Builds the service; runs inside the actor."""
        ledger = SelectionLedger(
            rows=len(self.labels),
            candidates=self.candidates,
            policy=self.config.make_policy(self.policy),
            keep=self.config.shares,
            epochs=self.config.epochs,
            seed=self.config.seed,
        )
        ledger.set_labels(self.labels)
        if self.scores is not None:
            ledger.set_scores(*self._score_columns())
        return SelectionService(self.journal, ledger=ledger)

    def _score_columns(self) -> tuple[npt.NDArray[Any], ...]:
        assert self.scores is not None
        table = RowTable(self.scores, "scores").scan(["row_id", "representativeness", "diversity", "factor"])
        row_ids = table.column("row_id").to_numpy()
        columns = []
        # Rows that were rejected have no score: they come last, and belong to no factor.
        for name, dtype, missing in (
            ("representativeness", np.float16, 0),
            ("diversity", np.float16, 0),
            ("factor", np.int32, -1),
        ):
            column = np.full(len(self.labels), missing, dtype=dtype)
            column[row_ids] = table.column(name).to_numpy()
            columns.append(column)
        return tuple(columns)


def train_policy(
    config: TrainConfig, policy: str, pool: Pool, labels: Int64Array, scores: RowTable | None, out: str | Location
) -> Location:
    """Trains a network under one policy and evaluates it on the held-out split after each epoch.

    Args:
        config: network, schedule, kept share.
        policy: name of the policy.
        pool: images.
        labels: int64[rows of the pool], -1 where there is none; held-out rows' labels are for evaluation only.
        scores: score table of the pool's rows, or None.
        out: folder of the result: `model.safetensors`, journal and manifest.

    Raises:
        InputError: no labelled training row, or a policy that needs scores has none.
        UsageError: the model is unknown, or settings were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    location = Location.parse(out)
    content = {**config.model_dump(mode="json", exclude={"compute", "policies"}), "policy": policy}
    inputs = {"pool": pool.manifest.identity, "labels": digest(labels.tolist())}
    if scores is not None:
        inputs["scores"] = scores.manifest.identity
    if begin(location, "model", content, inputs) is not None:
        return location
    started = time.monotonic()
    candidates = (pool.splits() == 0) & (labels >= 0)
    if not candidates.any():
        raise InputError("no training row has a label", "ingest a source with labels, or run the gate first")
    ledger = LedgerInputs(
        policy, config, labels, candidates, None if scores is None else scores.location, location.child("journal")
    )
    epochs = config.make_policy(policy).epochs_to_run(config.epochs, config.shares)
    with ray_session():
        selection = start_selection(digest([str(location), inputs]), ledger.make)
        try:
            with progress_board(f"train {policy}", epochs, "epochs") as board:
                arguments = {
                    "config": config,
                    "epochs": epochs,
                    "pool": pool.location,
                    "classes": pool.classes,
                    "labels": ray.put(labels),
                    "selection": selection,
                    "board": board,
                }
                checkpoint = fit(f"train {policy}", _loop, arguments, config.compute, location.child("training"))
            usage = selection.usage_histogram()
        finally:
            selection.stop()
    state, history = load_checkpoint(checkpoint)
    files = [write_blob(location, "model.safetensors", save_safetensors(state["model"]))]
    summary = {
        "policy": policy,
        "accuracy": history[-1]["accuracy"],
        "samples": history[-1]["samples"],
        "seconds": round(history[-1]["seconds"], 3),
        "epochs": len(history),
        "candidates": int(candidates.sum()),
        "history": history,
        "usage": {str(k): v for k, v in usage.items()},
        "wall_seconds": round(time.monotonic() - started, 3),
    }
    finish(location, "model", content, inputs, files, summary)
    return location


def _loop(arguments: dict[str, Any]) -> None:
    """Runs on every Ray Train worker."""
    config: TrainConfig = arguments["config"]
    worker_threads(config.compute.cpus, config.compute.gpus)
    trainer = _Trainer(arguments)
    learner = trainer.learner
    for epoch in range(len(learner.history), arguments["epochs"]):
        started = time.monotonic()
        subset: Subset = trainer.selection.select(epoch)
        loss = trainer.train_epoch(subset)
        seconds = time.monotonic() - started
        accuracy = trainer.evaluate()
        learner.note(len(subset.row_ids), seconds, loss=loss, accuracy=accuracy)
        if learner.rank == 0:
            # All ranks are past the epoch here: evaluation has joined them.
            trainer.selection.commit(epoch)
            arguments["board"].note.remote(epoch + 1, "" if accuracy is None else f"accuracy {accuracy:.3f}")
        learner.save()


class _Trainer:
    """One worker's learner and feeds."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        config: TrainConfig = arguments["config"]
        self.learner = Learner(config.seed)
        self.selection: SelectionHandle = arguments["selection"]
        self.labels: Int64Array = ray.get(arguments["labels"])
        pool = Pool(arguments["pool"])
        feed = functools.partial(Feed, pool, ["image"], global_batch=config.batch_rows, seed=config.seed)
        self.feed = feed(transform=ImageTransform(config.image_size, config.augment))
        self.test_feed = feed(transform=ImageTransform(config.image_size, "none"))
        test = pool.test_ids()
        self.test = Subset(0, test[self.labels[test] >= 0], None)
        self.learner.prepare(make_model(config.model, arguments["classes"]))
        optimizer = functools.partial(
            torch.optim.SGD,
            lr=config.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=config.weight_decay,
        )
        first = len(self.selection.select(len(self.learner.history)).row_ids)
        steps = -(-first // config.batch_rows) * arguments["epochs"]
        schedule = functools.partial(
            torch.optim.lr_scheduler.OneCycleLR, max_lr=config.learning_rate, total_steps=steps, pct_start=0.3
        )
        self.learner.optimise(optimizer, schedule)

    def train_epoch(self, subset: Subset) -> float:
        """One pass over the subset; returns this rank's mean loss per row."""
        learner = self.learner
        learner.network.train()
        total, rows = 0.0, 0.0
        for batch in self.feed.epoch(subset, learner.rank, learner.world):
            labels = torch.from_numpy(self.labels[batch.row_ids]).to(learner.device)
            weights = batch.weights.to(learner.device)
            logits = learner.network(batch.tensors["image"].to(learner.device))
            losses = nn.functional.cross_entropy(logits, labels, reduction="none") * weights
            total, rows = total + learner.step(losses, batch), rows + float(weights.sum())
        return total / max(rows, 1.0)

    @torch.no_grad()
    def evaluate(self) -> float | None:
        """Share of held-out rows that are classified rightly, over all ranks; None without held-out labels."""
        if len(self.test.row_ids) == 0:
            return None
        network, device = self.learner.network, self.learner.device
        network.eval()
        right = torch.zeros(1, device=device)
        for batch in self.test_feed.epoch(self.test, self.learner.rank, self.learner.world):
            labels = torch.from_numpy(self.labels[batch.row_ids]).to(device)
            predicted = network(batch.tensors["image"].to(device)).argmax(dim=1)
            right += ((predicted == labels) * batch.weights.to(device)).sum()
        if self.learner.world > 1:
            torch.distributed.all_reduce(right)
        return float(right.item() / len(self.test.row_ids))
