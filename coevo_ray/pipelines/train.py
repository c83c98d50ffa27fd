"""Trainings on labels: opens their inputs, gathers evidence on the labels if the policy uses it, then trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coevo_ray.config import EvidenceConfig, SemiTrainConfig, SettingsLike, TrainConfig, as_settings
from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.evidence import gather_evidence
from coevo_ray.pipelines.gate.labels import gate_labels
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pool.pool import TEST, Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.progress import say
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.artifact import Artifact
from coevo_ray.store.layout import EVIDENCE
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.opening import open_table
from coevo_ray.store.row_table import RowTable
from coevo_ray.training.inputs.choose import TARGETS, settled
from coevo_ray.training.label_tables import LabelTable, open_labels, read_labels, rows_there
from coevo_ray.training.semi_supervised import train as semi_supervised
from coevo_ray.training.start import prepare_input
from coevo_ray.training.supervised.train import check_one_policy, looks_at_evidence, train_policy

# Figures of the evidence that the summary of a training repeats.
_EVIDENCE_FIGURES = frozenset({"rows", "doubted_rows", "copied_rows", "copy_groups"})


def train_supervised(
    config: SettingsLike[TrainConfig],
    pool: ArtifactLike,
    out: Place,
    scores: ArtifactLike | None = None,
    evidence: ArtifactLike | None = None,
    *,
    targets: ArtifactLike | None = None,
    labels: GateSession | ArtifactLike | None = None,
    evidence_settings: SettingsLike[EvidenceConfig] | None = None,
    init: ArtifactLike | None = None,
    trust: Sequence[str] = (),
) -> Artifact:
    """Trains a network on a pool's own labels, or on those of a gate, on the subsets of one policy.

    Args:
        config: network, optimizer, schedule, one policy, kept share; a dict, or a YAML file.
        pool: samples and labels, or their folder.
        out: folder of the result, as in `training.supervised.train.train_policy`; with `targets` also `evidence/`.
        scores: score table of the pool's rows, or its folder; for policies that use factors.
        evidence: existing evidence on labels and copies, or its folder, for policies that use it.
        targets: the pool's targets, or their folder: if the policy uses evidence on labels, it is gathered from them
            (rows without a target have none); a head trains on them (`features`).
        labels: labels of training rows that replace the pool's own: a gate, for its labels so far; a label table made
            by `gate` or `gate_export`; or the folder of either, or of a run. Held-out rows keep the pool's labels, for
            evaluation. Rows without a score (without scores: without a target) take no part.
        evidence_settings: settings of gathering evidence from the targets; None for the defaults. A dict, or a YAML
            file.
        init: trained network whose backbone is the start of a fresh classifier: the result of `train_targets` or
            another training, or its folder. Its model, stem and image_size are the defaults of the settings.
        trust: `package.module:function` of your modules whose networks `init` may name: they are imported and run. The
            model named by the settings is included.

    Returns:
        The model. Its summary: `accuracy` of the last epoch, `samples`, `seconds` of training, and the `history`; where
        evidence was gathered, its figures as `evidence`.

    Raises:
        InputError: an input is missing or unfit, no training row has a label, or training diverged.
        UsageError: the model does not fit the pool; settings are wrong, were changed, do not fit `init`, or name
            several policies.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = as_settings(TrainConfig, config, "train")
    check_one_policy(settings)
    opened = pool_for("train_supervised", pool)
    scored = None if scores is None else open_table(scores, "scores")
    if evidence is not None and targets is not None:
        raise UsageError("both evidence and targets to gather it from", "leave one of them out")
    if targets is None and evidence_settings is not None:
        raise UsageError("evidence settings without targets", "give targets, from which evidence is gathered")
    given = None if evidence is None else open_table(evidence, "evidence")
    looking = as_settings(EvidenceConfig, {} if evidence_settings is None else evidence_settings, "evidence")
    table = None if targets is None else open_table(targets, "targets")
    if table is not None:
        require_alone(table, opened)
    known = opened.labels()
    if labels is not None:
        settings = settings.model_copy(update={"labels": "gate"})
        known = training_labels(opened, open_labels(gate_labels(labels), opened), scored or table)
    work = _Supervised(settings, opened, known, scored, Location.parse(out), init, trust, table)
    return work.train(given) if table is None else work.train_with_targets(table, looking)


