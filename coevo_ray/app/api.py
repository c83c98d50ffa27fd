"""The commands as Python functions, one of the same name for each; the command line only parses and prints.

All but `demo` and `report`, whose names are those of modules, are also in `coevo_ray` itself.
"""

from __future__ import annotations

import os
from typing import Any

from coevo_ray.annotators.base import Annotator, Desk
from coevo_ray.app.demo import demo
from coevo_ray.app.doctor import doctor
from coevo_ray.app.plan import plan
from coevo_ray.app.run import run, train
from coevo_ray.config import EvidenceConfig, GateSettings, RunConfig, SaeConfig, TrainConfig, make_config
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.encode.encode import contribute, encode
from coevo_ray.pipelines.evidence import gather_evidence
from coevo_ray.pipelines.factors.score import score
from coevo_ray.pipelines.gate.run_rounds import gate_rounds
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pipelines.gate.steps import export_labels, next_requests, submit_answers
from coevo_ray.pipelines.ingest.ingest import ingest
from coevo_ray.pipelines.merge.merge import merge
from coevo_ray.pipelines.retrieve.retrieve import retrieve
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.progress import say
from coevo_ray.reporting.factor_sheet import write_factor_sheet
from coevo_ray.reporting.run import write_report
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.artifact import load_manifest
from coevo_ray.store.layout import EVIDENCE, FactorLayout
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.sae_files import export_saelens, import_saelens, load_sae
from coevo_ray.training.from_targets.train import train_targets
from coevo_ray.training.models import check_model
from coevo_ray.training.sae_fit import fit_sae
from coevo_ray.training.semi_supervised.train import train_semi_supervised
from coevo_ray.training.supervised import train as supervised

__all__ = [
    "contribute",
    "demo",
    "doctor",
    "encode",
    "gate",
    "gate_export",
    "gate_next",
    "gate_open",
    "gate_status",
    "gate_submit",
    "ingest",
    "merge",
    "plan",
    "report",
    "retrieve",
    "run",
    "sae",
    "sae_export",
    "sae_import",
    "sae_score",
    "sae_show",
    "train",
    "train_semi_supervised",
    "train_supervised",
    "train_targets",
]

# Of the evidence's summary, what that of a training repeats.
_EVIDENCE_FIGURES = frozenset({"rows", "doubted_rows", "copied_rows", "copy_groups"})


def sae(
    config: SaeConfig | dict[str, Any], pool: str, targets: str | None, out: str, column: str | None = None
) -> RowTable:
    """Fits the sparse autoencoder on a pool's targets, or on vectors of its own, and scores every row.

    Args:
        config: latents, k, epochs; a dict is validated.
        pool: folder.
        targets: folder; None takes the vectors of the pool itself.
        out: folder that will hold `model/`, `codes/`, `table/` (the factors) and `scores/`.
        column: which column has the vectors; None for the only one.

    Returns:
        The score table: `row_id`, `representativeness`, `diversity`, `factor`.

    Raises:
        InputError: an input is missing or unfit.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = config if isinstance(config, SaeConfig) else make_config(SaeConfig, config, "sae")
    place, opened = Location.parse(out), Pool.open(pool)
    table: RowTable = opened
    if targets is not None:
        table = RowTable(Location.parse(targets), "targets")
        require_alone(table, opened)
    model = fit_sae(settings, opened, table, FactorLayout.of(place).model, column=column)
    return score(settings, table, model, place, column=column)


def sae_score(
    config: SaeConfig | dict[str, Any], features: str, model: str, out: str, column: str | None = None
) -> RowTable:
    """Scores every row of a feature table with a model that is there, fitted on other rows or imported.

    Args:
        config: `rare_quantile` and `compute`; the model has its own sizes. A dict is validated.
        features: folder of targets, or of a pool with vectors.
        model: folder of the model.
        out: folder that will hold `codes/`, `table/` and `scores/`.
        column: which column has the vectors; None for the only one.

    Returns:
        The score table: `row_id`, `representativeness`, `diversity`, `factor`.

    Raises:
        InputError: an input is missing or unfit.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = config if isinstance(config, SaeConfig) else make_config(SaeConfig, config, "sae")
    return score(settings, RowTable(Location.parse(features)), Location.parse(model), out, column=column)


