"""The gate's half of the selection service: requests, answers of several annotators, predictions (DESIGN 5.4, 5.6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from coevo_ray.actors.answered import Answered
from coevo_ray.actors.arrival_service import ArrivalService
from coevo_ray.core.arrays import Arrays, BoolArray, Float32Array, Int64Array
from coevo_ray.core.gate.votes import resolve
from coevo_ray.core.selection.subset import part_of
from coevo_ray.errors import InputError
from coevo_ray.store.journal import Journal, Record

if TYPE_CHECKING:
    # Not at run time: a ledger alone should not load the gate's libraries, which take half a gigabyte.
    from coevo_ray.core.gate.gate import AnnotationGate
    from coevo_ray.core.gate.online import OnlineGate


class Taken(NamedTuple):
    """What a submission changed.

    Attributes:
        answers: new answers; an annotator who repeats what they say of a row gives none.
        labels: rows that got their first label.
        unasked: of these, rows that were not requested.
        changed: labelled rows whose label is another one now, by the rule of `core.votes`.
    """

    answers: int
    labels: int
    unasked: int
    changed: int


_NOTHING = Taken(0, 0, 0, 0)


class GateService(ArrivalService):
    """Owns a gate and all answers; every change is in the journal before it is acknowledged.

    Args:
        journal: where changes are kept.
        gate: a fresh gate, or None for a run without annotation.
        row_ids: int64[n], the row_id of each row of the gate's graph, increasing.
        online: makes the gate ready for arriving rows, when the first come; None where it takes none.
    """

    def __init__(
        self,
        journal: Journal,
        gate: AnnotationGate | None,
        row_ids: Int64Array | None,
        online: Callable[[AnnotationGate], OnlineGate] | None = None,
    ) -> None:
        super().__init__(journal, gate, row_ids, online)
        self._answered = Answered()
        self._latest = ("", _NOTHING)  # the latest submission that changed something
        self._history: list[dict[str, Any]] = []

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
        gate = self._gate()
        drawn = gate.draw() if rows is None else gate.draw_seed(rows)
        if not gate.outstanding and len(drawn.row_ids):
            arrays: Arrays = {"row_ids": self._names(drawn.row_ids), "gains": drawn.gains}
            # The rows themselves: what was asked of people stays asked, also after an upgrade draws differently.
            self._open(self._journal.append("request", {"round": drawn.round}, arrays))
        return np.sort(self._names(drawn.row_ids))

    def questions(self) -> dict[str, Any]:
        """What is requested and not answered: `round`, and arrays by increasing row.

        `row_ids` int64[n], `gains` float32[n], `predicted` int64[n] and `confidence` float32[n]: the model's class and
        its probability, -1 and NaN before the first predictions; `asked` int64[m], the round's rows, answered or not.
        """
        gate = self._gate()
        open_ = gate.open_requests()
        order = np.argsort(open_.row_ids)
        rows = open_.row_ids[order]
        predicted, confidence = gate.predictions(rows)
        return {
            "round": open_.round,
            "row_ids": self._names(rows),
            "gains": open_.gains[order],
            "predicted": predicted,
            "confidence": confidence,
            "asked": np.sort(self._names(gate.open_rows)),
        }

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
            InputError: a row is not the gate's, a label is outside the range, or a row has two labels; none is taken.
            StoppedError: the journal cannot be written; nothing is taken.
        """
        self._gate().check_answers(self._positions(row_ids), labels)
        new = self._answered.new(row_ids, labels, annotator)
        if not new.any():
            name, taken = self._latest
            return taken if submission and submission == name else _NOTHING
        fields = {"annotator": annotator, "time": time.time(), "submission": submission}
        arrays = {"row_ids": row_ids[new].astype(np.int64), "labels": labels[new].astype(np.int64)}
        return self._apply_labels(self._journal.append("labels", fields, arrays))

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
        gate = self._gate()
        if round_ != gate.rounds or gate.outstanding == 0:
            return 0
        gate.check_aside()
        return self._put_aside(self._journal.append("aside", {"round": round_}))

    def _put_aside(self, record: Record) -> int:
        return self._gate().set_aside()

    def update_predictions(self, *parts: tuple[Int64Array, Float32Array]) -> None:
        """Takes new class probabilities of all rows, in parts of (row_ids, float32[n, classes]).

        Raises:
            InputError: they are no distributions, a row is not the gate's, or a row is missing.
            StoppedError: the journal cannot be written; send them again.
        """
        gate = self._gate()
        everything = self._names(np.arange(gate.rows))
        probabilities = np.full((gate.rows, gate.config.classes), np.nan, dtype=np.float32)
        for row_ids, values in parts:
            if values.shape != (len(row_ids), gate.config.classes):
                raise InputError(
                    f"predictions {list(values.shape)} for {len(row_ids)} rows and {gate.config.classes} classes",
                    "give one distribution over the classes for each row",
                )
            probabilities[self._positions(row_ids)] = values
        missing = everything[np.isnan(probabilities[:, 0])]
        if len(missing):
            raise InputError(
                f"{len(missing)} of {gate.rows} rows have no prediction, first {missing[:3].tolist()}",
                "predict every row that the gate was opened for",
            )
        gate.update_predictions(probabilities)
        self.snapshot()

    def note_learned(self, figures: Mapping[str, float | None]) -> dict[str, Any]:
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
        gate = self._gate()
        round_, loss = gate.rounds - 1, figures.get("validation_loss")
        if loss is not None:
            gate.check_loss(round_, loss)
        now = {"labels": gate.labelled_rows, "answers": len(self._answered), "mean_gain": gate.mean_gain}
        self._learned(self._journal.append("learned", {"round": round_, **now, **figures}))
        return self._history[-1]

    # -- status --------------------------------------------------------------------------------------------------

    def labelled(self) -> dict[str, Any]:
        """Labels, in the order in which their rows got one.

        Arrays `row_id`, `label`, `round` (-1 where it was not requested), `time` and `annotator` of the first who says
        so, `votes` and `annotators` (how many of how many say so); the annotators' `names`; and `copy_id` and
        `copy_label`, rows without a label that are near-duplicates of labelled ones.
        """
        rows, labels, rounds = self._gate().labels()
        copies, copied = self._gate().copied_labels()
        row_ids = self._names(rows)
        said = self._answered.columns()
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
            "copy_id": self._names(copies),
            "copy_label": copied,
            "names": list(self._answered.names),
        }

    def history(self) -> list[dict[str, Any]]:
        """What `note_learned` took, in its order."""
        return [dict(entry) for entry in self._history]

    def knows(self, row_ids: Int64Array) -> BoolArray:
        """Which rows are the gate's, bool[n]."""
        return self._find(row_ids)[1]

    def answers(self) -> dict[str, Any]:
        """Every answer as it came: arrays `row_id`, `label`, `round`, `time`, `annotator`, and all `names`."""
        return {**self._answered.columns(), "names": list(self._answered.names)}

    def pseudo_labels(self, least: float) -> dict[str, Any]:
        """What rows without a label most likely are, where that is sure.

        Args:
            least: smallest probability of the class, as model and neighbours have it together.

        Returns:
            `row_id` int64[n], `label` int64[n], `confidence` float32[n], by row; `answers`: how many there were.

        Raises:
            InputError: there are no predictions yet, or `least` is no probability.
        """
        rows, labels, confidence = self._gate().pseudo_labels(least)
        return {
            "row_id": self._names(rows),
            "label": labels,
            "confidence": confidence,
            "answers": len(self._answered),
        }

    def gains(self) -> dict[str, Any]:
        """Where gain remains: `row_id` int64[n] of the rows without a label, increasing, `gain` float32[n].

        Raises:
            InputError: there are no predictions yet.
        """
        rows, gains = self._gate().gains()
        row_ids = self._names(rows)
        order = np.argsort(row_ids)
        return {"row_id": row_ids[order], "gain": gains[order]}

    def gate_status(self) -> dict[str, Any]:
        """Rounds, labels, open requests, mean gain of the unlabelled rows, and why the gate stopped (or None)."""
        gate = self._gate()
        labelled = self.labelled()
        return {
            "rows": gate.rows,
            "rounds": gate.rounds,
            "labels": gate.labelled_rows,
            "outstanding": gate.outstanding,
            "set_aside": gate.aside_rows,
            "answers": len(self._answered),
            "annotators": list(self._answered.names),
            "disputed": int((labelled["votes"] < labelled["annotators"]).sum()),
            "predicted": gate.has_predictions,
            "learned_answers": self._history[-1]["answers"] if self._history else None,
            "mean_gain": gate.mean_gain,
            "stopped_by": gate.stopped_by,
            "offered": len(self._offered),
            "offer_ms": self._offer_times(),
        }

    # -- state ---------------------------------------------------------------------------------------------------

    def _gate_state(self) -> tuple[dict[str, Any], Arrays]:
        fields: dict[str, Any] = {"annotators": self._answered.names, "history": self._history, "latest": self._latest}
        arrays = {f"answered.{k}": v for k, v in self._answered.columns().items()}
        arrays |= {f"offered.{k}": v for k, v in self._offered.columns().items()}
        if self.gate is not None:
            fields["gate"], part = self.gate.state()
            arrays |= {f"gate.{k}": v for k, v in part.items()}
        return fields, arrays

    def _restore_gate(self, record: Record) -> None:
        self._answered = Answered.restore(part_of(record.arrays, "answered"), record.fields["annotators"])
        self._history = list(record.fields.get("history", []))  # of a ledger alone there was none before
        name, taken = record.fields.get("latest", self._latest)  # nor this
        self._latest = (name, Taken(*taken))
        self._restore_offers(part_of(record.arrays, "offered"))
        if self.gate is not None and "gate" in record.fields:
            self.gate.restore(record.fields["gate"], part_of(record.arrays, "gate"))

    def _gate_replay(self) -> Mapping[str, Callable[[Record], object]]:
        return {
            "request": self._open,
            "labels": self._apply_labels,
            "aside": self._put_aside,
            "learned": self._learned,
            "offer": self._take_offer,
        }

    def _open(self, record: Record) -> None:
        from coevo_ray.core.gate.gate import Requests

        positions = self._positions(record.arrays["row_ids"])
        self._gate().open_round(Requests(int(record.fields["round"]), positions, record.arrays["gains"]))

    def _learned(self, record: Record) -> None:
        entry = dict(record.fields)
        # The same round may be learned again, after a correction: the later figures stand for it.
        self._history = [old for old in self._history if old["round"] != entry["round"]] + [entry]
        if entry.get("validation_loss") is not None:
            self._gate().note_loss(int(entry["round"]), float(entry["validation_loss"]))

    def _apply_labels(self, record: Record) -> Taken:
        row_ids, labels = record.arrays["row_ids"], record.arrays["labels"]
        gate, positions = self._gate(), self._positions(row_ids)
        first = ~gate.is_labelled(positions)
        asked = first & np.isin(positions, gate.open_rows)
        unasked = first & ~asked
        rounds = np.where(asked, gate.rounds, gate.rounds_of(positions)).astype(np.int32)
        self._answered.add(row_ids, labels, rounds, record.fields["annotator"], record.fields["time"])
        # Unasked ones first: the last answer of a round closes it.
        gate.volunteer(positions[unasked], labels[unasked])
        gate.submit(positions[asked], labels[asked])
        changed = self._settle(row_ids[~first])
        taken = Taken(len(row_ids), int(first.sum()), int(unasked.sum()), changed)
        self._latest = (str(record.fields.get("submission", "")), taken)
        return taken

    def _settle(self, row_ids: Int64Array) -> int:
        """Gives rows with several opinions the label that follows from them; returns how many labels changed."""
        if len(row_ids) == 0:
            return 0
        said, gate = self._answered.columns(), self._gate()
        about = np.isin(said["row_id"], row_ids)
        resolved = resolve(said["row_id"][about], said["label"][about], said["annotator"][about])
        positions = self._positions(resolved.row_ids)
        other = gate.predictions(positions)[0] != resolved.labels
        gate.relabel(positions[other], resolved.labels[other])
        return int(other.sum())
