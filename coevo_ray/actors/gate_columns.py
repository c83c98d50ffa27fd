"""A gate's requests, labels and answers as columns by row_id, for `GateService`, which says what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.answered import Answered
from coevo_ray.actors.arrivals import Arrivals
from coevo_ray.actors.protocols import AnswerColumns, LabelColumns, OpenQuestions
from coevo_ray.core.gate import readings
from coevo_ray.core.gate.votes import resolve

if TYPE_CHECKING:
    from coevo_ray.core.gate.gate import AnnotationGate


def questions_of(gate: AnnotationGate, arrivals: Arrivals) -> OpenQuestions:
    """See `GateService.questions`."""
    open_ = gate.open_requests()
    order = np.argsort(open_.positions)
    rows = open_.positions[order]
    predicted, confidence = gate.predictions(rows)
    return {
        "round": open_.round,
        "row_ids": arrivals.names(rows),
        "gains": open_.gains[order],
        "predicted": predicted,
        "confidence": confidence,
        "asked": np.sort(arrivals.names(gate.open_positions)),
    }


def labels_of(gate: AnnotationGate, arrivals: Arrivals, answered: Answered) -> LabelColumns:
    """See `GateService.labelled`."""
    rows, labels, rounds = gate.labels()
    copies, copied = readings.copied_labels(gate.inner)
    row_ids = arrivals.names(rows)
    said = answered.columns()
    resolved = resolve(said["row_id"], said["label"], said["annotator"])
    place = np.searchsorted(resolved.row_ids, row_ids)
    first = resolved.first[place]
    return {
        "row_id": row_ids,
        "label": labels,
        "round": rounds,
        "time": said["time"][first],
        "annotator": said["annotator"][first],
        "votes": resolved.votes[place],
        "annotators": resolved.annotators[place],
        "copy_id": arrivals.names(copies),
        "copy_label": copied,
        "group": readings.groups(gate.inner, rows),
        "validation": gate.is_validating(rows),
        "names": list(answered.names),
    }


def answers_of(answered: Answered) -> AnswerColumns:
    """See `GateService.answers`."""
    columns = answered.columns()
    return {
        "row_id": columns["row_id"],
        "label": columns["label"],
        "round": columns["round"],
        "time": columns["time"],
        "annotator": columns["annotator"],
        "names": list(answered.names),
    }
