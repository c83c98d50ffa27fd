"""Answers that annotators submitted to a gate, and the labels that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from coevo_ray.actors.answered import Answered
from coevo_ray.actors.arrivals import Arrivals
from coevo_ray.actors.protocols import Taken
from coevo_ray.core.arrays import Arrays, BoolArray, Int64Array
from coevo_ray.core.gate.votes import resolve
from coevo_ray.store.journal import Record

if TYPE_CHECKING:
    from coevo_ray.core.gate.gate import AnnotationGate

NOTHING = Taken(0, 0, 0, 0)


class Submissions:
    """Answers of several annotators to one gate.

    Args:
        gate: takes the labels.
        arrivals: names the gate's rows.

    Attributes:
        answered: every answer.
        latest: the name of the latest submission that changed something, and what it changed.
    """

    def __init__(self, gate: AnnotationGate, arrivals: Arrivals) -> None:
        self._gate, self._arrivals = gate, arrivals
        self.answered = Answered()
        self.latest = ("", NOTHING)

    def new(self, row_ids: Int64Array, labels: Int64Array, annotator: str) -> BoolArray:
        """Tests which answers, labels int64[n] of rows int64[n], change the annotator's earlier ones: bool[n].

        Raises:
            InputError: an answer cannot be taken.
        """
        self._gate.check_answers(self._arrivals.positions(row_ids), labels, row_ids)
        return self.answered.new(row_ids, labels, annotator)

    def repeated(self, submission: str) -> Taken:
        """Returns the outcome of a submission without new answers: as before if it is the latest, else nothing."""
        name, taken = self.latest
        return taken if submission and submission == name else NOTHING

    def apply(self, record: Record) -> Taken:
        """Takes new answers as the journal has them: `row_ids` and `labels`, int64[n]."""
        row_ids, labels = record.arrays["row_ids"], record.arrays["labels"]
        gate, positions = self._gate, self._arrivals.positions(row_ids)
        first = ~gate.is_labelled(positions)
        asked = first & np.isin(positions, gate.open_positions)
        unasked = first & ~asked
        rounds = np.where(asked, gate.rounds, gate.rounds_of(positions)).astype(np.int32)
        self.answered.add(row_ids, labels, rounds, record.fields["annotator"], record.fields["time"])
        # Unasked ones first: the last answer of a round closes it.
        gate.volunteer(positions[unasked], labels[unasked])
        gate.submit(positions[asked], labels[asked])
        changed = self._settle(row_ids[~first])
        taken = Taken(len(row_ids), int(first.sum()), int(unasked.sum()), changed)
        self.latest = (str(record.fields.get("submission", "")), taken)
        return taken

    def restore(self, columns: Arrays, names: list[str], latest: Sequence[Any] | None) -> None:
        """Takes over columns of n answers and names, see `Answered.restore`, and `latest` where a journal has it."""
        self.answered = Answered.restore(columns, names)
        if latest is not None:
            self.latest = (latest[0], Taken(*latest[1]))

    def _settle(self, row_ids: Int64Array) -> int:
        """Gives rows with several opinions the label that follows from them; returns how many labels changed."""
        if len(row_ids) == 0:
            return 0
        said, gate = self.answered.columns(), self._gate
        about = np.isin(said["row_id"], row_ids)
        resolved = resolve(said["row_id"][about], said["label"][about], said["annotator"][about])
        positions = self._arrivals.positions(resolved.row_ids)
        other = gate.predictions(positions)[0] != resolved.labels
        gate.relabel(positions[other], resolved.labels[other])
        return int(other.sum())
