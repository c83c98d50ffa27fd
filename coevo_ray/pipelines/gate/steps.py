"""One step of a gate at a time: the commands below `gate`."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from coevo_ray.actors.protocols import Predictions
from coevo_ray.annotators.answer_files import read_answer_file
from coevo_ray.annotators.base import Annotator, Answers, Collected, Desk, Questions
from coevo_ray.annotators.formulas import escaped_table
from coevo_ray.config import GateSettings, SettingsLike, as_settings
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pipelines.gate.export import write_labels, write_pseudo_labels
from coevo_ray.pipelines.gate.opening import open_gate
from coevo_ray.pipelines.gate.run_rounds import take
from coevo_ray.pipelines.gate.session import GateSession
from coevo_ray.pool.stages import pool_for
from coevo_ray.pool.targets_of_pool import require_alone
from coevo_ray.progress import say
from coevo_ray.store.artifact import Artifact
from coevo_ray.store.location import ArtifactLike, Location, Place
from coevo_ray.store.opening import open_artifact, open_table
from coevo_ray.store.row_table import RowTable

_BATCH_ROWS = 1 << 17
_NAMED = 20  # rows that block a round


def gate_open(config: SettingsLike[GateSettings], pool: ArtifactLike, targets: ArtifactLike, out: Place) -> GateSession:
    """Opens a gate, or the one that is there: builds its neighbour graph and begins its journal.

    Args:
        config: classes, rounds, rule, stop, annotator; a dict, or a YAML file. The annotator may be changed later.
        pool: the pool, or its folder.
        targets: its targets, or their folder.
        out: folder of the gate.

    Returns:
        The open gate, whose `next`, `submit`, `status` do in Python what the commands do.

    Raises:
        InputError: an input is missing or unfit.
        UsageError: settings are wrong, or were changed.
        StoppedError: the store or the cluster failed; open it again to continue.
    """
    settings = as_settings(GateSettings, config, "gate")
    opened = pool_for("gate_open", pool)
    table = open_table(targets, "targets")
    require_alone(table, opened)
    return GateSession.open(settings, opened, table, Location.parse(out))


def gate_status(gate: GateSession | ArtifactLike) -> JsonObject:
    """Returns the state of a gate, see `GateSession.status`.

    Raises:
        InputError: there is no such gate.
    """
    return open_gate(gate).status()


def gate_next(
    gate: GateSession | ArtifactLike,
    predictions: Place | None = None,
    out: Place | None = None,
    set_aside: bool = False,
    *,
    trust: Sequence[str] = (),
    url: str | None = None,
) -> JsonObject:
    """Returns the rows to label now, sends them to an annotator that answers later, and writes them where asked to.

    Args:
        gate: the gate, or its folder.
        predictions: Parquet file of a model of the user's own, see `read_predictions`.
        out: a `.csv` or `.parquet` file to write the requests to.
        set_aside: close the open round first, without its unlabelable rows.
        trust: `package.module:NAME` of your annotator that the gate may name: it is imported and run.
        url: the Label Studio server that the gate names, where it was not named on this machine before: your token goes
            there.

    Returns:
        `round`, `requested`, `sent` (new to the annotator), `where` it answers, the `file`, `stopped_by`, and
        `blocking`: keys of rows (20 at most) for which a round waits whose other rows have labels.

    Raises:
        InputError: there is no such gate, predictions do not fit, or no row of the round to close has a label.
        UsageError: the file's name ends otherwise, the gate names an annotator or server that nobody here did, or
            another process changes the gate now.
        StoppedError: the store, the cluster or the annotation tool failed; ask again.
    """
    gate, place = open_gate(gate), None if out is None else Location.parse(out)
    if place is not None and not place.name.endswith((".csv", ".parquet")):
        raise UsageError(f"requests to {out}", "name a .csv or .parquet file")
    with gate.changing():
        return _next(gate, predictions, place, set_aside, gate.annotator(trust, url))


def _next(
    gate: GateSession, predictions: Place | None, place: Location | None, set_aside: bool, annotator: Annotator | Desk
) -> JsonObject:
    if set_aside:
        left = gate.service.set_aside(gate.service.gate_status()["rounds"])
        say(f"gate: {left} row{'' if left == 1 else 's'} without a label set aside")
    questions = _ask(gate, None if predictions is None else read_predictions(predictions, len(gate.classes)))
    sent, where = 0, None
    if isinstance(annotator, Desk) and len(questions.row_ids):
        sent, where = annotator.send(questions), annotator.where
    if place is not None:
        place.write_bytes(_request_file(gate, questions, place.name.endswith(".csv")))
    return {
        "round": questions.round,
        "requested": len(questions.row_ids),
        "sent": sent,
        "where": where,
        "file": None if place is None else str(place),
        "stopped_by": gate.status()["stopped_by"],
        "blocking": _blocking(gate, questions),
    }


def _blocking(gate: GateSession, questions: Questions) -> list[str]:
    """Keys of the rows that an answered round still waits for; says how it ends without them."""
    waiting, asked = len(questions.row_ids), len(questions.asked)
    if not 0 < waiting < asked:
        return []
    of_pool = questions.row_ids[questions.row_ids < len(gate.pool)]
    keys: list[str] = gate.pool.read(of_pool[:_NAMED], ["key"]).column("key").to_pylist()
    keys += [f"row_id {row}" for row in questions.row_ids[len(of_pool) :][: _NAMED - len(keys)].tolist()]  # arrived
    more = f" and {waiting - 3} more" if waiting > 3 else ""
    say(
        f"gate: round {questions.round} waits for {waiting} of its {asked} rows: {', '.join(keys[:3])}{more}; label "
        f"them, or close it without them: coevo-ray gate next --set-aside --gate {gate.location}"
    )
    return keys


def _ask(gate: GateSession, predictions: list[Predictions] | None) -> Questions:
    """The next questions; where the gate learned for them, which takes a while, it is said."""
    started, before = time.monotonic(), gate.service.history()
    questions, after = gate.next(predictions), gate.service.history()
    if after != before:
        learned = after[-1]
        held = "" if learned["accuracy"] is None else f"; accuracy {learned['accuracy']:.3f} on held-out rows"
        say(f"gate: learned from {learned['labels']:,} labels in {time.monotonic() - started:.1f} s{held}")
    return questions


def gate_submit(
    gate: GateSession | ArtifactLike,
    files: Sequence[Place] | Place | None = None,
    annotator: str | None = None,
    *,
    trust: Sequence[str] = (),
    url: str | None = None,
) -> JsonObject:
    """Takes answers from files, or else from the gate's annotator.

    Args:
        gate: the gate, or its folder.
        files: one or more of CSV or Parquet, see `read_answer_file`.
        annotator: who gave the labels of records that do not say; None takes each file's name.
        trust: as in `gate_next`; without files.
        url: as in `gate_next`; without files.

    Returns:
        `answers` (new ones), `labels`, `unasked`, `changed`: see `Taken`; `outstanding`: requested rows that still wait
        for one; `problems`: what could not be taken, and why.

    Raises:
        InputError: there is no such gate, or a file cannot be read at all.
        UsageError: the gate names an annotator or server that nobody here did, or another process changes the gate now.
        StoppedError: the store or the annotation tool failed, or another process went ahead; submit them again.
    """
    gate = open_gate(gate)
    if isinstance(files, str | os.PathLike | Location):
        files = [files]
    if files and (trust or url):
        raise UsageError("trust or a url with files, which need no annotator", "leave them out")
    with gate.changing():
        collected = _of_files(gate, files, annotator) if files else _from_annotator(gate, trust, url)
        submitted = take(gate, collected)
    outstanding = gate.service.gate_status()["outstanding"]
    return {**submitted.taken._asdict(), "outstanding": outstanding, "problems": list(submitted.problems)}


def _of_files(gate: GateSession, files: Sequence[Place], annotator: str | None) -> Collected:
    answers: list[Answers] = []
    problems: list[str] = []
    for file in files:
        read = read_answer_file(
            Location.parse(file), gate.pool, len(gate.classes), gate.classes, annotator=annotator or ""
        )
        answers += read.answers
        problems += read.problems
    return Collected(tuple(answers), tuple(problems))


def _from_annotator(gate: GateSession, trust: Sequence[str], url: str | None) -> Collected:
    annotator = gate.annotator(trust, url)
    if isinstance(annotator, Desk):
        return annotator.collect()
    rows = gate.service.questions()["row_ids"]
    return Collected((annotator.answer(rows),) if len(rows) else ())


def gate_export(gate: GateSession | ArtifactLike, out: Place, pseudo_labels: float | None = None) -> Artifact:
    """Writes the labels so far, and every answer; an earlier export of the same gate is replaced.

    Args:
        gate: the gate, or its folder.
        out: folder of the labels.
        pseudo_labels: also write the labels of rows without one that are predicted with this confidence or more, to
            `pseudo_labels/` below.

    Returns:
        The labels; their summary begins with `labels_table`, their folder, and has the number of `pseudo_labels` too.

    Raises:
        InputError: there is no such gate, or it has no predictions to take pseudo-labels from.
        UsageError: the folder holds something else.
        StoppedError: the store refused.
    """
    labels = export_labels(open_gate(gate), out, pseudo_labels)
    summary = {"labels_table": str(labels.location), **labels.summary}
    if pseudo_labels is not None:
        summary["pseudo_labels"] = open_artifact(labels, "pseudo_labels").summary["rows"]
    return Artifact(labels.location, labels.manifest, summary)


def export_labels(gate: GateSession, out: Place, pseudo_labels: float | None = None) -> RowTable:
    """Writes the labels so far, and every answer; an earlier export of the same gate is replaced.

    Args:
        gate: the gate.
        out: folder of kind `labels`.
        pseudo_labels: also write the labels of rows that are so sure without one, to `pseudo_labels/` below.

    Raises:
        InputError: pseudo-labels before there are predictions.
        UsageError: the folder holds something else.
        StoppedError: the store refused.
    """
    place, status = Location.parse(out), gate.service.gate_status()
    config = {"gate": gate.settings.content(), "classes": list(gate.classes)}
    pseudo = None if pseudo_labels is None else gate.service.pseudo_labels(pseudo_labels)
    write_labels(gate.service, place, config, gate.inputs, rounds=status["rounds"], stopped_by=status["stopped_by"])
    if pseudo is not None:
        write_pseudo_labels(place.child("pseudo_labels"), pseudo, {**config, "least": pseudo_labels}, gate.inputs)
    return RowTable(place, "labels")


def read_predictions(file: Place, classes: int) -> list[Predictions]:
    """A model's predictions from Parquet: `row_id`, and `probabilities`, a list of one number for each class.

    Raises:
        InputError: the file cannot be read, or has other columns or another number of classes.
    """
    place = Location.parse(file)
    try:
        table = pq.read_table(pa.BufferReader(place.read_bytes()))
    except pa.ArrowException as error:
        raise InputError(f"cannot read {place}: {error}", "give a Parquet file") from error
    if missing := {"row_id", "probabilities"} - set(table.column_names):
        raise InputError(f"{place} has columns {table.column_names}, not {sorted(missing)}", "write those columns")
    column = table.column("probabilities").combine_chunks()
    if not pa.types.is_list(column.type) and not pa.types.is_fixed_size_list(column.type):
        raise InputError(f"probabilities of {place} are {column.type}", "write a list of numbers for each row")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if column.null_count or len(values) != len(column) * classes:
        raise InputError(
            f"{place}: {len(values)} probabilities for {len(column)} rows of {classes} classes",
            f"write lists of {classes} numbers, without nulls",
        )
    return [(table.column("row_id").to_numpy().astype(np.int64), values.reshape(-1, classes))]


def _request_file(gate: GateSession, questions: Questions, as_csv: bool) -> bytes:
    """`row_id, key, gain, predicted, confidence, label`, the last one empty: what `gate submit --file` takes back."""
    names, sink = gate.classes, pa.BufferOutputStream()
    predicted = [names[label] if label >= 0 else None for label in questions.predicted.tolist()]
    keys = gate.pool.read(questions.row_ids, ["key"]).column("key")
    table = pa.table(
        {
            "row_id": questions.row_ids,
            "key": keys,
            "gain": questions.gains,
            "predicted": pa.array(predicted, pa.string()),
            "confidence": pa.array(questions.confidence, mask=np.isnan(questions.confidence)),
            "label": pa.nulls(len(questions.row_ids), pa.string()),
        }
    )
    if as_csv:
        pacsv.write_csv(escaped_table(table), sink)  # people open it in a spreadsheet
    else:
        pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())
