"""The durable selection state of one run: ledger, gate and journal, as a plain class (DESIGN section 5.6).

Every change is in the journal before it is acknowledged and is keyed (epoch, or row), so that a repeat changes
nothing. A new instance over the same journal is in the state that was last acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.epoch_plan import Subset
from coevo_ray.core.gate import AnnotationGate, Requests
from coevo_ray.core.ledger import SelectionLedger
from coevo_ray.core.rows import Int64Array
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.journal import Journal, Record
from coevo_ray.store.location import Location

_SNAPSHOT_EVERY = 16


@dataclass
class Answered:
    """Accepted labels, in the order in which they came."""

    row_ids: list[Int64Array] = field(default_factory=list)
    labels: list[Int64Array] = field(default_factory=list)
    rounds: list[npt.NDArray[np.int32]] = field(default_factory=list)
    times: list[npt.NDArray[np.float64]] = field(default_factory=list)
    annotators: list[npt.NDArray[np.int16]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, row_ids: Int64Array, labels: Int64Array, round_: int, annotator: str, at: float) -> None:
        """Appends labels of one submission."""
        if annotator not in self.names:
            self.names.append(annotator)
        rows = len(row_ids)
        self.row_ids.append(row_ids)
        self.labels.append(labels)
        self.rounds.append(np.full(rows, round_, dtype=np.int32))
        self.times.append(np.full(rows, at))
        self.annotators.append(np.full(rows, self.names.index(annotator), dtype=np.int16))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """row_id, label, round, time (seconds since 1970), annotator (index into `names`)."""
        return {
            "row_id": _joined(self.row_ids, np.int64),
            "label": _joined(self.labels, np.int64),
            "round": _joined(self.rounds, np.int32),
            "time": _joined(self.times, np.float64),
            "annotator": _joined(self.annotators, np.int16),
        }

    @classmethod
    def restore(cls, columns: dict[str, npt.NDArray[Any]], names: list[str]) -> Answered:
        """From `columns()` and `names`."""
        return cls(
            [columns["row_id"]],
            [columns["label"]],
            [columns["round"]],
            [columns["time"]],
            [columns["annotator"]],
            list(names),
        )


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])


class SelectionService:
    """Owns a ledger, a gate, or both.

    Args:
        journal: folder of the journal; what it holds is replayed.
        ledger: a fresh ledger, or None for a run without training.
        gate: a fresh gate, or None for a run without annotation.
        row_ids: int64[n], the row_id of each row of the gate's graph, increasing.

    Raises:
        InputError: the journal is damaged, or belongs to another ledger or gate.
    """

    def __init__(
        self,
        journal: Location,
        ledger: SelectionLedger | None = None,
        gate: AnnotationGate | None = None,
        row_ids: Int64Array | None = None,
    ) -> None:
        self.ledger, self.gate = ledger, gate
        self._row_ids = np.zeros(0, dtype=np.int64) if row_ids is None else row_ids
        self._answered = Answered()
        self._journal = Journal(journal)
        self._since_snapshot = 0
        for record in self._journal.replay():
            self._replay(record)

    # -- dynamic selection ---------------------------------------------------------------------------------------

    def select(self, epoch: int) -> Subset:
        """The subset of an epoch; the same however often it is asked for.

        Raises:
            InputError: an earlier epoch has not been committed.
        """
        return self._ledger().select(epoch)

    def commit(self, epoch: int) -> bool:
        """Counts the usage of an epoch's rows once; True the first time, False when it was counted before.

        Raises:
            InputError: the epoch was not selected, or is out of order.
            StoppedError: the journal cannot be written; the epoch is not counted.
        """
        ledger = self._ledger()
        if epoch < ledger.committed:
            return False
        rows = len(ledger.select(epoch).row_ids)
        self._journal.append("commit", {"epoch": epoch, "rows": rows})
        ledger.commit(epoch)
        self._maybe_snapshot()
        return True

    def usage(self) -> npt.NDArray[Any]:
        """How many committed epochs used each row."""
        return self._ledger().usage()

    def usage_histogram(self) -> dict[int, int]:
        """Usage count -> rows, over the rows that may be selected."""
        return {int(k): int(v) for k, v in self._ledger().usage_histogram().items()}

    # -- annotation gate -----------------------------------------------------------------------------------------

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
        if gate.stopped_by is not None and not gate.outstanding:
            return np.zeros(0, dtype=np.int64)
        if gate.outstanding:
            return np.sort(self._row_ids[self._draw(rows).row_ids])
        before = gate.state()
        drawn = np.sort(self._row_ids[self._draw(rows).row_ids])
        try:
            # A draw is a function of the gate's state: that it was made is all that the journal needs to know.
            self._journal.append("request", {"rows": rows})
        except StoppedError:
            gate.restore(*before)
            raise
        return drawn

    def submit(self, row_ids: Int64Array, labels: Int64Array, annotator: str) -> int:
        """Takes labels; returns how many were new.

        Raises:
            InputError: a row was not requested, or a label is outside the range; nothing is taken.
            StoppedError: the journal cannot be written; nothing is taken.
        """
        positions = self._positions(row_ids)
        gate = self._gate()
        new = gate.check_answers(positions, labels)
        if not new.any():
            return 0
        fields = {"annotator": annotator, "time": time.time()}
        arrays = {"row_ids": row_ids[new], "labels": labels[new]}
        self._apply_labels(self._journal.append("labels", fields, arrays))
        return int(new.sum())

    def update_predictions(self, *parts: tuple[Int64Array, npt.NDArray[np.float32]]) -> None:
        """Takes new class probabilities of all rows, in parts of (row_ids, float32[n, classes]).

        Raises:
            InputError: they are no distributions, or a row is not the gate's.
            StoppedError: the journal cannot be written; send them again.
        """
        gate = self._gate()
        probabilities = np.zeros((len(self._row_ids), gate.config.classes), dtype=np.float32)
        for row_ids, values in parts:
            probabilities[self._positions(row_ids)] = values
        gate.update_predictions(probabilities)
        self.snapshot()

    def note_accuracy(self, accuracy: float) -> None:
        """Takes the measured accuracy after the round that was answered last; for the stop rule."""
        gate = self._gate()
        gate.note_accuracy(gate.rounds - 1, accuracy)

    def labelled(self) -> dict[str, Any]:
        """Accepted labels: arrays `row_id`, `label`, `round`, `time`, `annotator`, and the annotators' `names`."""
        return {**self._answered.columns(), "names": list(self._answered.names)}

    def gate_status(self) -> dict[str, Any]:
        """Rounds, labels, mean gain of the unlabelled rows, and why the gate stopped (or None)."""
        gate = self._gate()
        return {
            "rounds": gate.rounds,
            "labels": gate.labelled_rows,
            "mean_gain": gate.mean_gain,
            "stopped_by": gate.stopped_by,
        }

    # -- durability ----------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Writes the whole state and drops older records.

        Raises:
            StoppedError: the store refused; the older records stay.
        """
        fields: dict[str, Any] = {"annotators": self._answered.names}
        arrays = {f"answered.{k}": v for k, v in self._answered.columns().items()}
        for name, part in (("ledger", self.ledger), ("gate", self.gate)):
            if part is not None:
                part_fields, part_arrays = part.state()
                fields[name] = part_fields
                arrays.update({f"{name}.{k}": v for k, v in part_arrays.items()})
        self._journal.snapshot(fields, arrays)
        self._since_snapshot = 0

    def _replay(self, record: Record) -> None:
        replay: dict[str, Callable[[Record], object]] = {
            "snapshot": self._restore,
            "commit": self._replay_commit,
            "labels": self._apply_labels,
            "request": lambda record: self._draw(record.fields["rows"]),
        }
        if record.event not in replay:
            raise InputError(f"unknown journal event {record.event!r}", "it was written by a newer version: upgrade")
        replay[record.event](record)

    def _restore(self, record: Record) -> None:
        def part(name: str) -> dict[str, npt.NDArray[Any]]:
            return {k.removeprefix(f"{name}."): v for k, v in record.arrays.items() if k.startswith(f"{name}.")}

        self._answered = Answered.restore(part("answered"), record.fields["annotators"])
        if self.ledger is not None and "ledger" in record.fields:
            self.ledger.restore(record.fields["ledger"], part("ledger"))
        if self.gate is not None and "gate" in record.fields:
            self.gate.restore(record.fields["gate"], part("gate"))

    def _replay_commit(self, record: Record) -> None:
        ledger = self._ledger()
        epoch = int(record.fields["epoch"])
        rows = len(ledger.select(epoch).row_ids)
        if rows != record.fields["rows"]:
            raise InputError(
                f"{self._journal.location}: epoch {epoch} had {record.fields['rows']} rows, now it has {rows}",
                "the journal belongs to other settings; use those, or delete it to start anew",
            )
        ledger.commit(epoch)

    def _draw(self, seed_rows: int | None) -> Requests:
        gate = self._gate()
        return gate.request() if seed_rows is None else gate.request_seed(seed_rows)

    def _apply_labels(self, record: Record) -> None:
        row_ids, labels = record.arrays["row_ids"], record.arrays["labels"]
        gate = self._gate()
        round_ = gate.rounds
        gate.submit(self._positions(row_ids), labels)
        self._answered.add(row_ids, labels, round_, record.fields["annotator"], record.fields["time"])

    def _maybe_snapshot(self) -> None:
        self._since_snapshot += 1
        if self._since_snapshot >= _SNAPSHOT_EVERY:
            self.snapshot()

    def _positions(self, row_ids: Int64Array) -> Int64Array:
        positions = np.searchsorted(self._row_ids, row_ids)
        inside = positions < len(self._row_ids)
        unknown = row_ids[~inside | (self._row_ids[np.where(inside, positions, 0)] != row_ids)]
        if len(unknown):
            raise InputError(
                f"{len(unknown)} rows are not the gate's, first {unknown[:3].tolist()}", "check the row_ids"
            )
        return positions.astype(np.int64)

    def _ledger(self) -> SelectionLedger:
        if self.ledger is None:
            raise InputError("this run has no selection ledger", "start it with a training stage")
        return self.ledger

    def _gate(self) -> AnnotationGate:
        if self.gate is None:
            raise InputError("this run has no annotation gate", "start it with a gate stage")
        return self.gate