def training_labels(pool: Pool, labels: LabelTable | None, readable: RowTable | None) -> Int64Array:
    """Returns the labels to train on.

    Args:
        pool: its own labels; those of its held-out rows serve evaluation.
        labels: label table of training rows that replaces the pool's; None for the pool's own.
        readable: a table of the rows that can be read, such as their scores: those that encode rejected, whose samples
            cannot be read, are not in it. None for all.

    Returns:
        int64[rows of the pool], -1 where there is none.

    Raises:
        InputError: labels do not fit the pool.
    """
    known = pool.labels()
    if labels is not None:
        row_ids, columns = read_labels(labels, pool, ["label"])
        known = np.where(pool.splits() == TEST, known, -1)
        known[row_ids] = columns["label"]
    if readable is None:
        return known
    return np.where(rows_there(readable, len(pool)), known, -1)


class _Supervised:
    """A supervised training under one policy, with or without evidence."""

    def __init__(
        self,
        settings: TrainConfig,
        pool: Pool,
        labels: Int64Array,
        scores: RowTable | None,
        out: Location,
        init: ArtifactLike | None,
        trust: Sequence[str],
        targets: RowTable | None,
    ) -> None:
        self.settings, self.pool, self.labels, self.scores, self.out = settings, pool, labels, scores, out
        self.init, self.trust, self.targets = init, trust, targets

    def train(self, evidence: RowTable | None) -> Artifact:
        settings, policy, start = self.settings, self.settings.policies[0], (self.init, self.trust, self.targets)
        return train_policy(settings, policy, self.pool, self.labels, self.scores, self.out, evidence, *start)

    def train_with_targets(self, targets: RowTable, looking: EvidenceConfig) -> Artifact:
        """Gathers evidence first, if the policy uses it."""
        settings = self.settings
        if not looks_at_evidence(settings):
            used = settled(settings, self.pool.modality, {} if self.init else None).features == TARGETS
            if not used:
                say(f"policy {settings.policies[0]} uses no evidence: the targets are ignored")
            return self.train(None)
        # A wrong name shows before evidence is gathered.
        prepare_input(settings, self.pool, targets, self.pool.classes, self.init, self.trust)
        with ray_session(reads=[self.pool.location, targets.location]):
            evidence = gather_evidence(looking, self.pool, targets, self.labels, self.out.child(EVIDENCE))
            made = self.train(evidence)
        found = {name: value for name, value in evidence.summary.items() if name in _EVIDENCE_FIGURES}
        summary: JsonObject = {**made.summary, "evidence": {"table": str(evidence.location), **found}}
        return Artifact(made.location, made.manifest, summary)


def train_semi_supervised(
    config: SettingsLike[SemiTrainConfig],
    pool: ArtifactLike,
    out: Place,
    labels: GateSession | ArtifactLike | None = None,
    pseudo_labels: ArtifactLike | None = None,
    *,
    init: ArtifactLike | None = None,
    trust: Sequence[str] = (),
    targets: ArtifactLike | None = None,
) -> Artifact:
    """Trains on the labels of some training rows and the samples of all; also on a gate's labels so far.

    Args:
        config: settings of the training, see `SemiTrainConfig`.
        pool: the pool, or its folder.
        out: folder of the result.
        labels: as in `train_supervised`; None for the pool's own.
        pseudo_labels: labels of rows without one, see `training.semi_supervised.train.train_semi_supervised`.
        init: a network to start from, see there.
        targets: the pool's targets, which a head may take as its input, see there.
        trust: as in `train_supervised`.

    Returns:
        The model, as the function named above.

    Raises:
        InputError: an input is missing or of another pool, labels are unfit or of one class alone, or training
            diverged.
        UsageError: the model does not fit the pool, or the settings are wrong or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    table = None if labels is None else gate_labels(labels)
    return semi_supervised.train_semi_supervised(config, pool, out, table, pseudo_labels, init, trust, targets)
