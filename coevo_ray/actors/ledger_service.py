"""The durable ledger of one training: subsets, usage counts, losses and scores, as a plain class.

Every change is in the journal before it is acknowledged and is keyed by its epoch, so that a repeat changes nothing. A
new instance over the same journal is in the state that was acknowledged last (docs/design.md#selection-actor).
"""

from __future__ import annotations

import time

from coevo_ray.actors.event_log import EventLog
from coevo_ray.core.arrays import Arrays, Float32Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.row_set import Subset
from coevo_ray.core.selection.ledger import SelectionLedger, rules_of
from coevo_ray.core.selection.losses import LossReport
from coevo_ray.core.selection.subset import arrays_of, part_of, subset_of
from coevo_ray.errors import InputError
from coevo_ray.store.journal import Record
from coevo_ray.store.location import Location
from coevo_ray.telemetry import KEPT, NEVER_USED, SELECTION_SECONDS, USAGE_SPREAD, is_received, record

_SNAPSHOT_EVERY = 16


class LedgerService:
    """Owns a selection ledger.

    Args:
        journal: folder of the journal; what it holds is replayed.
        ledger: a fresh ledger.

    Raises:
        InputError: the journal is damaged, or belongs to another ledger.
    """

    def __init__(self, journal: Location, ledger: SelectionLedger) -> None:
        self.ledger = ledger
        self._commits_since_snapshot = 0
        self._scores_given = False
        self._selection_seconds = 0.0
        self._figures: dict[str, float] | None = None
        self._log = EventLog(
            journal,
            self._state,
            self._restore,
            {
                "select": self._replay_select,
                "commit": self._replay_commit,
                "losses": self._replay_losses,
                "scores": self._apply_scores,
            },
        )
        self._log.replay()
        self._publish()

    def select(self, epoch: int) -> Subset:
        """The subset of an epoch; the same however often it is asked for.

        Raises:
            InputError: an earlier epoch has not been committed.
            StoppedError: the journal cannot be written; nothing was selected.
        """
        subset = self.ledger.selected(epoch)
        if subset is None:
            started = time.perf_counter()
            subset = self.ledger.draw(epoch)
            # The rows themselves: a restart must give the same, also on another processor or with other scores.
            self._log.append("select", {"epoch": epoch, "rules": self.ledger.rules}, arrays_of(subset))
            self.ledger.begin(subset)
            self._selection_seconds = time.perf_counter() - started
            self._changed()
            self._publish()
        return subset

    def count(self, epoch: int) -> int:
        """Selects an epoch and returns the number of its rows.

        Raises:
            InputError: an earlier epoch has not been committed.
            StoppedError: the journal cannot be written; nothing was selected.
        """
        return len(self.select(epoch))

    def positions(self, epoch: int, rows: Int64Array) -> Int64Array:
        """Counts the epoch's rows before each of some row numbers int64[n], increasing: int64[n]."""
        return self.select(epoch).positions(rows)

    def read(self, epoch: int, spans: Int64Array) -> tuple[Int64Array, Float32Array | None]:
        """Reads some of an epoch's rows, so that no worker needs all of them.

        Args:
            epoch: a selected epoch.
            spans: int64[m, 3], each first row_id, end, and `positions` of the first.

        Returns:
            row_ids int64[n], and weights float32[n] or None where every row weighs 1.
        """
        return self.select(epoch).read(spans)

    def commit(self, epoch: int) -> bool:
        """Counts the usage of an epoch's rows once; True the first time, False when it was counted before.

        Raises:
            InputError: the epoch was not selected, or is out of order.
            StoppedError: the journal cannot be written; the epoch is not counted.
        """
        if not self.ledger.check_commit(epoch):
            return False
        self._log.append("commit", {"epoch": epoch})
        self.ledger.commit(epoch)
        self._commits_since_snapshot += 1
        self._changed()
        self._publish()
        return True

    def report_losses(
        self, epoch: int, row_ids: Int64Array, losses: FloatArray, entropies: FloatArray | None = None
    ) -> int:
        """Takes losses of an open epoch's rows; see `SelectionLedger.report_losses`.

        Args:
            epoch: the open epoch.
            row_ids: int64[n].
            losses: float[n].
            entropies: float[n] in nats, or None.

        Returns:
            Number of new rows: a repeat, and a report of a committed epoch, bring none.

        Raises:
            InputError: the epoch is not selected yet, a row is outside the pool, or lengths differ.
            StoppedError: the journal cannot be written; report again.
        """
        report = self.ledger.new_losses(epoch, row_ids, losses, entropies)
        if report is None:
            return 0
        arrays: Arrays = {"row_ids": report.row_ids, "losses": report.losses}
        if report.entropies is not None:
            arrays["entropies"] = report.entropies
        self._log.append("losses", {"epoch": epoch}, arrays)
        self.ledger.put_losses(report)
        self._changed()
        return len(report)

    def set_scores(
        self, row_ids: Int64Array, representativeness: FloatArray, diversity: FloatArray, factor: IntArray
    ) -> None:
        """Sets the scores and strongest factors of some rows, for the epochs that are not selected yet.

        Args:
            row_ids: int64[n].
            representativeness, diversity: float[n] in [0, 1]; kept as float16.
            factor: int[n], -1 where a row has none.

        Raises:
            InputError: lengths differ, a row is outside the pool, or a score is not finite; nothing is set.
            StoppedError: the journal cannot be written; set them again.
        """
        given: Arrays = {"representativeness": representativeness, "diversity": diversity, "factor": factor}
        self.ledger.check_scores(row_ids, given)
        given |= {name: given[name].astype("float16") for name in ("representativeness", "diversity")}
        self._apply_scores(self._log.append("scores", {}, {"row_ids": row_ids, **given}))
        self._changed()

    def scores(self, row_ids: Int64Array) -> Arrays:
        """Usage and the policy's columns of some rows int64[n], by name; arrays of length n."""
        return self.ledger.scores(row_ids)

    def figures(self) -> dict[str, float]:
        """`kept_share`, `never_used_share`, `usage_spread`, `selection_seconds`; computed once per change."""
        if self._figures is None:
            self._figures = {**self.ledger.figures(), "selection_seconds": self._selection_seconds}
        return dict(self._figures)

    def usage(self) -> IntArray:
        """Number of committed epochs that used each row, uint8[N] or uint16[N]."""
        return self.ledger.usage()

    def usage_histogram(self) -> dict[int, int]:
        """Usage count -> rows, over the rows that may be selected."""
        return {int(k): int(v) for k, v in self.ledger.usage_histogram().items()}

    def policy_name(self) -> str:
        """Name of the policy, for the metrics."""
        return self.ledger.policy.name

    def snapshot(self) -> None:
        """Writes the whole state and drops older records.

        Raises:
            StoppedError: the store refused; the older records stay.
        """
        self._log.snapshot()
        self._commits_since_snapshot = 0

    def _state(self) -> tuple[JsonObject, Arrays]:
        fields, arrays = self.ledger.state(scores=self._scores_given)
        return {"ledger": fields}, {f"ledger.{name}": array for name, array in arrays.items()}

    def _restore(self, record: Record) -> None:
        arrays = part_of(record.arrays, "ledger")
        self.ledger.restore(record.fields["ledger"], arrays)
        self._scores_given = any(name.startswith("columns.") for name in arrays)

    def _replay_select(self, record: Record) -> None:
        epoch = int(record.fields["epoch"])
        subset = subset_of(epoch, record.arrays, self.ledger.rows)
        if subset is None or self.ledger.selected(epoch) is not None or not self.ledger.may_select(subset):
            raise InputError(
                f"{self._log.location}: the subset of epoch {epoch} is not of this run's candidates",
                "use the former settings, or delete the journal to start over",
            )
        self.ledger.rules = rules_of(record.fields)  # a run goes on by the rules that it was begun with
        self.ledger.begin(subset)

    def _replay_commit(self, record: Record) -> None:
        self.ledger.commit(int(record.fields["epoch"]))
        self._commits_since_snapshot += 1

    def _replay_losses(self, record: Record) -> None:
        arrays = record.arrays
        self.ledger.put_losses(LossReport(arrays["row_ids"], arrays["losses"], arrays.get("entropies")))

    def _apply_scores(self, record: Record) -> None:
        arrays = record.arrays
        self.ledger.set_scores(
            arrays["representativeness"], arrays["diversity"], arrays["factor"], row_ids=arrays["row_ids"]
        )
        self._scores_given = True

    def _publish(self) -> None:
        if not is_received():
            return
        figures, policy = self.figures(), self.policy_name()
        record(KEPT, figures["kept_share"], policy=policy)
        record(NEVER_USED, figures["never_used_share"], policy=policy)
        record(USAGE_SPREAD, figures["usage_spread"], policy=policy)
        record(SELECTION_SECONDS, figures["selection_seconds"], policy=policy)

    def _changed(self) -> None:
        """Drops stale figures; takes a snapshot where one is due."""
        self._figures = None
        if self._commits_since_snapshot >= _SNAPSHOT_EVERY or self._log.snapshot_due():
            self.snapshot()
