"""The gate's rounds: ask, learn, until it stops by itself (Info-Coevolution, arXiv 2506.08070)."""

from __future__ import annotations

import time

from coevo_ray.annotators.base import Annotator, Collected, Desk, Questions
from coevo_ray.annotators.opening import open_annotator
from coevo_ray.config import GateSettings, SettingsLike, as_settings
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.pipelines.gate.export import write_labels
from coevo_ray.pipelines.gate.opened import class_names, inputs_of
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pipelines.gate.submission import Submitted
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.stages import pool_for
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.progress import Ticker, say
from coevo_ray.store.artifact import begin
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.manifest import Manifest
from coevo_ray.store.opening import open_table
from coevo_ray.store.row_table import RowTable
from coevo_ray.store.writing import writing


def gate(
    config: SettingsLike[GateSettings],
    pool: ArtifactLike,
    targets: ArtifactLike,
    out: Place,
    annotator: Annotator | Desk | None = None,
) -> RowTable:
    """Asks an annotator for labels until the gate stops.

    Args:
        config: rounds, rule and stop; a dict, or a YAML file.
        pool: the pool, or its folder.
        targets: its targets, or their folder.
        out: folder of the result.
        annotator: answers the requests; None takes the one that the settings name.

    Returns:
        The label table: `row_id, label, annotator, round, time, votes, annotators, validation`.

    Raises:
        InputError: an input is missing or unfit, or the annotator cannot answer.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; run it again to continue.
    """
    settings = as_settings(GateSettings, config, "gate")
    opened = pool_for("gate", pool)
    table = open_table(targets, "targets")
    require_alone(table, opened)
    return gate_rounds(settings, opened, table, out, annotator)


def gate_rounds(
    config: GateSettings | JsonObject,
    pool: Pool,
    targets: RowTable,
    out: Place,
    annotator: Annotator | Desk | None = None,
) -> RowTable:
    """Asks for labels until the gate stops.

    Args:
        config: rounds, rule and stop; a dict is validated.
        pool: tells which rows are held out, and how many classes there are.
        targets: features of the pool's rows.
        out: folder of the result.
        annotator: who answers; None takes the one that the settings name.

    Returns:
        The label table: `row_id, label, annotator, round, time, votes, annotators, validation`.

    Raises:
        InputError: no rows, no labels, or features that cannot be used.
        UsageError: settings were changed.
        StoppedError: answers are awaited, or the store or the cluster failed; run it again to continue.
    """
    config = as_settings(GateSettings, config, "gate")
    location = Location.parse(out)
    with writing(location):
        if begin(location, "labels", config.content(), inputs_of(pool, targets)) is not None:
            return RowTable(location, "labels")
        annotator = annotator or open_annotator(config.annotator, pool, class_names(config, pool))
        started = time.monotonic()
        gate = GateSession.open(config, pool, targets, location)
        with gate.hosted():
            _answer_rounds(gate, annotator)
            _finish(gate, started)
    return RowTable(location, "labels")


def _answer_rounds(gate: GateSession, annotator: Annotator | Desk) -> None:
    with Ticker("gate", gate.rule.max_labels, "labels") as ticker:
        ticker.advance(gate.service.gate_status()["labels"])
        while True:
            questions = gate.next()
            if len(questions.row_ids) == 0:
                return
            submitted = ask(gate, annotator, questions)
            history = gate.service.history()
            accuracy = history[-1]["accuracy"] if history else None
            ticker.advance(submitted.taken.labels, f"held-out accuracy {accuracy:.3f}" if accuracy is not None else "")


def ask(gate: GateSession, annotator: Annotator | Desk, questions: Questions) -> Submitted:
    """Sends questions to an annotator and takes the answers.

    Raises:
        InputError: an annotator who answers at once left rows unanswered; what was answered is kept.
        StoppedError: a desk has not all answers yet; what there is is kept.
    """
    wanted = len(questions.row_ids)
    if isinstance(annotator, Desk):
        sent = annotator.send(questions)
        if sent:
            say(f"gate: {sent} rows wait for labels at {annotator.where}")
        submitted = take(gate, annotator.collect())
    else:
        submitted = gate.submit(annotator.answer(questions.row_ids))
    left = gate.service.gate_status()["outstanding"]
    if left and isinstance(annotator, Desk):
        raise StoppedError(
            f"{left} of {wanted} requested rows wait for labels at {annotator.where}",
            "label them there and run the same command again to continue. For unlabelable rows: "
            f"coevo-ray gate next --set-aside --gate {gate.location}",
        )
    if left:
        raise InputError(
            f"{left} of {wanted} requested rows were not answered",
            "label them in the source and run the command again: answers so far are kept",
        )
    return submitted


def take(gate: GateSession, collected: Collected) -> Submitted:
    """Submits what came back; what could not be taken is said, line by line."""
    submitted = gate.submit(*collected.answers)
    problems = (*collected.problems, *submitted.problems)
    for problem in problems:
        say(f"gate: {problem}")
    return Submitted(submitted.taken, problems)


def _finish(gate: GateSession, started: float) -> Manifest:
    status, curve = gate.service.gate_status(), gate.service.history()
    others = gate.learning().compare([(point["labels"], point["decay_rows"]) for point in curve])
    return write_labels(
        gate.service,
        gate.location,
        gate.settings.content(),
        gate.inputs,
        label_fraction=round(status["labels"] / gate.rows, 6),
        rounds=status["rounds"],
        stopped_by=status["stopped_by"],
        forecast=gate.service.forecast(),
        accuracy=curve[-1]["accuracy"],
        random_accuracy=others["random"][-1],
        full_accuracy=others["full"],
        curve=curve,
        random_curve=[[point["labels"], a] for point, a in zip(curve, others["random"], strict=True)],
        seconds=round(time.monotonic() - started, 3),
    )
