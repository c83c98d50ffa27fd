"""Supervised training on each epoch's subset, with Ray Train."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import ray
from torch import nn

from coevo_ray.actors.actor import start_selection
from coevo_ray.actors.ledger_inputs import LedgerInputs
from coevo_ray.actors.progress_board import BoardHandle
from coevo_ray.config import TrainConfig
from coevo_ray.core.arrays import BoolArray, Int64Array, compact_labels
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.core.selection.ledger import rules_of
from coevo_ray.core.selection.planned import planned_visits
from coevo_ray.core.selection.policies import RULES
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import TEST, TRAIN, Pool
from coevo_ray.store.artifact import Artifact, begun_config
from coevo_ray.store.digests import digest, digest_array
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import FileEntry, load_manifest
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.inputs.choose import made_with
from coevo_ray.training.inputs.shapes import check_size, shape_of
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.label_tables import rows_there
from coevo_ray.training.loop.run_training import (
    ModelArtifact,
    Trained,
    Training,
    epoch_reports,
    run_training,
    write_network,
)
from coevo_ray.training.loop.weights import CARD, WEIGHTS, read_weights
from coevo_ray.training.model_files import check_made, check_outputs, read_made
from coevo_ray.training.start import Start, prepare_input
from coevo_ray.training.supervised.loop import SupervisedArguments, train_loop

# Entries of a policy's `uses` that come from the evidence table.
EVIDENCE = frozenset({"doubt", "irreducible", "copies", "copy"})


def train_policy(
    config: TrainConfig,
    policy: str,
    pool: Pool,
    labels: Int64Array,
    scores: RowTable | None,
    out: Place,
    evidence: RowTable | None = None,
    init: ArtifactLike | None = None,
    trust: Sequence[str] = (),
    targets: RowTable | None = None,
) -> Artifact:
    """Trains a network under one policy and evaluates it on the held-out split after each epoch.

    Args:
        config: network, optimizer, schedule, kept share.
        policy: name of the policy.
        pool: samples.
        labels: int64[rows of the pool], -1 where there is none; held-out rows' labels are for evaluation only.
        scores: score table of the pool's rows, or None.
        out: folder of the result: `model.safetensors` (and `ema.safetensors`), `model.json`, `network.json`,
            `metrics.jsonl` with an object for each epoch, journal and manifest.
        evidence: evidence on labels and copies, for policies that look at it, or None.
        init, trust: trained network whose backbone is the start, as in `training.start.starting_from`.
        targets: the pool's targets, where the network takes them instead of samples; rows without one have no label.

    Raises:
        InputError: no labelled training row, a policy that needs scores has none, init is no trained network, or
            training diverged.
        UsageError: the model is unknown, not that of init or does not take what the pool gives, or settings were
            changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config, source, start = prepare_input(config, pool, targets, pool.classes, init, trust)
    if source.kind != "pool":
        labels = np.where(rows_there(source.table(), len(pool)), labels, -1)
    run = _PolicyRun(config, policy, pool, source, labels, scores, evidence, Location.parse(out), start)
    return run_training(run.artifact, run.prepare)


