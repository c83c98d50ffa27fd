"""The selection ledger: usage counts and the epochs' subsets, as a plain class (DESIGN sections 5.3 and 5.6)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from coevo_ray.core.arrays import AnyArray, Arrays, BoolArray, FloatArray, Int64Array, IntArray
from coevo_ray.core.rows.chunks import Chunk, each_chunk, map_chunks
from coevo_ray.core.rows.row_set import RowSet, Subset
from coevo_ray.core.selection.losses import LossReport, LossTable
from coevo_ray.core.selection.policies import KeptShares, Policy, SelectionContext, check_schedule
from coevo_ray.core.selection.row_attributes import RowAttributes
from coevo_ray.core.selection.subset import arrays_of, draw_subset, part_of, set_of, subset_of
from coevo_ray.errors import InputError

_MOST_USES = np.iinfo(np.uint16).max
_SETTINGS = ("policy", "keep", "epochs", "seed")


class SelectionLedger:
    """Usage counts of N rows, and which rows each epoch takes.

    The open epoch's subset and the last committed one's are kept as bits, so that whoever asks again gets the same
    rows, whatever was set in between. Older subsets are dropped: computing them again would need the counts of that
    time, and no worker is more than one epoch behind, as a commit follows the epoch's end on all of them.

    Bytes per row: 1 of usage (2 once a row was used 255 times) and 3 bits, and of the rest what is given and the policy
    names: 2 for each of the two scores, the doubt, the loss (and a bit) and the entropy; for factor, label, copies and
    copy the narrowest integers that hold them, 1 up to 127 and 2 up to 32 767. That is 3.4 for `factors` with factors
    alone and up to 9.4 with all that it can look at, 5.4 for `scored`. Weights, where a policy gives some, cost 4 for
    each row of the last two subsets.

    Args:
        rows: N.
        candidates: bool[N] or a set, rows that may be selected.
        policy: the rule.
        keep: kept share in (0, 1], or one for each epoch.
        epochs: epochs of the full schedule.
        seed: seed of the run.

    Raises:
        InputError: no candidates, or shapes that do not fit.
        UsageError: the kept share or the epochs are out of bounds.
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
    ) -> None:
        self.keep = keep if isinstance(keep, KeptShares) else KeptShares(keep)
        check_schedule(self.keep.first, epochs)
        self._candidates = candidates if isinstance(candidates, RowSet) else RowSet.from_flags(candidates)
        if self._candidates.size != rows or len(self._candidates) == 0:
            raise InputError(
                f"{len(self._candidates)} candidates of {self._candidates.size} rows, for {rows} rows",
                "give one flag for each row, and at least one candidate",
            )
        self.policy, self.epochs, self.seed = policy, epochs, seed
        self.committed = 0
        self._usage: npt.NDArray[np.uint8 | np.uint16] = np.zeros(rows, dtype=np.uint8)
        self._last: Subset | None = None
        self._open: Subset | None = None
        names = policy.needs | policy.uses
        self._columns = RowAttributes(rows, names)
        self._losses = LossTable.unknown(rows, entropy="entropy" in names) if policy.needs_losses else None

    def set_scores(
        self, representativeness: FloatArray, diversity: FloatArray, factor: IntArray, row_ids: Int64Array | None = None
    ) -> None:
        """Takes scores, float[n] in [0, 1] each, and strongest factors, int[n]; an open epoch keeps its rows.

        Arrays are kept, not copied, where they are of the kind that the ledger keeps; do not change them then.

        Args:
            representativeness, diversity, factor: of all rows, or of those named.
            row_ids: int64[n], distinct; None for all rows. Rows never named have scores 0 and factor -1.

        Raises:
            InputError: lengths differ, a row is outside the pool, or a score is not finite.
        """
        given = {"representativeness": representativeness, "diversity": diversity, "factor": factor}
        self._columns.set(given, row_ids)

    def check_scores(self, row_ids: Int64Array, scores: Arrays) -> None:
        """Checks what `set_scores` would take, by name.

        Raises:
            InputError: see there.
        """
        self._columns.check(scores, row_ids)

    def set_labels(self, labels: IntArray) -> None:
        """Takes every row's label, int[N], -1 without one.

        Raises:
            InputError: the length differs from N.
        """
        self._columns.set({"label": labels})

    def set_doubt(self, doubt: FloatArray) -> None:
        """Takes the chance of every row's label to be wrong, float[N] in [0, 1].

        Raises:
            InputError: the length differs from N, or a value is outside.
        """
        wrong = ~((doubt >= 0) & (doubt <= 1))
        if wrong.any():
            raise InputError(f"doubts of {int(wrong.sum())} rows are not in [0, 1]", "compute them anew")
        self._columns.set({"doubt": doubt})

    def set_copies(self, copies: IntArray, copy: IntArray) -> None:
        """Takes how many near-duplicates every row has and which of them it is, int[N] each; see `SelectionContext`.

        Raises:
            InputError: lengths differ from N, or a row is not one of its group's copies.
        """
        wrong = (copy < 0) | (copy >= copies) if len(copy) == len(copies) else np.zeros(0)
        if wrong.any():
            raise InputError(f"{int(wrong.sum())} rows are not among their group's copies", "need 0 <= copy < copies")
        self._columns.set({"copies": copies, "copy": copy})

    def scores(self, row_ids: Int64Array) -> Arrays:
        """What is known and kept of some rows: name (as in `SelectionContext`) -> array[n].

        Raises:
            InputError: a row is outside the pool.
        """
        if len(row_ids) and not 0 <= row_ids.min() <= row_ids.max() < len(self._usage):
            raise InputError(f"rows {row_ids.min()} to {row_ids.max()} of {len(self._usage)}", "check the row_ids")
        return {name: array[row_ids] for name, array in self._known().items()}

    # -- epochs --------------------------------------------------------------------------------------------------

    def select(self, epoch: int) -> Subset:
        """The subset of an epoch; the same however often it is asked for, also just after its commit.

        Raises:
            InputError: an earlier epoch is not committed yet, the epoch is long past, or the policy broke its contract.
        """
        subset = self.selected(epoch)
        if subset is None:
            subset = self.draw(epoch)
            self.begin(subset)
        return subset

    def selected(self, epoch: int) -> Subset | None:
        """The subset of an epoch that was selected; None for the next epoch before that.

        Raises:
            InputError: an earlier epoch is not committed yet, or the epoch is long past.
        """
        if epoch == self.committed - 1 and self._last is not None:
            return self._last
        if epoch == self.committed:
            return self._open
        raise InputError(
            f"epoch {epoch} was asked for, {self.committed} is next",
            "commit the epochs before it" if epoch > self.committed else "only the last epoch can be asked for again",
        )

    def draw(self, epoch: int) -> Subset:
        """What the policy selects for the next epoch; nothing is changed.

        Raises:
            InputError: the policy broke its contract.
        """
        return draw_subset(self.policy, self._context(epoch))

    @property
    def rows(self) -> int:
        """N."""
        return len(self._usage)

    def may_select(self, subset: Subset) -> bool:
        """Whether a subset is of this ledger's candidates."""
        return set_of(subset).issubset(self._candidates)

    def begin(self, subset: Subset) -> None:
        """Opens the next epoch with the subset that was drawn for it."""
        self._open = subset

    def check_commit(self, epoch: int) -> bool:
        """Whether a commit would be the epoch's first.

        Raises:
            InputError: the epoch was not selected, an earlier one is not committed yet, or a count would overflow.
        """
        if 0 <= epoch < self.committed:
            return False
        if epoch != self.committed or self._open is None:
            raise InputError(
                f"epoch {epoch} cannot be committed: {self.committed} is next and is "
                f"{'not selected' if self._open is None else 'selected'}",
                "select an epoch, then commit it, in order",
            )
        if int(self._usage.max()) == _MOST_USES:
            raise InputError(f"a row was used {_MOST_USES} times", "start a new run: usage is counted in 16 bits")
        return True

    def commit(self, epoch: int) -> bool:
        """Counts the usage of an epoch's rows once.

        Returns:
            True the first time, False when it was counted before.

        Raises:
            InputError: see `check_commit`.
        """
        if not self.check_commit(epoch):
            return False
        if self._usage.dtype == np.uint8 and int(self._usage.max()) == np.iinfo(np.uint8).max:
            self._usage = self._usage.astype(np.uint16)
        assert self._open is not None
        used, usage = set_of(self._open), self._usage

        def count(chunk: Chunk) -> None:
            usage[chunk.slice] += used.flags(chunk)

        each_chunk(len(usage), count)
        self._last, self._open = self._open, None
        if self._losses is not None:
            self._losses.close()
        self.committed += 1
        return True

    def new_losses(
        self, epoch: int, row_ids: Int64Array, losses: FloatArray, entropies: FloatArray | None = None
    ) -> LossReport | None:
        """What of a report `put_losses` would take; None for nothing. See `report_losses`.

        Raises:
            InputError: the epoch is not open, a row is outside the pool, or lengths differ.
        """
        if self._losses is None or 0 <= epoch < self.committed:
            return None
        if epoch != self.committed or self._open is None:
            raise InputError(
                f"losses of epoch {epoch}: {self.committed} is next and is "
                f"{'not selected' if self._open is None else 'selected'}",
                "select an epoch, report its losses, then commit it",
            )
        report = self._losses.new(row_ids, losses, entropies)
        return report if len(report) else None

    def put_losses(self, report: LossReport) -> None:
        """Takes what `new_losses` gave."""
        if self._losses is not None:
            self._losses.put(report)

    def report_losses(
        self, epoch: int, row_ids: Int64Array, losses: FloatArray, entropies: FloatArray | None = None
    ) -> int:
        """Takes losses and entropies of predictions, float[b] each in nats, of some rows of the open epoch.

        The first report of a row in an epoch counts, so that a repeat changes nothing; NaN is no report. The policy
        sees them in the next epoch: the open one's subset and weights are drawn, and nothing looks at losses again
        before its commit. A report of a committed epoch comes too late and changes nothing: policies may have looked.

        Returns:
            Rows that were taken; 0 for a late report, and where the policy looks at no losses.

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
        """uint8 or uint16[N]: committed epochs that used each row; a copy."""
        return self._usage.copy()

    def usage_histogram(self) -> dict[int, int]:
        """Usage count -> candidates with it."""

        def count(chunk: Chunk) -> Int64Array:
            return np.bincount(self._usage[chunk.slice][self._candidates.flags(chunk)], minlength=most + 1)

        most = int(self._usage.max())
        counts = sum(map_chunks(len(self._usage), count), np.zeros(most + 1, dtype=np.int64))
        return {int(c): int(counts[c]) for c in np.flatnonzero(counts)}

    def never_used_share(self) -> float:
        """Share of the candidates that no committed epoch used."""
        return self.usage_histogram().get(0, 0) / len(self._candidates)

    def figures(self) -> dict[str, float]:
        """`kept_share` of the latest selected epoch, `never_used_share`, `usage_spread` (most minus least uses)."""
        usage, latest = self.usage_histogram(), self._open or self._last
        return {
            "kept_share": 0.0 if latest is None else len(latest) / len(self._candidates),
            "never_used_share": usage.get(0, 0) / len(self._candidates),
            "usage_spread": float(max(usage) - min(usage)),
        }

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self, *, scores: bool = False) -> tuple[dict[str, Any], Arrays]:
        """What a restart cannot compute again: small fields for JSON, and arrays.

        The arrays are the ledger's own, since copies could be half a gigabyte: write them out before it changes.

        Args:
            scores: also scores, labels and neighbours. A run has them in tables and leaves them out.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("committed", "epochs", "seed")}
        fields |= {"keep": asdict(self.keep), "policy": self.policy.name, "rows": len(self._usage)}
        arrays: Arrays = {"usage": self._usage, "candidates": self._candidates.bits}
        for name, subset in (("last", self._last), ("open", self._open)):
            if subset is not None:
                arrays |= {f"{name}.{key}": array for key, array in arrays_of(subset).items()}
        if self._losses is not None:
            arrays |= {f"losses.{name}": array for name, array in self._losses.arrays().items()}
        if scores:
            arrays |= {f"columns.{name}": array for name, array in self._columns.arrays.items()}
        return fields, arrays

    @classmethod
    def from_state(cls, fields: dict[str, Any], arrays: Arrays, policy: Policy) -> SelectionLedger:
        """A ledger that goes on exactly where `state` was taken; without scores in it, set them before selecting.

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
        )
        ledger.restore(fields, arrays)
        return ledger

    def restore(self, fields: dict[str, Any], arrays: Arrays) -> None:
        """Takes over a state, copied; scores, labels and neighbours only where it has them.

        Raises:
            InputError: it is damaged, or belongs to another policy, schedule, seed or set of candidates.
        """
        _check_state(fields, arrays)
        mine, _ = self.state()
        for name in _SETTINGS:
            if fields[name] != mine[name]:
                raise InputError(
                    f"the journal's {name} is {fields[name]!r}, this run's is {mine[name]!r}",
                    "use the former setting, or another output folder",
                )
        if not np.array_equal(arrays["candidates"], self._candidates.bits):
            raise InputError("the journal has other candidates than this run", "use another output folder")
        if len(arrays["usage"]) != len(self._usage):
            raise InputError(f"{len(arrays['usage'])} usage counts for {len(self._usage)} rows", "see the journal")
        self.committed = int(fields["committed"])
        self._usage = arrays["usage"].copy()
        rows = len(self._usage)
        self._last = subset_of(self.committed - 1, part_of(arrays, "last"), rows)
        self._open = subset_of(self.committed, part_of(arrays, "open"), rows)
        if self._losses is not None:
            self._losses = LossTable.restore(part_of(arrays, "losses"))
        self._columns.set(part_of(arrays, "columns"))

    def _known(self) -> Arrays:
        """The arrays of N that a policy sees."""
        losses = {} if self._losses is None else self._losses.arrays()
        return {"usage": self._usage, **self._columns.arrays} | {k: v for k, v in losses.items() if k != "reported"}

    def _context(self, epoch: int) -> SelectionContext:
        columns: dict[str, Any] = {name: _read_only(array) for name, array in self._known().items()}
        return SelectionContext(
            epoch=epoch,
            epochs=self.epochs,
            keep=self.keep.at(epoch, self.epochs),
            seed=self.seed,
            candidates=self._candidates,
            **columns,
        )


def _read_only(array: AnyArray) -> AnyArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _check_state(fields: dict[str, Any], arrays: Arrays) -> None:
    missing = {"committed", "rows", *_SETTINGS} - fields.keys() | {"usage", "candidates"} - arrays.keys()
    if missing:
        raise InputError(f"the ledger's state lacks {', '.join(sorted(missing))}", "use another output folder")