def sae_show(
    factors: str, pool: str, out: str = "factors.html", *, choose: str = "frequent", limit: int = 24, rows: int = 12
) -> dict[str, Any]:
    """Writes an HTML page of factors, see `report.factor_sheet.write_factor_sheet`.

    Raises:
        InputError: an input is missing or unfit.
        UsageError: there are no such factors, or the page is not to be an .html file.
        StoppedError: the store refused.
    """
    return write_factor_sheet(factors, pool, out, choose=choose, limit=limit, rows=rows)


def sae_export(model: str, out: str, format: str = "saelens") -> str:
    """Writes a model in another library's format; returns the folder.

    Args:
        model: folder of the model.
        out: folder to write to.
        format: "saelens".

    Raises:
        InputError: there is no model.
        UsageError: the format is unknown, or another model is at `out`.
        StoppedError: the store refused.
    """
    _check_format(format)
    return str(export_saelens(load_sae(Location.parse(model)), out))


def sae_import(source: str, out: str, format: str = "saelens") -> str:
    """Makes a model of ours from another library's, with the same codes; returns the folder.

    Args:
        source: folder with the foreign model.
        out: folder of the model.
        format: "saelens".

    Raises:
        InputError: it is missing, damaged, or of another architecture than TopK.
        UsageError: the format is unknown, or something else was made at `out`.
        StoppedError: the store refused.
    """
    _check_format(format)
    return str(import_saelens(source, out))


def _check_format(format: str) -> None:
    if format != "saelens":
        raise UsageError(f"unknown format {format!r}", "it can be: saelens")


