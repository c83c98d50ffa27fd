"""The durable state of one annotation gate: requests, answers of several annotators, predictions, as a plain class.

Every change is in the journal before it is acknowledged and is keyed by its rows, so that a repeat changes nothing. A
new instance over the same journal is in the state that was acknowledged last (docs/design.md#selection-actor).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.arrivals import Arrivals, MakeOnline
from coevo_ray.actors.event_log import EventLog
from coevo_ray.actors.gate_columns import answers_of, labels_of, questions_of
from coevo_ray.actors.gate_figures import publish_counts, publish_decisions, publish_learned
from coevo_ray.actors.predicted import GatheredPredictions
from coevo_ray.actors.protocols import (
    AnswerColumns,
    Gains,
    GateStatus,
    LabelColumns,
    OpenQuestions,
    PredictedPart,
    Predictions,
    PseudoLabels,
    Taken,
    Validated,
)
from coevo_ray.actors.submissions import Submissions
from coevo_ray.core.arrays import Arrays, BoolArray, Float16Array, Float32Array, Int64Array
from coevo_ray.core.gate import readings
from coevo_ray.core.gate.config import Requests
from coevo_ray.core.json import JsonObject
from coevo_ray.core.selection.subset import part_of
from coevo_ray.errors import StoppedError
from coevo_ray.store.journal import Record
from coevo_ray.store.location import Location

if TYPE_CHECKING:
    from coevo_ray.core.gate.gate import AnnotationGate


class GateService:
    """Owns a gate and all answers.

    Args:
        journal: folder of the journal; what it holds is replayed.
        gate: a fresh gate.
        row_ids: int64[n], the row_id at each position of the gate's graph, increasing.
        online: prepares the gate for arriving rows when the first come; None where it takes none.

    Raises:
        InputError: the journal is damaged, or belongs to another gate.
    """

    def __init__(
        self, journal: Location, gate: AnnotationGate, row_ids: Int64Array, online: MakeOnline | None = None
    ) -> None:
        self.gate = gate
        self._arrivals = Arrivals(gate, row_ids, online)
        self._submissions = Submissions(gate, self._arrivals)
        self._history: list[JsonObject] = []
        self._log = EventLog(
            journal,
            self._state,
            self._restore,
            {
                "request": self._open,
                "labels": self._submissions.apply,
                "aside": self._put_aside,
                "learned": self._learned,
                "offer": self._arrivals.take,
            },
        )
        self._log.replay()
        publish_counts(self.gate)

    # -- asking --------------------------------------------------------------------------------------------------

    def request(self, rows: int | None = None) -> Int64Array:
        """row_ids to be labelled now, increasing; none when the gate has stopped.

        Requests stay the same until they are all answered.

        Args:
            rows: the number of random rows to begin with; only for the first request.

        Raises:
            InputError: there are no predictions yet, or fewer rows than asked for; nothing was requested.
            StoppedError: the journal cannot be written; nothing was requested.
        """
        gate = self.gate
        drawn = gate.draw() if rows is None else gate.draw_seed(rows)
        if not gate.outstanding and len(drawn.positions):
            arrays: Arrays = {"row_ids": self._arrivals.names(drawn.positions), "gains": drawn.gains}
            # The rows themselves: what was asked of people stays asked, also after an upgrade draws differently.
            self._open(self._log.append("request", {"round": drawn.round}, arrays))
            publish_counts(self.gate)
        return np.sort(self._arrivals.names(drawn.positions))

    def questions(self) -> OpenQuestions:
        """Open requests without an answer: `round`, and arrays by increasing row.

        `row_ids` int64[n], `gains` float32[n], `predicted` int64[n] and `confidence` float32[n]: the model's class and
        its probability, -1 and NaN before the first predictions; `asked` int64[m], the round's rows, answered or not.
        """
        return questions_of(self.gate, self._arrivals)

    # -- learning ------------------------------------------------------------------------------------------------

    def submit(self, row_ids: Int64Array, labels: Int64Array, annotator: str, submission: str = "") -> Taken:
        """Takes one annotator's answers, about requested rows, labelled ones (a second opinion) or any other candidate.

        What this annotator says of a row already changes nothing; an other label replaces it. Where annotators differ,
        `core.votes.resolve` says which label a row has.

        Args:
            row_ids: int64[n].
            labels: int64[n].
            annotator: who gives them.
            submission: names this call. Made again, because the actor died before it could answer, it is told what the
                first one changed.

        Raises:
            InputError: a row is not the gate's, a label is outside the range, a row has two labels, or a gate has no
                place for a further annotator; none is taken.
            StoppedError: the journal cannot be written; nothing is taken, or it is kept already: submit it again.
        """
        new = self._submissions.new(row_ids, labels, annotator)
        if not new.any():
            return self._submissions.repeated(submission)
        fields = {"annotator": annotator, "time": time.time(), "submission": submission}
        arrays = {"row_ids": row_ids[new].astype(np.int64), "labels": labels[new].astype(np.int64)}
        taken = self._submissions.apply(self._log.append("labels", fields, arrays))
        if self._log.snapshot_due():  # each append looks through the records: thousands of annotators make as many
            self.snapshot()
        publish_counts(self.gate)
        return taken

    def set_aside(self, round_: int) -> int:
        """Closes an open round without the rows that have no label; see `AnnotationGate.set_aside`.

        Args:
            round_: its number; where it is closed already nothing changes.

        Returns:
            Rows that were set aside.

        Raises:
            InputError: no row of the round has a label yet.
            StoppedError: the journal cannot be written; the round stays open.
        """
        gate = self.gate
        if round_ != gate.rounds or gate.outstanding == 0:
            return 0
        gate.check_aside()
        count = self._put_aside(self._log.append("aside", {"round": round_}))
        publish_counts(self.gate)
        return count

    def _put_aside(self, record: Record) -> int:
        return self.gate.set_aside()

    def update_predictions(self, *parts: Predictions | PredictedPart) -> None:
        """Takes new class probabilities of all rows, in parts of (row_ids, float32[n, classes]) or `PredictedPart`.

        Beside the parts that are given whole, so many classes of all rows are in memory at a time that they take 2 GiB,
        shared by the processes that hold the graph.

        Raises:
            InputError: they are no distributions, a row is not the gate's, or a row is missing; nothing changes.
            StoppedError: the journal cannot be written; nothing changes: send them again.
        """
        gate, before = self.gate, self.gate.state()
        names = self._arrivals.all_names()
        gate.update_predictions(
            GatheredPredictions(parts, names, self._arrivals.positions, gate.config.classes, gate.inner.graph.parts)
        )
        try:
            self.snapshot()
        except StoppedError:
            gate.restore(*before)  # else later records, of rows drawn by gains that no journal has, would follow
            raise

    def note_learned(self, figures: Mapping[str, float | None]) -> JsonObject:
        """Takes what was measured of the model whose predictions came last; for the stop rule and the report.

        Args:
            figures: `validation_loss`, the cross-entropy on the random first labels for the stop rule, and any others;
                None where they were not measured.

        Returns:
            The entry of the history: the figures, and `labels`, `answers`, `round` and `mean_gain` now.

        Raises:
            InputError: a loss that is none.
            StoppedError: the journal cannot be written; note it again.
        """
        gate = self.gate
        round_, loss = gate.rounds - 1, figures.get("validation_loss")
        if loss is not None:
            gate.check_loss(round_, loss)
        now = {"labels": gate.labelled_rows, "answers": len(self._submissions.answered), "mean_gain": gate.mean_gain}
        self._learned(self._log.append("learned", {"round": round_, **now, **figures}))
        publish_learned(gate, self._history[-1])
        return self._history[-1]

    # -- arriving rows -------------------------------------------------------------------------------------------

    def offer(self, row_ids: Int64Array, features: Float16Array, probabilities: Float32Array) -> Arrays:
        """Decides on arriving rows, and takes them into the gate and its graph; a repeated row keeps its decision.

        Args:
            row_ids: int64[b], each once, none of the gate's first rows.
            features: float16[b, d], in the space of the gate's targets.
            probabilities: float32[b, C], the model's.

        Returns:
            `row_id`, and arrays of `core.gate.online.Decisions`, in the order given.

        Raises:
            InputError: shapes do not fit, a row comes twice or is of the gate's pool, or the gate has no predictions.
            StoppedError: the journal cannot be written; offer them again.
        """
        started = time.perf_counter()
        new = self._arrivals.new(row_ids)
        if new.any():
            arrays = self._arrivals.decide(row_ids[new], features[new], probabilities[new])
            self._arrivals.take(self._log.append("offer", {}, arrays))
            publish_decisions(arrays["action"])
            if self._log.snapshot_due():
                self.snapshot()
        self._arrivals.note_time(started)
        return self._arrivals.decisions(row_ids)

    def fresh_ids(self, count: int) -> Int64Array:
        """row_ids that no row has, int64[count]."""
        return self._arrivals.fresh_ids(count)

    def offered(self) -> Arrays:
        """Arriving rows that joined the gate: `row_id` int64[m] and `features` float16[m, d], by position."""
        return self._arrivals.taken()

    # -- status --------------------------------------------------------------------------------------------------

    def labelled(self) -> LabelColumns:
        """Labels, in the order in which their rows got one.

        Arrays `row_id`, `label`, `round` (-1 where it was not requested), `time` and `annotator` of the first who says
        so, `votes` and `annotators` (how many of how many say so); the annotators' `names`; and `copy_id` and
        `copy_label`, rows without a label that are near-duplicates of labelled ones; `group`, equal for labelled
        near-duplicates; `validation`, labels that the gate's model must not learn from.
        """
        return labels_of(self.gate, self._arrivals, self._submissions.answered)

    def history(self) -> list[JsonObject]:
        """The figures that `note_learned` took, in order."""
        return [dict(entry) for entry in self._history]

    def knows(self, row_ids: Int64Array) -> BoolArray:
        """Tests which rows are the gate's, bool[n]."""
        return self._arrivals.find(row_ids)[1]

    def answers(self) -> AnswerColumns:
        """Every answer as it came: arrays `row_id`, `label`, `round`, `time`, `annotator`, and all `names`."""
        return answers_of(self._submissions.answered)

    def pseudo_labels(self, least: float) -> PseudoLabels:
        """The likeliest labels of unlabelled rows, where they are sure.

        Args:
            least: smallest probability of the class, as model and neighbours have it together.

        Returns:
            `row_id` int64[n], `label` int64[n], `confidence` float32[n], `shared` bool[n] (by a near-duplicate, see
            `readings.PseudoLabelled`), by row; `answers`: how many there were.

        Raises:
            InputError: there are no predictions yet, or `least` is no probability.
        """
        rows, labels, confidence, shared = readings.pseudo_labels(self.gate.inner, least)
        return {
            "row_id": self._arrivals.names(rows),
            "label": labels,
            "confidence": confidence,
            "shared": shared,
            "answers": len(self._submissions.answered),
        }

    def gains(self) -> Gains:
        """The remaining gain: `row_id` int64[n] of the rows without a label, increasing, `gain` float32[n].

        Raises:
            InputError: there are no predictions yet.
        """
        rows, gains = readings.gains(self.gate.inner)
        row_ids = self._arrivals.names(rows)
        order = np.argsort(row_ids)
        return {"row_id": row_ids[order], "gain": gains[order]}

    def forecast(self, curve: bool = False) -> JsonObject | None:
        """Accuracy with further labels; with `curve` also the learning curve to come: see `readings.forecast`."""
        return readings.forecast(self.gate.inner, curve=curve)

    def validated(self) -> Validated:
        """Validation rows as they are and as the latest predictions have them: `label` and `predicted`, int64[v]."""
        labels, predicted = readings.validated(self.gate.inner)
        return {"label": labels, "predicted": predicted}

    def gate_status(self) -> GateStatus:
        """Rounds, labels, open requests, mean gain of the unlabelled rows, and why the gate stopped (or None)."""
        gate = self.gate
        labelled = self.labelled()
        return {
            "rows": gate.rows,
            "rounds": gate.rounds,
            "labels": gate.labelled_rows,
            "outstanding": gate.outstanding,
            "set_aside": gate.aside_rows,
            "answers": len(self._submissions.answered),
            "annotators": list(self._submissions.answered.names),
            "disputed": int((labelled["votes"] < labelled["annotators"]).sum()),
            "predicted": gate.has_predictions,
            "learned_answers": self._history[-1]["answers"] if self._history else None,
            "mean_gain": gate.mean_gain,
            "stopped_by": gate.stopped_by,
            "offered": len(self._arrivals),
            "offer_ms": self._arrivals.times(),
        }

    # -- state ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Writes the whole state and drops older records.

        Raises:
            StoppedError: the store refused; the older records stay.
        """
        self._log.snapshot()

    def _state(self) -> tuple[JsonObject, Arrays]:
        answered, latest = self._submissions.answered, self._submissions.latest
        fields: JsonObject = {"annotators": answered.names, "history": self._history, "latest": latest}
        arrays = {f"answered.{name}": column for name, column in answered.columns().items()}
        arrays |= {f"offered.{name}": column for name, column in self._arrivals.columns().items()}
        fields["gate"], part = self.gate.state()
        arrays |= {f"gate.{name}": array for name, array in part.items()}
        return fields, arrays

    def _restore(self, record: Record) -> None:
        # Early journals have neither `latest` nor `history`.
        answered, fields = part_of(record.arrays, "answered"), record.fields
        self._submissions.restore(answered, fields["annotators"], fields.get("latest"))
        self._history = list(fields.get("history", []))
        self._arrivals.restore(part_of(record.arrays, "offered"))
        self.gate.restore(record.fields["gate"], part_of(record.arrays, "gate"))

    def _open(self, record: Record) -> None:
        positions = self._arrivals.positions(record.arrays["row_ids"])
        self.gate.open_round(Requests(int(record.fields["round"]), positions, record.arrays["gains"]))

    def _learned(self, record: Record) -> None:
        entry = dict(record.fields)
        # The same round may be learned again, after a correction: the later figures stand for it.
        self._history = [old for old in self._history if old["round"] != entry["round"]] + [entry]
        if entry.get("validation_loss") is not None:
            self.gate.note_loss(int(entry["round"]), float(entry["validation_loss"]))
