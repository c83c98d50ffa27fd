"""The objective `semi_supervised`: a few labels, and consistency between views of all rows, with Ray Train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from coevo_ray.actors.progress_board import BoardHandle
from coevo_ray.config import SemiTrainConfig, SettingsLike, as_settings
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.pool.pool import TEST, Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.progress import say
from coevo_ray.store.artifact import Artifact
from coevo_ray.store.digests import digest_array
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import FileEntry
from coevo_ray.store.opening import open_table
from coevo_ray.training.inputs.choose import made_with
from coevo_ray.training.inputs.source import InputSource
from coevo_ray.training.label_tables import LabelTable, open_labels, open_pseudo_labels
from coevo_ray.training.loop.run_training import (
    ModelArtifact,
    Trained,
    Training,
    epoch_reports,
    run_training,
    write_network,
)
from coevo_ray.training.semi_supervised.loop import SemiSupervisedArguments, train_loop
from coevo_ray.training.semi_supervised.rows import gather_rows
from coevo_ray.training.semi_supervised.step import SemiRows
from coevo_ray.training.start import Start, prepare_input

_TITLE = "train semi_supervised"
# Figures of the last epoch that the summary repeats.
_FIGURES = ("labelled_loss", "consistency_loss", "confident_share", "pseudo_accuracy", "own_accuracy", "samples")
_POOR = 0.5  # of the targets of labelled rows


def train_semi_supervised(
    config: SettingsLike[SemiTrainConfig],
    pool: ArtifactLike,
    out: Place,
    labels: LabelTable | ArtifactLike | None = None,
    pseudo_labels: ArtifactLike | None = None,
    init: ArtifactLike | None = None,
    trust: Sequence[str] = (),
    targets: ArtifactLike | None = None,
) -> Artifact:
    """Trains a network on the labels of some training rows and on the samples of all (FixMatch, arXiv 2001.07685).

    Each step has labelled rows and `mu` times as many unlabelled ones. A labelled row's weak view has a cross-entropy
    with its label. Of an unlabelled row's weak view the teacher predicts the class; where it is sure enough, that class
    is the target of the row's strong view. Labelled rows come round and round; an epoch is one pass over the others,
    and with few of them several, so that the training has `least_steps`.

    Args:
        config: network, views, rule, schedule; a dict, or a YAML file.
        pool: samples, or their folder. Labels of unlabelled training rows are read for `pseudo_accuracy` alone, those
            of held-out rows for `accuracy`.
        out: folder of the result: `model.safetensors` (and `ema.safetensors`), `model.json`, `network.json`,
            `metrics.jsonl` with an object for each epoch, and manifest; `training.supervised.load_classifier` reads it.
        labels: label table of the pool, as the gate makes it, or its folder; None for the pool's own labels, of which
            unlabelled rows have none.
        pseudo_labels: table of pseudo-labels, its folder, or that of the gate that exported them: these rows train as
            labelled ones, weighted by their confidence. Labels go before pseudo-labels.
        init, trust: trained network whose backbone is the start, of averaged weights too, as in
            `training.start.starting_from`.
        targets: the pool's targets, or their folder, where the network takes them instead of samples.

    Returns:
        The model. Its summary: `accuracy` of the last epoch on held-out rows, with averaged weights `ema_accuracy`; its
        `labelled_loss`, `consistency_loss`, `confident_share` (of unlabelled rows with a target), `pseudo_accuracy`
        (of these targets, where labels are known) and `own_accuracy` (of labelled rows' targets); `labelled`,
        `pseudo_labelled` and `unlabelled` rows; `steps`, `samples` and `seconds` of training, and the `history`. With a
        label on every training row it is supervised training.

    Raises:
        InputError: an input is missing or of another pool, labels are unfit or of one class alone, or training
            diverged.
        UsageError: the model does not take what the pool gives, or the settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config, pool = as_settings(SemiTrainConfig, config, "train"), pool_for("train_semi_supervised", pool)
    table = None if labels is None else open_labels(labels, pool)
    pseudo = None if pseudo_labels is None else open_pseudo_labels(pseudo_labels, pool)
    given = None if targets is None else open_table(targets, "targets")
    config, source, start = prepare_input(config, pool, given, max(2, pool.classes), init, trust)
    rows = gather_rows(pool, table, pseudo, config.pseudo_weight, None if source.kind == "pool" else given)
    inputs = {"pool": pool.manifest.identity}
    inputs["labels"] = digest_array(pool.labels()) if table is None else table.manifest.identity
    if pseudo is not None:
        inputs["pseudo_labels"] = pseudo.manifest.identity
    if source.kind != "pool":
        inputs[source.kind] = source.identity
    if start is not None:
        inputs |= start.inputs
    content = {"objective": "semi_supervised", **config.content()}
    run = _SemiSupervisedRun(config, pool, source, rows, Location.parse(out), start)
    return run_training(ModelArtifact(run.folder, content, inputs), run.prepare)


@dataclass(frozen=True, eq=False)
class _SemiSupervisedRun:
    """A training that is not finished yet."""

    config: SemiTrainConfig
    pool: Pool
    source: InputSource
    rows: SemiRows
    folder: Location
    start: Start | None

    def prepare(self) -> Training[SemiSupervisedArguments]:
        if self.rows.counts()["unlabelled"] == 0:
            say(f"{_TITLE}: every training row has a label, so this is supervised training")
        _, others, steps = self.rows.plan(self.config)
        if others is not None and self.config.epoch_steps is None and steps > others.cycle.steps:
            passes = f"{steps / others.cycle.steps:.1f} passes over {len(others.row_ids)} rows"
            least = self.config.least_steps
            say(f"{_TITLE}: an epoch is {passes}, so that the training has {least} steps (least_steps)")
        return Training(
            title=_TITLE,
            epochs=self.config.epochs,
            compute=self.config.compute,
            worker=train_loop,
            arguments=self._arguments,
            write_files=self._write_files,
            summarise=self._summarise,
            reads=(self.pool.location,),
        )

    @contextmanager
    def _arguments(self, board: BoardHandle) -> Iterator[SemiSupervisedArguments]:
        reports, source = epoch_reports(board, _TITLE, self.folder, self.config), self.source.measured(self.rows.train)
        held_out = RowSet.from_flags((self.pool.splits() == TEST) & (self.rows.known >= 0))
        stored = ray.put(self.rows), ray.put(held_out)
        yield SemiSupervisedArguments(self.config, source, *stored, self.start, reports)

    def _write_files(self, trained: Trained[SemiSupervisedArguments]) -> list[FileEntry]:
        _warn_of_poor_targets(trained.history[-1]["own_accuracy"])
        names = self.pool.manifest.summary.get("class_names") or ()
        card = {**made_with(self.config, self.source), "classes": self.rows.classes}
        return write_network(self.folder, trained, card, names, self.source.shape.files())

    def _summarise(self, trained: Trained[SemiSupervisedArguments]) -> JsonObject:
        history, last = trained.history, trained.history[-1]
        _, _, steps = self.rows.plan(self.config)
        return {
            "objective": "semi_supervised",
            **{name: last[name] for name in ("accuracy", "ema_accuracy", *_FIGURES) if name in last},
            "seconds": round(last["seconds"], 3),
            "epochs": len(history),
            "steps": len(history) * steps,
            **self.rows.counts(),
            "history": history,
            "wall_seconds": trained.wall_seconds,
        }


def _warn_of_poor_targets(own_accuracy: float | None) -> None:
    if own_accuracy is not None and own_accuracy < _POOR:
        say(
            f"{_TITLE}: of the targets of labelled rows only {own_accuracy:.0%} are their labels, and those of "
            "other rows are hardly better: train for more steps, or with consistency_weight 0"
        )
