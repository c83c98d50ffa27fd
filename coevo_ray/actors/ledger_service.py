"""The durable selection state of one run: ledger, gate and journal, as a plain class (DESIGN section 5.6).

Every change is in the journal before it is acknowledged and is keyed (epoch, or row), so that a repeat changes
nothing. A new instance over the same journal is in the state that was last acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from coevo_ray.actors.gate_service import GateService
from coevo_ray.core.arrays import AnyArray, Arrays, FloatArray, Int64Array, IntArray
from coevo_ray.core.rows.row_set import Subset
from coevo_ray.core.selection.ledger import SelectionLedger
from coevo_ray.core.selection.losses import LossReport
from coevo_ray.core.selection.subset import arrays_of, part_of, subset_of
from coevo_ray.errors import InputError
from coevo_ray.store.journal import Journal, Record
from coevo_ray.store.location import Location

if TYPE_CHECKING:
    # Not at run time: a ledger alone should not load the gate's libraries, which take half a gigabyte.
    from coevo_ray.core.gate.gate import AnnotationGate
    from coevo_ray.core.gate.online import OnlineGate

_SNAPSHOT_EVERY = 16


class SelectionService(GateService):
    """Owns a ledger, a gate, or both.

    Args:
        journal: folder of the journal; what it holds is replayed.
        ledger: a fresh ledger, or None for a run without training.
        gate: a fresh gate, or None for a run without annotation.
        row_ids: int64[n], the row_id of each row of the gate's graph, increasing.
        online: see `GateService`.

    Raises:
        InputError: the journal is damaged, or belongs to another ledger or gate.
    """

    def __init__(
        self,
        journal: Location,
        ledger: SelectionLedger | None = None,
        gate: AnnotationGate | None = None,
        row_ids: Int64Array | None = None,
        online: Callable[[AnnotationGate], OnlineGate] | None = None,
    ) -> None:
        super().__init__(Journal(journal), gate, row_ids, online)
        self.ledger = ledger
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

    def usage(self) -> AnyArray:
        """How many committed epochs used each row."""
        return self._ledger().usage()

    def usage_histogram(self) -> dict[int, int]:
        """Usage count -> rows, over the rows that may be selected."""
        return {int(k): int(v) for k, v in self._ledger().usage_histogram().items()}

    # -- durability ----------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Writes the whole state and drops older records.

        Raises:
            StoppedError: the store refused; the older records stay.
        """
        fields, arrays = self._gate_state()
        if self.ledger is not None:
            fields["ledger"], part = self.ledger.state(scores=self._scores_given)
            arrays |= {f"ledger.{k}": v for k, v in part.items()}
        self._journal.snapshot(fields, arrays)
        self._commits_since_snapshot = 0

    def _replay(self, record: Record) -> None:
        replay: dict[str, Callable[[Record], object]] = {
            "snapshot": self._restore,
            "select": self._replay_select,
            "commit": self._replay_commit,
            "losses": self._replay_losses,
            "scores": self._set_scores,
            **self._gate_replay(),
        }
        if record.event not in replay:
            raise InputError(f"unknown journal event {record.event!r}", "it was written by a newer version: upgrade")
        replay[record.event](record)

    def _restore(self, record: Record) -> None:
        self._restore_gate(record)
        if self.ledger is not None and "ledger" in record.fields:
            arrays = part_of(record.arrays, "ledger")
            self.ledger.restore(record.fields["ledger"], arrays)
            self._scores_given = any(name.startswith("columns.") for name in arrays)

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

    def _changed(self) -> None:
        """After a change of the ledger: figures are old, and a snapshot may be due."""
        self._figures = None
        if self._commits_since_snapshot >= _SNAPSHOT_EVERY or self._journal.snapshot_due():
            self.snapshot()

    def _ledger(self) -> SelectionLedger:
        if self.ledger is None:
            raise InputError("this run has no selection ledger", "start it with a training stage")
        return self.ledger
