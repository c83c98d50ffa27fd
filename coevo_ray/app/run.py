"""The loop: source -> pool -> targets -> factors -> labels -> training -> report. Reads like the flow in the README."""

from __future__ import annotations

from coevo_ray.annotators.opening import check_annotator
from coevo_ray.app.room import require_room
from coevo_ray.app.status import noting_error
from coevo_ray.config import PoolConfig, RunConfig, SettingsLike, TrainConfig, as_run_config, make_config
from coevo_ray.config.annotators import LabelColumnSettings
from coevo_ray.config.pool import TEXT
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.evidence import gather_evidence
from coevo_ray.pipelines.factors.score import score
from coevo_ray.pipelines.gate.opened import class_names
from coevo_ray.pipelines.gate.run_rounds import gate_rounds
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.make_targets import encode
from coevo_ray.pipelines.train import training_labels
from coevo_ray.pool.modality import find_modality
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.sources import check_source
from coevo_ray.pool.stages import STAGES, pool_for, require_stages
from coevo_ray.priors.inputs import Samples
from coevo_ray.priors.registry import check_prior
from coevo_ray.progress import say
from coevo_ray.reporting.run import is_finished, unfinished, write_report
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.artifact import Artifact
from coevo_ray.store.layout import RunLayout
from coevo_ray.store.location import Location
from coevo_ray.store.manifest import MANIFEST
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.writing import writing_all
from coevo_ray.telemetry import named_run
from coevo_ray.training.inputs.choose import TARGETS
from coevo_ray.training.inputs.images import ImageShape
from coevo_ray.training.models import check_network
from coevo_ray.training.sae_fit import fit_sae
from coevo_ray.training.start import starting_from
from coevo_ray.training.supervised.train import looks_at_evidence, train_policy


def run(config: SettingsLike[RunConfig]) -> Artifact:
    """Runs the whole loop, or the rest of it.

    Every stage is an artifact below `out`; finished stages are not repeated.

    Args:
        config: the run: its settings, their content, or its YAML file.

    Returns:
        The run; its summary is the content of `summary.json`.

    Raises:
        UsageError: the settings are wrong or differ from those of existing artifacts.
        InputError: the data are wrong.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = as_run_config(config)
    check(config)
    out = Location.parse(config.out)
    if is_finished(config, out):
        return write_report(config, out)  # refuses other settings; needs no Ray
    folders = RunLayout.of(out)
    if config.gate and not folders.gate.child(MANIFEST).is_file():
        check_annotator(config.gate.annotator)
    with (
        named_run(out.name),
        writing_all(unfinished(config, out), at_once=True),
        noting_error(out),
        ray_session(writes=[out]),
    ):
        require_room(config, folders)
        pool = ingest(config.pool, folders.pool)
        _check_labels(config, pool)
        targets = encode(config.encode, pool, folders.encode)
        sae = fit_sae(config.sae, pool, targets, folders.factors.model)
        scores = score(config.sae, targets, sae, folders.factors.folder)
        labels = gate_rounds(config.gate, pool, targets, folders.gate) if config.gate else None
        if config.train:
            _train(config, folders, config.train, pool, targets, scores, labels)
        return write_report(config, out)


def train(config: SettingsLike[RunConfig], policy: str | None = None) -> dict[str, Artifact]:
    """Trains under the configured policies, after the earlier stages of the run.

    Args:
        config: the run: its settings, their content, or its YAML file.
        policy: one policy instead of the configured ones.

    Returns:
        For each policy its model.

    Raises:
        UsageError: the run has no training stage, or the policy is unknown.
        InputError: an earlier stage is not finished.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = as_run_config(config)
    if config.train is None:
        raise UsageError("this run has no training stage", "add train: to the file")
    settings = config.train
    if policy is not None:
        settings = make_config(TrainConfig, {**settings.model_dump(exclude_unset=True), "policies": [policy]}, "train")
    folders = RunLayout.of(Location.parse(config.out))
    pool, scores = pool_for("train_supervised", folders.pool), RowTable(folders.factors.scores, "scores")
    targets = RowTable(folders.targets, "targets")
    labels = RowTable(folders.gate, "labels") if config.gate else None
    return _train(config, folders, settings, pool, targets, scores, labels)