@dataclass(frozen=True, eq=False)
class _PolicyRun:
    """A training under one policy; attributes as the arguments of `train_policy`."""

    config: TrainConfig
    policy: str
    pool: Pool
    source: InputSource
    labels: Int64Array
    scores: RowTable | None
    evidence: RowTable | None
    folder: Location
    start: Start | None

    @functools.cached_property
    def artifact(self) -> ModelArtifact:
        config = self.config
        content = {k: v for k, v in config.content().items() if k not in ("policies", "policy_options")}
        content |= {"policy": self.policy, "policy_options": config.policy_options.get(self.policy, {})}
        if self._rules > 1:
            content["rules"] = self._rules
        inputs = {"pool": self.pool.manifest.identity, "labels": digest_array(self.labels)}
        if self.scores is not None:
            inputs["scores"] = self.scores.manifest.identity
        if self._evidence is not None:
            inputs["evidence"] = self._evidence.manifest.identity
        if self.source.kind != "pool":
            inputs[self.source.kind] = self.source.identity
        if self.start is not None:
            inputs |= self.start.inputs
        return ModelArtifact(self.folder, content, inputs)

    @functools.cached_property
    def _rules(self) -> int:
        """The rules that draw subsets: those that the folder was begun with, which version 0.1.0 does not name."""
        begun = begun_config(self.folder)
        return RULES if begun is None else rules_of(begun)

    @property
    def _evidence(self) -> RowTable | None:
        """The evidence, where the policy looks at it."""
        return self.evidence if self.config.make_policy(self.policy).uses & EVIDENCE else None

    def prepare(self) -> Training[SupervisedArguments]:
        splits, labelled = self.pool.splits(), self.labels >= 0
        candidates, held_out = (splits == TRAIN) & labelled, RowSet.from_flags((splits == TEST) & labelled)
        if not candidates.any():
            raise InputError("no training row has a label", "ingest a source with labels, or run the gate first")
        if len(found := np.unique(self.labels[candidates])) == 1:
            raise InputError(f"all labels are of class {found[0]}, need two classes", "label rows of other classes")
        planned = planned_rows(self.config, self.policy, int(candidates.sum()), self._rules)
        return Training(
            title=f"train {self.policy}",
            epochs=len(planned),
            compute=self.config.compute,
            worker=train_loop,
            arguments=functools.partial(self._arguments, candidates, held_out, planned),
            write_files=self._write_files,
            summarise=self._summarise,
            reads=(self.pool.location,),
        )

    @contextmanager
    def _arguments(
        self, candidates: BoolArray, held_out: RowSet, planned: list[int], board: BoardHandle
    ) -> Iterator[SupervisedArguments]:
        """Starts the selection actor for as long as the workers need it."""
        identity = digest([str(self.folder), self.artifact.inputs])
        selection = start_selection(identity, self._ledger(candidates).make, f"train {self.policy}")
        try:
            yield SupervisedArguments(
                config=self.config,
                planned=planned,
                candidates=int(candidates.sum()),
                report_losses=self.config.make_policy(self.policy).needs_losses,
                source=self.source.measured(np.flatnonzero(candidates)),
                classes=self.pool.classes,
                start=self.start,
                labels=ray.put(compact_labels(self.labels)),
                held_out=ray.put(held_out),
                selection=selection.ledger,
                reports=epoch_reports(board, f"train {self.policy}", self.folder, self.config),
            )
        finally:
            selection.stop()

    def _ledger(self, candidates: BoolArray) -> LedgerInputs:
        return LedgerInputs(
            self.policy,
            self.config,
            self.labels,
            candidates,
            None if self.scores is None else self.scores.location,
            self.folder.child("journal"),
            None if self._evidence is None else self._evidence.location,
            self._rules,
        )

    def _write_files(self, trained: Trained[SupervisedArguments]) -> list[FileEntry]:
        names = self.pool.manifest.summary.get("class_names") or ()
        card = {**made_with(self.config, self.source), "classes": self.pool.classes}
        return write_network(self.folder, trained, card, names, self.source.shape.files())

    def _summarise(self, trained: Trained[SupervisedArguments]) -> JsonObject:
        last = trained.history[-1]
        usage = trained.arguments.selection.usage_histogram()
        return {
            "policy": self.policy,
            **{name: last[name] for name in ("accuracy", "ema_accuracy", "samples") if name in last},
            "seconds": round(last["seconds"], 3),
            "epochs": len(trained.history),
            "candidates": trained.arguments.candidates,
            "history": trained.history,
            "usage": {str(k): v for k, v in usage.items()},
            "wall_seconds": trained.wall_seconds,
        }


def check_one_policy(config: TrainConfig) -> None:
    """Refuses settings for several trainings.

    Raises:
        UsageError: they name several policies.
    """
    if len(config.policies) != 1:
        raise UsageError(f"policies are {list(config.policies)}", "give one; a run's file may have several")


def looks_at_evidence(config: TrainConfig) -> bool:
    """Tests whether any of the policies uses doubt about labels or copies."""
    return any(config.make_policy(policy).uses & EVIDENCE for policy in config.policies)


def load_classifier(location: ArtifactLike, *, average: bool = False, trust: Sequence[str] = ()) -> nn.Module:
    """Reads a trained classifier back, ready to predict.

    Args:
        location: what a training made, or its folder.
        average: take the averaged weights (`ema`).
        trust: as in `training.networks.load_network`.

    Raises:
        InputError: there is no finished classifier here, it is damaged, or it has no averaged weights.
        UsageError: its model is not known on this machine, or of a module that `trust` does not name.
    """
    location = Location.parse(location)
    manifest = load_manifest(location, "model")
    card = read_made(location, manifest)
    if "classes" not in card:
        raise InputError(f"{location} is no classifier", "give what supervised training made")
    check_made(card, location.child(CARD), trust)
    check_outputs(card["classes"], location.child(WEIGHTS).size(), location)
    check_size(card, location.child(WEIGHTS).size(), location)
    network = shape_of(card, location).network(card["model"], card["classes"])
    read_weights(location, manifest, network, average=average)
    return network.eval()


def planned_rows(config: TrainConfig, policy: str, candidates: int, rules: int = RULES) -> list[int]:
    """Rows of each epoch that will be run, as far as the policy knows them beforehand.

    Args:
        config: kept shares and epochs.
        policy: name of the policy.
        candidates: rows that may be selected.
        rules: version of the rules that draw subsets.

    Raises:
        UsageError: the policy is unknown.
    """
    return planned_visits(config.make_policy(policy), config.shares, config.epochs, candidates, rules)
