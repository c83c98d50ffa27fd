"""The selection ledger: usage counts and the subsets of epochs, as a plain class (docs/design.md#selection)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.arrays import Arrays, BoolArray, FloatArray, Int64Array, IntArray, read_only
from coevo_ray.core.rows.row_set import RowSet, Subset
from coevo_ray.core.selection.losses import LossReport, LossTable
from coevo_ray.core.selection.policies import RULES, KeptShares, Policy, SelectionContext, check_schedule
from coevo_ray.core.selection.row_attributes import RowAttributes, count_flagged
from coevo_ray.core.selection.subset import arrays_of, draw_subset, part_of, set_of, subset_of
from coevo_ray.core.selection.usage import UsageCounts
from coevo_ray.errors import InputError

_SETTINGS = ("policy", "keep", "epochs", "seed")


class SelectionLedger:
    """Usage counts of N rows, and the subset of each epoch.

    The subsets of the open and of the last committed epoch are kept as bits, so that a repeated request gets the same
    rows, whatever was set in between. Older subsets are dropped: drawing them again would need the usage counts of that
    time, and no worker is more than one epoch behind, since a commit follows the epoch's end on all of them.

    Bytes per row: 1 of usage (2 once a row was used 255 times) and 3 bits, and of the rest what is set and the policy
    names: 2 for each of the two scores, doubt, loss (and a bit) and entropy; for factor, label, copies and copy 1 up to
    127 and 2 up to 32 767. That is 3.4 for `factors` with factors alone, up to 9.4 with everything it uses, and 5.4 for
    `scored`. A policy's weights cost 4 bytes for each row of the last two subsets, and 4 for every row if they are
    estimated from the epochs between uses.

    Args:
        rows: N.
        candidates: bool[N] or a set, rows that may be selected.
        policy: the rule that draws subsets.
        keep: kept share in (0, 1], or the schedule of one.
        epochs: number of epochs of the full schedule.
        seed: seed of the run.
        rules: version of the rules that draw, see `policies.RULES`; a state that is taken over brings its own.

    Raises:
        InputError: there are no candidates, or shapes do not fit.
        UsageError: the kept share or the number of epochs is out of bounds.
    """

    def __init__(
        self,
        *,
        rows: int,
        candidates: BoolArray | RowSet,
        policy: Policy,
        keep: float | KeptShares,
        epochs: int,
        seed: int,
        rules: int = RULES,
    ) -> None:
        self.keep = keep if isinstance(keep, KeptShares) else KeptShares(keep)
        check_schedule(self.keep.first, epochs)
        self._candidates = candidates if isinstance(candidates, RowSet) else RowSet.from_flags(candidates)
        if self._candidates.size != rows or len(self._candidates) == 0:
            have = f"{len(self._candidates)} candidates of {self._candidates.size} rows, for {rows} rows"
            raise InputError(have, "give one flag for each row, and at least one candidate")
        self.policy, self.epochs, self.seed, self.rules = policy, epochs, seed, rules
        self.committed = 0
        self._last: Subset | None = None
        self._open: Subset | None = None
        names = policy.needs | policy.uses
        self._usage = UsageCounts(rows, last="last_used" in names and rules > 1)
        self._attributes = RowAttributes(rows, names)
        kinds = {"entropy": "entropy" in names, "relative": "relative_loss" in names}
        self._losses = LossTable.unknown(rows, **kinds) if policy.needs_losses else None

    def set_scores(
        self, representativeness: FloatArray, diversity: FloatArray, factor: IntArray, row_ids: Int64Array | None = None
    ) -> None:
        """Sets the scores and strongest factors of rows; an open epoch keeps its subset.

        Arrays in the ledger's own dtype are kept, not copied: do not change them afterwards.

        Args:
            representativeness, diversity: float[n] in [0, 1].
            factor: int[n], -1 for none.
            row_ids: int64[n], distinct; None for all rows. Rows without a value have scores 0 and factor -1.

        Raises:
            InputError: lengths differ, a row is outside the pool, or a score is not finite.
        """
        given = {"representativeness": representativeness, "diversity": diversity, "factor": factor}
        self._attributes.set(given, row_ids)

    def check_scores(self, row_ids: Int64Array, scores: Arrays) -> None:
        """Checks the arguments of `set_scores`: row_ids int64[n], and scores by name.

        Raises:
            InputError: as `set_scores`.
        """
        self._attributes.check(scores, row_ids)

    def set_labels(self, labels: IntArray) -> None:
        """Sets every row's label, int[N], -1 for none.

        Raises:
            InputError: the length differs from N.
        """
        self._attributes.set({"label": labels})

    def set_doubt(self, doubt: FloatArray, irreducible: FloatArray | None = None) -> None:
        """Sets the probability that each row's label is wrong, float[N] in [0, 1], and, if known, its irreducible loss.

        Raises:
            InputError: the length differs from N, or a value is outside or not finite.
        """
        if wrong := count_flagged(len(doubt), lambda at: ~((doubt[at] >= 0) & (doubt[at] <= 1))):
            raise InputError(f"doubts of {wrong} rows are not in [0, 1]", "compute them again")
        self._attributes.set({"doubt": doubt} | ({} if irreducible is None else {"irreducible": irreducible}))

    def set_copies(self, copies: IntArray, copy: IntArray) -> None:
        """Sets the members int[N] of each row's group of near-duplicates and the row's number int[N] among them.

        Raises:
            InputError: lengths differ from N, or a number is not below its group's members.
        """
        rows = len(copy) if len(copy) == len(copies) else 0
        if wrong := count_flagged(rows, lambda at: (copy[at] < 0) | (copy[at] >= copies[at])):
            raise InputError(f"{wrong} rows are not among their group's copies", "need 0 <= copy < copies")
        self._attributes.set({"copies": copies, "copy": copy})

    def scores(self, row_ids: Int64Array) -> Arrays:
        """Returns the stored attributes of rows int64[n]: name (as in `SelectionContext`) -> array[n].

        Raises:
            InputError: a row is outside the pool.
        """
        if len(row_ids) and not 0 <= row_ids.min() <= row_ids.max() < self.rows:
            raise InputError(f"rows {row_ids.min()} to {row_ids.max()} of {self.rows}", "check the row_ids")
        return {name: array[row_ids] for name, array in self._attribute_arrays().items()}

    # -- epochs --------------------------------------------------------------------------------------------------

    def select(self, epoch: int) -> Subset:
        """Returns the subset of an epoch, row_ids int64[n]; a repeated call, also after the commit, returns the same.

        Raises:
            InputError: an earlier epoch is not committed yet, a later one is, or the policy broke its contract.
        """
        subset = self.selected(epoch)
        if subset is None:
            subset = self.draw(epoch)
            self.begin(subset)
        return subset

    def selected(self, epoch: int) -> Subset | None:
        """Returns the subset of a selected epoch, row_ids int64[n]; None for the next epoch if it is not selected.

        Raises:
            InputError: an earlier epoch is not committed yet, or a later one is.
        """
        if epoch == self.committed - 1 and self._last is not None:
            return self._last
        if epoch == self.committed:
            return self._open
        raise InputError(
            f"epoch {epoch} was requested, {self.committed} is next",
            "commit the earlier epochs first"
            if epoch > self.committed
            else "only the last epoch can be selected again",
        )

    def draw(self, epoch: int) -> Subset:
        """Draws the next epoch's subset, row_ids int64[n], by the policy; changes nothing.

        Raises:
            InputError: the policy broke its contract.
        """
        return draw_subset(self.policy, self._context(epoch))

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return len(self._usage.counts)

    @property
    def candidates(self) -> RowSet:
        """The rows that may be selected, out of N."""
        return self._candidates

    def may_select(self, subset: Subset) -> bool:
        """Tests whether all rows of a subset, int64[n], are candidates of this ledger."""
        return set_of(subset).issubset(self._candidates)

    def begin(self, subset: Subset) -> None:
        """Opens the next epoch with the subset, row_ids int64[n], that `draw` gave for it."""
        self._open = subset

    def check_commit(self, epoch: int) -> bool:
        """Tests whether a commit would be the epoch's first: bool.

        Raises:
            InputError: the epoch was not selected, an earlier one is not committed yet, or a count would overflow.
        """
        if 0 <= epoch < self.committed:
            return False
        if epoch != self.committed or self._open is None:
            have = f"epoch {epoch} cannot be committed: {self._next_epoch()}"
            raise InputError(have, "select an epoch, then commit it, in order")
        self._usage.check_room()
        return True

    def commit(self, epoch: int) -> bool:
        """Adds 1 to the usage, uint[N], of an epoch's rows, once.

        Returns:
            True the first time, False if the epoch was committed before.

        Raises:
            InputError: see `check_commit`.
        """
        if not self.check_commit(epoch):
            return False
        assert self._open is not None
        self._usage.add(set_of(self._open), epoch)
        self._last, self._open = self._open, None
        if self._losses is not None:
            self._losses.close()
        self.committed += 1
        return True

    def new_losses(
        self, epoch: int, row_ids: Int64Array, losses: FloatArray, entropies: FloatArray | None = None
    ) -> LossReport | None:
        """Returns the part of a report that `put_losses` would store, rows uint32[b]; None for nothing.

        Raises:
            InputError: the epoch is not open, a row is outside the pool, or lengths differ.
        """
        if self._losses is None or 0 <= epoch < self.committed:
            return None
        if epoch != self.committed or self._open is None:
            have = f"losses of epoch {epoch}: {self._next_epoch()}"
            raise InputError(have, "select an epoch, report its losses, then commit it")
        report = self._losses.new(row_ids, losses, entropies)
        return report if len(report) else None

    def put_losses(self, report: LossReport) -> None:
        """Stores a report of `new_losses`, rows uint32[b] or int64[b]."""
        if self._losses is not None:
            self._losses.put(report)

    def report_losses(
        self, epoch: int, row_ids: Int64Array, losses: FloatArray, entropies: FloatArray | None = None
    ) -> int:
        """Stores losses and prediction entropies of some rows of the open epoch.

        The first report of a row in an epoch counts, so that a repeat changes nothing; NaN is no report. The policy
        sees them in the next epoch: the open one's subset is drawn already, and nothing reads losses before its commit.
        A report of a committed epoch is ignored: the next subset may be drawn already.

        Args:
            epoch: the open epoch.
            row_ids, losses, entropies: int64[b], float[b] and float[b] or None, in nats.

        Returns:
            Number of rows stored; 0 for a late report, and if the policy uses no losses.

        Raises:
            InputError: the epoch is not selected yet, a row is outside the pool, or lengths differ.
        """
        report = self.new_losses(epoch, row_ids, losses, entropies)
        if report is None:
            return 0
        self.put_losses(report)
        return len(report)

    # -- figures -------------------------------------------------------------------------------------------------

    def usage(self) -> npt.NDArray[np.uint8 | np.uint16]:
        """Copies the usage counts, uint8[N] or uint16[N]: committed epochs that used each row."""
        return self._usage.counts.copy()

    def usage_histogram(self) -> dict[int, int]:
        """Returns usage count -> number of candidates with it."""
        return self._usage.histogram(self._candidates)

    def never_used_share(self) -> float:
        """Returns the share of candidates that no committed epoch used."""
        return self.usage_histogram().get(0, 0) / len(self._candidates)

    def figures(self) -> dict[str, float]:
        """Returns `kept_share` of the latest subset, `never_used_share`, and `usage_spread` (most minus least uses)."""
        usage, latest = self.usage_histogram(), self._open or self._last
        return {
            "kept_share": 0.0 if latest is None else len(latest) / len(self._candidates),
            "never_used_share": usage.get(0, 0) / len(self._candidates),
            "usage_spread": float(max(usage) - min(usage)),
        }

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self, *, scores: bool = False) -> tuple[dict[str, Any], Arrays]:
        """Returns the state that a restart cannot recompute: JSON fields, and arrays such as usage uint8[N].

        The arrays are the ledger's own, since copies could take half a gigabyte: write them out before it changes.

        Args:
            scores: include scores, labels, doubt and copies. A run can read those from tables, and leaves them out.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("committed", "epochs", "seed")}
        fields |= {"keep": asdict(self.keep), "policy": self.policy.name, "rows": self.rows, "rules": self.rules}
        arrays: Arrays = {**self._usage.arrays(), "candidates": self._candidates.bits}
        for name, subset in (("last", self._last), ("open", self._open)):
            if subset is not None:
                arrays |= {f"{name}.{key}": array for key, array in arrays_of(subset).items()}
        if self._losses is not None:
            arrays |= {f"losses.{name}": array for name, array in self._losses.arrays().items()}
        if scores:
            arrays |= {f"columns.{name}": array for name, array in self._attributes.arrays.items()}
        return fields, arrays

    @classmethod
    def from_state(cls, fields: dict[str, Any], arrays: Arrays, policy: Policy) -> SelectionLedger:
        """Makes a ledger from fields and arrays of `state`, usage uint8[N]; without scores, set them before selecting.

        Raises:
            InputError: the state is damaged, or belongs to another policy.
        """
        _check_state(fields, arrays)
        ledger = cls(
            rows=fields["rows"],
            candidates=RowSet(arrays["candidates"], fields["rows"]),
            policy=policy,
            keep=KeptShares(**fields["keep"]),
            epochs=fields["epochs"],
            seed=fields["seed"],
            rules=rules_of(fields),
        )
        ledger.restore(fields, arrays)
        return ledger

    def restore(self, fields: dict[str, Any], arrays: Arrays) -> None:
        """Replaces the ledger's state by fields and arrays of `state`, copied: usage uint8[N], scores if it has them.

        Raises:
            InputError: it is damaged, or belongs to another policy, schedule, seed or set of candidates.
        """
        _check_state(fields, arrays)
        mine, _ = self.state()
        for name in _SETTINGS:
            if fields[name] != mine[name]:
                have = f"the journal's {name} is {fields[name]!r}, this run's is {mine[name]!r}"
                raise InputError(have, "use the former setting, or another output folder")
        if not np.array_equal(arrays["candidates"], self._candidates.bits):
            raise InputError("the journal has other candidates than this run", "use another output folder")
        self.rules = rules_of(fields)
        self._usage.restore(arrays)
        self.committed = int(fields["committed"])
        self._last = subset_of(self.committed - 1, part_of(arrays, "last"), self.rows)
        self._open = subset_of(self.committed, part_of(arrays, "open"), self.rows)
        if self._losses is not None:
            self._losses = LossTable.restore(part_of(arrays, "losses"), relative=self._losses.relative)
        self._attributes.set(part_of(arrays, "columns"))

    def _next_epoch(self) -> str:
        return f"{self.committed} is next and is {'not selected' if self._open is None else 'selected'}"

    def _attribute_arrays(self) -> Arrays:
        """Returns the arrays of N that a policy may use, by name."""
        losses = {} if self._losses is None else self._losses.columns()
        return {**self._usage.arrays(), **self._attributes.arrays, **losses}

    def _context(self, epoch: int) -> SelectionContext:
        columns: dict[str, Any] = {name: read_only(array) for name, array in self._attribute_arrays().items()}
        return SelectionContext(
            epoch=epoch,
            epochs=self.epochs,
            keep=self.keep.at(epoch, self.epochs),
            seed=self.seed,
            candidates=self._candidates,
            last=None if self._last is None else set_of(self._last),
            shares=None if self.rules == 1 else self.keep,
            rules=self.rules,
            **columns,
        )


def rules_of(fields: dict[str, Any]) -> int:
    """Returns the rules with which a state or a subset was made: version 0.1.0 names none and has the first."""
    return int(fields.get("rules", 1))


def _check_state(fields: dict[str, Any], arrays: Arrays) -> None:
    missing = {"committed", "rows", *_SETTINGS} - fields.keys() | {"usage", "candidates"} - arrays.keys()
    if missing:
        raise InputError(f"the ledger's state lacks {', '.join(sorted(missing))}", "use another output folder")