def _train(
    config: RunConfig,
    folders: RunLayout,
    settings: TrainConfig,
    pool: Pool,
    targets: RowTable,
    scores: RowTable,
    labels: RowTable | None,
) -> dict[str, Artifact]:
    if settings.labels == "gate" and labels is None:
        raise InputError("train.labels is 'gate', but there are no labels from a gate", "run the gate first")
    use = training_labels(pool, labels if settings.labels == "gate" else None, scores)
    results: dict[str, Artifact] = {}
    with named_run(folders.out.name), ray_session():
        evidence = None
        if config.evidence and looks_at_evidence(settings):
            graph = folders.gate.child("graph")
            evidence = gather_evidence(config.evidence, pool, targets, use, folders.evidence, graph)
        for policy in settings.policies:
            place = folders.training(policy)
            results[policy] = train_policy(settings, policy, pool, use, scores, place, evidence, targets=targets)
    return results


def check(config: RunConfig) -> None:
    """Checks everything that can be checked before any work.

    Raises:
        UsageError: a stage cannot take the samples; a prior, a model or a sample is unknown, or the output cannot be
            written.
        InputError: a source is not there, a prior's weights are not, or the network to start training from is not.
    """
    require_stages(stages_of(config), config.pool.modality, "the pool of this run")
    if not RunLayout.of(Location.parse(config.out)).pool.child(MANIFEST).is_file():  # else they are read no more
        for source in config.pool.sources:
            check_source(source)
    for prior in config.encode.priors:
        check_prior(prior.name, prior.input_size, offered(config.pool))
    if config.train:
        _check_training(config.train, config.pool)
    Location.parse(config.out).check_writable()


def _check_labels(config: RunConfig, pool: Pool) -> None:
    """Checks that the labels of the pool do for gate and training, before the hours of the stages between.

    Raises:
        InputError: they do not.
    """
    summary = pool.manifest.summary
    missing = summary["rows"] - summary["labelled"]
    if config.gate:
        class_names(config.gate, pool)
        if missing and isinstance(config.gate.annotator, LabelColumnSettings):
            say(
                f"{missing:,} of {summary['rows']:,} rows have no label: the gate's annotator label_column answers "
                "from the pool's labels, and the run ends with exit code 3 when it cannot; to ask people set "
                "gate.annotator"
            )
    if config.train and config.train.labels == "pool":
        known = summary.get("class_rows", {})  # pools of version 0.1.0 do not tell
        if not summary["labelled"] or len(known) == 1:
            raise InputError(
                f"all labels of the pool are of class {next(iter(known))}"
                if known
                else "no row of the pool has a label",
                "to train on labels, ingest a source with labels of two classes, or train on the gate's "
                "(train.labels: gate); a run without training leaves train: out",
            )


def _check_training(config: TrainConfig, pool: PoolConfig) -> None:
    training, _ = starting_from(config, modality=pool.modality)
    columns = offered(pool).features
    if training.features is None and pool.modality == TEXT:
        check_prior(training.model, None, offered(pool))
    elif training.features is None:
        shape = ImageShape(training.image_size, training.stem)
        check_network(training.model, shape.network(training.model, 2), shape.sample(), 2)
    elif training.features != TARGETS and training.features not in columns:
        have = ", ".join(columns) or "no columns of vectors"
        raise UsageError(
            f"train.features is {training.features!r}, the sources have {have}",
            f"name it in feature_columns of a source, or take {TARGETS}",
        )


def stages_of(config: RunConfig) -> list[str]:
    """The stages of a run, as keys of `STAGES`, in their order."""
    stages = ["ingest", "encode", "sae"]
    if config.gate:
        stages += ["gate", *({config.gate.annotator.kind} & STAGES.keys())]
    if config.train:
        stages += ["evidence"] if config.evidence and looks_at_evidence(config.train) else []
        stages.append("train_supervised")
    return stages


def offered(config: PoolConfig) -> Samples:
    """Samples that priors will get from the pool; dimensions of its feature columns are known once they are read."""
    columns = {column: 0 for source in config.sources for column in source.feature_columns}
    own = {config.modality: 0} if find_modality(config.modality).type is None else {}
    return Samples(config.modality, own | columns)