def gate(
    config: GateSettings | dict[str, Any], pool: str, targets: str, out: str, annotator: Annotator | Desk | None = None
) -> RowTable:
    """Asks an annotator for labels until the gate stops.

    Args:
        config: rounds, rule and stop; a dict is validated.
        pool, targets: folders.
        out: folder of the result.
        annotator: who answers; None takes the one that the settings name.

    Returns:
        The label table: `row_id, label, annotator, round, time`.

    Raises:
        InputError: an input is missing or unfit, or the annotator cannot answer.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    config = config if isinstance(config, GateSettings) else make_config(GateSettings, config, "gate")
    table, opened = RowTable(Location.parse(targets), "targets"), Pool.open(pool)
    require_alone(table, opened)
    return gate_rounds(config, opened, table, out, annotator)


def gate_open(config: GateSettings | dict[str, Any], pool: str, targets: str, out: str) -> GateSession:
    """Opens a gate, or the one that is there: builds its neighbour graph and begins its journal.

    Args:
        config: classes, rounds, rule, stop, annotator; a dict is validated. Who answers may be changed later.
        pool, targets: folders.
        out: folder of the gate.

    Returns:
        The open gate, whose `next`, `submit`, `status` do in Python what the commands do.

    Raises:
        InputError: an input is missing or unfit.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; open it again to continue.
    """
    config = config if isinstance(config, GateSettings) else make_config(GateSettings, config, "gate")
    table, opened = RowTable(Location.parse(targets), "targets"), Pool.open(pool)
    require_alone(table, opened)
    return GateSession.open(config, opened, table, out)


def gate_next(
    gate: GateSession | str, predictions: str | None = None, out: str | None = None, set_aside: bool = False
) -> dict[str, Any]:
    """Rows to label now, see `pipelines.gate_steps.next_requests`.

    Raises:
        InputError: there is no such gate, predictions do not fit, or no row of the round to close has a label.
        UsageError: the file is neither .csv nor .parquet.
        StoppedError: the store, the cluster or the annotation tool failed; ask again.
    """
    return next_requests(_opened(gate), predictions, out, set_aside)


def gate_submit(
    gate: GateSession | str, files: list[str] | None = None, annotator: str | None = None
) -> dict[str, Any]:
    """Takes answers from files or the gate's annotator, see `pipelines.gate_steps.submit_answers`.

    Raises:
        InputError: there is no such gate, or a file cannot be read at all.
        StoppedError: the store or the annotation tool failed; submit them again.
    """
    return submit_answers(_opened(gate), files, annotator)


def gate_status(gate: GateSession | str) -> dict[str, Any]:
    """How far the gate is.

    Raises:
        InputError: there is no such gate.
    """
    return _opened(gate).status()


def gate_export(gate: GateSession | str, out: str, pseudo_labels: float | None = None) -> dict[str, Any]:
    """Writes the labels so far, see `pipelines.gate_steps.export_labels`; returns where, and the summary.

    Raises:
        InputError: there is no such gate, or it has no predictions to take pseudo-labels from.
        UsageError: the folder holds something else.
        StoppedError: the store refused.
    """
    labels = export_labels(_opened(gate), out, pseudo_labels)
    result = {"labels_table": str(labels.location), **labels.manifest.summary}
    if pseudo_labels is not None:
        made = load_manifest(labels.location.child("pseudo_labels"), "pseudo_labels")
        result["pseudo_labels"] = made.summary["rows"]
    return result


def _opened(gate: GateSession | str) -> GateSession:
    return gate if isinstance(gate, GateSession) else GateSession(Location.parse(gate))


def train_supervised(
    config: TrainConfig | dict[str, Any],
    pool: Pool | str | os.PathLike[str],
    out: str | os.PathLike[str] | Location,
    scores: RowTable | str | os.PathLike[str] | None = None,
    evidence: RowTable | None = None,
    *,
    targets: RowTable | str | os.PathLike[str] | None = None,
    evidence_settings: EvidenceConfig | dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains a network on a pool's own labels, on the subsets of one policy.

    Args:
        config: network, optimizer, schedule, one policy, kept share; a dict is validated.
        pool: images and labels, or their folder.
        out: folder of the result, as in `training.supervised.train_policy`; with `targets` also `evidence/`.
        scores: score table of the pool's rows, or its folder; for policies that look at factors.
        evidence: evidence on labels and copies that is there, for policies that look at it.
        targets: the pool's targets, or their folder: evidence on its labels is gathered from them where the policy
            looks at it. Rows without a target have none.
        evidence_settings: what to look for in the targets; None for the defaults, a dict is validated.

    Returns:
        The summary: `accuracy` of the last epoch, `samples`, `seconds` of training, and the `history`; where evidence
        was gathered, its figures as `evidence`.

    Raises:
        InputError: an input is missing or unfit, no training row has a label, or training diverged.
        UsageError: settings are wrong, were changed, or name several policies.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = config if isinstance(config, TrainConfig) else make_config(TrainConfig, config, "train")
    supervised.check_one_policy(settings)
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    if scores is not None and not isinstance(scores, RowTable):
        scores = RowTable(Location.parse(scores), "scores")
    if targets is None:
        if evidence_settings is not None:
            raise UsageError("evidence settings without targets", "give targets, from which evidence is gathered")
        return supervised.train_supervised(settings, pool, out, scores, evidence)
    if evidence is not None:
        raise UsageError("both evidence and targets to gather it from", "leave one of them out")
    looking = evidence_settings or {}
    looking = looking if isinstance(looking, EvidenceConfig) else make_config(EvidenceConfig, looking, "evidence")
    table = targets if isinstance(targets, RowTable) else RowTable(Location.parse(targets), "targets")
    require_alone(table, pool)
    if not supervised.looks_at_evidence(settings):
        say(f"policy {settings.policies[0]} looks at no evidence: the targets are left aside")
        return supervised.train_supervised(settings, pool, out, scores)
    check_model(settings.model, pool.classes, settings.image_size, settings.stem)  # before evidence is gathered
    with ray_session():
        place = Location.parse(out).child(EVIDENCE)
        evidence = gather_evidence(looking, pool, table, pool.labels(), place)
        summary = supervised.train_supervised(settings, pool, out, scores, evidence)
    found = {name: value for name, value in evidence.manifest.summary.items() if name in _EVIDENCE_FIGURES}
    return {**summary, "evidence": {"table": str(place), **found}}


def report(config: RunConfig) -> dict[str, Any]:
    """Writes the summary and the HTML report of a run whose stages are finished; returns the summary.

    Raises:
        InputError: a stage is not finished.
        UsageError: the report was made with another configuration.
        StoppedError: the store refused.
    """
    return write_report(config, Location.parse(config.out))
