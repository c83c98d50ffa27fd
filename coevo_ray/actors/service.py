"""The durable selection state of one run: ledger, gate and journal, as a plain class (DESIGN section 5.6).

Every change is in the journal before it is acknowledged and is keyed (epoch, or row), so that a repeat changes
nothing. A new instance over the same journal is in the state that was last acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from coevo_ray.actors.answered import Answered
from coevo_ray.core.ledger import SelectionLedger
from coevo_ray.core.losses import FloatArray, LossReport
from coevo_ray.core.row_set import Subset
from coevo_ray.core.rows import Int64Array
from coevo_ray.core.subset_draw import Arrays, arrays_of, part_of, subset_of
from coevo_ray.core.turns import IntArray
from coevo_ray.errors import InputError, StoppedError
from coevo_ray.store.journal import Journal, Record
from coevo_ray.store.location import Location

if TYPE_CHECKING:
    # Not at run time: a ledger alone should not load the gate's libraries, which take half a gigabyte.
    from coevo_ray.core.gate import AnnotationGate, Requests

_SNAPSHOT_EVERY = 16


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
        self._commits_since_snapshot = 0
        self._scores_given = False
        self._selection_seconds = 0.0
        self._figures: dict[str, float] | None = None
        for record in self._journal.replay():
            self._replay(record)

    # -- dynamic selection ---------------------------------------------------------------------------------------

    def select(self, epoch: int) -> Subset:
        """The subset of an epoch; the same however often it is asked for.

        Raises:
            InputError: an earlier epoch has not been committed.
        """
        ledger = self._ledger()
        subset = ledger.selected(epoch)
        if subset is None:
            started = time.perf_counter()
            subset = ledger.draw(epoch)
            # The rows themselves: a restart must give the same, also on another processor or with other scores.
            self._journal.append("select", {"epoch": epoch}, arrays_of(subset))
            ledger.begin(subset)
            self._selection_seconds = time.perf_counter() - started
            self._changed()
        return subset

    def commit(self, epoch: int) -> bool:
        """Counts the usage of an epoch's rows once; True the first time, False when it was counted before.

        Raises:
            InputError: the epoch was not selected, or is out of order.
            StoppedError: the journal cannot be written; the epoch is not counted.
        """
        ledger = self._ledger()
        if not ledger.check_commit(epoch):
            return False
        self._journal.append("commit", {"epoch": epoch})
        ledger.commit(epoch)
        self._commits_since_snapshot += 1
        self._changed()
        return True

    def report_losses(
        self, epoch: int, row_ids: Int64Array, losses: FloatArray, entropies: FloatArray | None = None
    ) -> int:
        """Takes losses of an open epoch's rows; see `SelectionLedger.report_losses`.

        Returns:
            Rows that were new: a repeat, and a report of a committed epoch, take none.

        Raises:
            InputError: the epoch is not selected yet, a row is outside the pool, or lengths differ.
            StoppedError: the journal cannot be written; report again.
        """
        ledger = self._ledger()
        report = ledger.new_losses(epoch, row_ids, losses, entropies)
        if report is None:
            return 0
        arrays: Arrays = {"row_ids": report.row_ids, "losses": report.losses}
        if report.entropies is not None:
            arrays["entropies"] = report.entropies
        self._journal.append("losses", {"epoch": epoch}, arrays)
        ledger.put_losses(report)
        self._changed()
        return len(report)

    def set_scores(
        self, row_ids: Int64Array, representativeness: FloatArray, diversity: FloatArray, factor: IntArray
    ) -> None:
        """Sets the scores and strongest factors of some rows, for the epochs that are not selected yet.

        Raises:
            InputError: lengths differ, a row is outside the pool, or a score is not finite; nothing is set.
            StoppedError: the journal cannot be written; set them again.
        """
        ledger = self._ledger()
        given: Arrays = {"representativeness": representativeness, "diversity": diversity, "factor": factor}
        ledger.check_scores(row_ids, given)
        given |= {name: given[name].astype(np.float16) for name in ("representativeness", "diversity")}
        self._set_scores(self._journal.append("scores", {}, {"row_ids": row_ids, **given}))
        self._changed()

    def scores(self, row_ids: Int64Array) -> Arrays:
        """What the ledger knows of some rows: usage, and what the policy looks at, by name; one value for each row."""
        return self._ledger().scores(row_ids)

    def figures(self) -> dict[str, float]:
        """`kept_share`, `never_used_share`, `usage_spread`, `selection_seconds`; computed once per change."""
        if self._figures is None:
            self._figures = {**self._ledger().figures(), "selection_seconds": self._selection_seconds}
        return dict(self._figures)

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
        states = {} if self.ledger is None else {"ledger": self.ledger.state(scores=self._scores_given)}
        if self.gate is not None:
            states["gate"] = self.gate.state()
        arrays = {f"answered.{k}": v for k, v in self._answered.columns().items()}
        for name, (part_fields, part_arrays) in states.items():
            fields[name] = part_fields
            arrays |= {f"{name}.{k}": v for k, v in part_arrays.items()}
        self._journal.snapshot(fields, arrays)
        self._commits_since_snapshot = 0

    def _replay(self, record: Record) -> None:
        replay: dict[str, Callable[[Record], object]] = {
            "snapshot": self._restore,
            "select": self._replay_select,
            "commit": self._replay_commit,
            "losses": self._replay_losses,
            "scores": self._set_scores,
            "labels": self._apply_labels,
            "request": lambda record: self._draw(record.fields["rows"]),
        }
        if record.event not in replay:
            raise InputError(f"unknown journal event {record.event!r}", "it was written by a newer version: upgrade")
        replay[record.event](record)

    def _restore(self, record: Record) -> None:
        self._answered = Answered.restore(part_of(record.arrays, "answered"), record.fields["annotators"])
        if self.ledger is not None and "ledger" in record.fields:
            arrays = part_of(record.arrays, "ledger")
            self.ledger.restore(record.fields["ledger"], arrays)
            self._scores_given = any(name.startswith("columns.") for name in arrays)
        if self.gate is not None and "gate" in record.fields:
            self.gate.restore(record.fields["gate"], part_of(record.arrays, "gate"))

    def _replay_select(self, record: Record) -> None:
        ledger, epoch = self._ledger(), int(record.fields["epoch"])
        subset = subset_of(epoch, record.arrays, ledger.rows)
        if subset is None or ledger.selected(epoch) is not None or not ledger.may_select(subset):
            raise InputError(
                f"{self._journal.location}: the subset of epoch {epoch} is not of this run's candidates",
                "use the former settings, or delete the journal to start anew",
            )
        ledger.begin(subset)

    def _replay_commit(self, record: Record) -> None:
        self._ledger().commit(int(record.fields["epoch"]))
        self._commits_since_snapshot += 1

    def _replay_losses(self, record: Record) -> None:
        arrays = record.arrays
        self._ledger().put_losses(LossReport(arrays["row_ids"], arrays["losses"], arrays.get("entropies")))

    def _set_scores(self, record: Record) -> None:
        arrays = record.arrays
        self._ledger().set_scores(
            arrays["representativeness"], arrays["diversity"], arrays["factor"], row_ids=arrays["row_ids"]
        )
        self._scores_given = True

    def _draw(self, seed_rows: int | None) -> Requests:
        gate = self._gate()
        return gate.request() if seed_rows is None else gate.request_seed(seed_rows)

    def _apply_labels(self, record: Record) -> None:
        row_ids, labels = record.arrays["row_ids"], record.arrays["labels"]
        gate = self._gate()
        round_ = gate.rounds
        gate.submit(self._positions(row_ids), labels)
        self._answered.add(row_ids, labels, round_, record.fields["annotator"], record.fields["time"])

    def _changed(self) -> None:
        """After a change of the ledger: figures are old, and a snapshot may be due."""
        self._figures = None
        if self._commits_since_snapshot >= _SNAPSHOT_EVERY or self._journal.snapshot_due():
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
