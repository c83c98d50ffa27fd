"""Interface of policies: the context they may use and the rows they return (docs/design.md#policies)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import numpy as np

from coevo_ray.core.arrays import Float32Array, Float64Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.rows.row_set import Rows, RowSet, ids_of
from coevo_ray.errors import InputError, UsageError

# Arrays that come from what training workers report.
LOSSES = frozenset({"loss", "entropy", "relative_loss"})
# Version of the rules that draw subsets; runs that were begun with former ones go on with them. 1: of version 0.1.0.
RULES = 2


@dataclass(frozen=True)
class KeptShares:
    """Schedule of the share of candidates that an epoch keeps: constant, or linear from the first epoch to the last.

    Attributes:
        first: kept share of the first epoch, in (0, 1].
        last: kept share of the last epoch before the tail; None for `first`.
        full_tail: share of the epochs, at the end, that take all rows; in [0, 1].

    Raises:
        UsageError: a share is out of bounds.
    """

    first: float
    last: float | None = None
    full_tail: float = 0.0

    def __post_init__(self) -> None:
        last = self.first if self.last is None else self.last
        if not (0 < self.first <= 1 and 0 < last <= 1 and 0 <= self.full_tail <= 1):
            raise UsageError(
                f"kept share {self.first} to {last}, full tail {self.full_tail}",
                "need kept shares in (0, 1] and a tail in [0, 1]",
            )

    def at(self, epoch: int, epochs: int) -> float:
        """Returns the kept share, in (0, 1], of an epoch (from 0) of a schedule of `epochs`."""
        selected = self.selected_epochs(epochs)
        if epoch >= selected:
            return 1.0
        last = self.first if self.last is None else self.last
        return self.first + (last - self.first) * epoch / max(1, selected - 1)

    def selected_epochs(self, epochs: int) -> int:
        """Returns the number of epochs before the full tail."""
        return epochs - round(self.full_tail * epochs)

    def full_epochs(self, epochs: int) -> int:
        """Returns the number of epochs over all rows with as many row visits as the schedule, rounded, at least 1."""
        return max(1, round(sum(self.at(epoch, epochs) for epoch in range(epochs))))

    def visits(self, epochs: int, rows: int) -> tuple[int, ...]:
        """Returns the rows of each epoch of a schedule of `epochs` over n = `rows` candidates, each from 1 to n."""
        return _visits(self, epochs, rows)


@lru_cache(maxsize=64)  # policies ask in every epoch for those of all epochs
def _visits(shares: KeptShares, epochs: int, rows: int) -> tuple[int, ...]:
    return tuple(rows_kept(shares.at(epoch, epochs), rows) for epoch in range(epochs))


def rows_kept(share: float, rows: int) -> int:
    """Returns the number of rows that a kept share of n = `rows` candidates amounts to, from 1 to n."""
    return min(max(1, round(share * rows)), rows)


@dataclass(frozen=True)
class SelectionContext:
    """Inputs of a policy. Arrays of N have one value for every row of the pool; None if unknown.

    Attributes:
        epoch, epochs: number of the epoch, from 0, and of epochs of the full schedule.
        keep: kept share of this epoch in (0, 1].
        seed: seed of the run.
        candidates: rows that may be selected: a `RowSet`, or int64[n], increasing. `rows` gives row_ids of both.
        usage: uint16 or uint32[N]: committed epochs that used each row.
        representativeness, diversity: float[N] in [0, 1].
        factor: int[N], the strongest factor, -1 for none.
        label: int[N], -1 for none.
        loss, entropy: float[N], loss and entropy of the prediction, in nats, in the last committed epoch that used the
            row; NaN where none did.
        doubt: float[N] in [0, 1], probability that the row's label is wrong (docs/design.md#label-doubt), 0 if unknown.
        irreducible: float[N], nats, loss of the row's label under probes that were not fitted on the row
            (docs/design.md#irreducible-loss).
        relative_loss: float[N], nats, the last loss less the mean of the losses that were reported next to it (see
            `core.selection.losses.relative_losses`), NaN where there is none; a policy that names it gets no `loss`.
        last: rows of the last committed epoch; None before it.
        copies, copy: int[N], members of a row's group of near-duplicates, and the row's number among them, from 0; 1
            and 0 for a row alone.
        quota: number of rows of this epoch, instead of `keep` x n; None for `keep` x n.
        last_used: int[N], the last committed epoch that used each row, -1 for none.
        shares: kept shares of all epochs; None for `keep` in all.
        rules: version of the rules that draw; see `RULES`.
        part: the class of the candidates, where they are the rows of one class; else None.
        expected: mean over epochs of the number of rows of this epoch, where the rounding of class quotas moves it up
            or down; None for that number itself.

    Raises:
        UsageError: the kept share is out of bounds.
        InputError: there are no candidates.
    """

    epoch: int
    epochs: int
    keep: float
    seed: int
    candidates: Rows
    usage: IntArray
    representativeness: FloatArray | None = None
    diversity: FloatArray | None = None
    factor: IntArray | None = None
    label: IntArray | None = None
    loss: FloatArray | None = None
    entropy: FloatArray | None = None
    doubt: FloatArray | None = None
    irreducible: FloatArray | None = None
    relative_loss: FloatArray | None = None
    last: RowSet | None = None
    copies: IntArray | None = None
    copy: IntArray | None = None
    quota: int | None = None
    last_used: IntArray | None = None
    shares: KeptShares | None = None
    rules: int = RULES
    part: int | None = None
    expected: float | None = None

    def __post_init__(self) -> None:
        check_schedule(self.keep, self.epochs)
        if len(self.candidates) == 0:
            raise InputError("no candidates to select from", "ingest rows, or label some if labels are needed")

    @cached_property
    def rows(self) -> Int64Array:
        """row_ids of the candidates, int64[n], increasing; too large, at 8 bytes each, for a hundred million rows."""
        return ids_of(self.candidates)

    @property
    def budget(self) -> int:
        """Number of rows of the epoch: keep x n, at least 1, or the quota; at most the number of candidates."""
        n = len(self.candidates)
        return rows_kept(self.keep, n) if self.quota is None else min(max(1, self.quota), n)

    @property
    def mean_budget(self) -> float:
        """Mean over epochs of the budget, where the rounding of class quotas moves it up or down; at most n."""
        return self.budget if self.expected is None else min(self.expected, len(self.candidates))

    @property
    def schedule(self) -> KeptShares:
        """Kept shares of all epochs."""
        return KeptShares(self.keep) if self.shares is None else self.shares


def check_schedule(keep: float, epochs: int) -> None:
    """Checks that a kept share is in (0, 1] and that there is an epoch.

    Raises:
        UsageError: one of them is out of bounds.
    """
    if not 0 < keep <= 1 or epochs < 1:
        raise UsageError(f"keep {keep}, epochs {epochs}", "need 0 < keep <= 1 and at least 1 epoch")


class Policy(ABC):
    """Base class of policies, which draw subsets.

    Attributes:
        name: its name in configs.
        needs: names of the context's arrays without which it cannot select.
        uses: names of the arrays that it uses if they are known; a ledger keeps only arrays that a policy names.
        equal_visits: True if all candidates are used equally often in the long run, so that the inclusion probability
            of each is budget / n.
    """

    name: str
    needs: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    equal_visits: ClassVar[bool] = True

    @abstractmethod
    def select(self, context: SelectionContext) -> Rows:
        """Selects the epoch's rows from the candidates: row_ids int64[n], increasing and distinct, or a `RowSet`."""

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array | None:
        """Returns weights float32[n] > 0 of the losses of selected rows int64[n]; None if all weights are 1."""
        return None

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns inclusion probabilities float64[n] in (0, 1] of selected rows int64[n].

        With equal visits it is budget / n, with the mean budget over epochs. Other rules have none in closed form. It
        is estimated by 1 / g, g epochs after the row's last use or after the run's begin: 1 / p is the mean of g for a
        row that every epoch takes with probability p, and the g of a row's visits add up to the epochs until its last.
        Without `last_used` it is the share of epochs, this one included, that used the row.
        """
        if self.equal_visits:
            budget = context.budget if context.rules == 1 else context.mean_budget
            return np.full(len(rows), budget / len(context.candidates))
        if context.rules > 1 and context.last_used is not None:
            return 1.0 / (context.epoch - context.last_used[rows].astype(np.float64))
        return (context.usage[rows].astype(np.float64) + 1.0) / (context.epoch + 1.0)

    def drawable(self, context: SelectionContext) -> int:
        """Returns the number of candidates that may be drawn, in this epoch or another: those of the weighted mean."""
        return len(context.candidates)

    def epochs_to_run(self, epochs: int, shares: KeptShares, rows: int | None = None) -> int:
        """Returns the number of epochs to train over n = `rows` candidates: `epochs` but for `full_budget`."""
        return epochs

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the number of rows `select` will take; learning-rate schedules need it before the arrays exist."""
        return context.budget

    @property
    def needs_losses(self) -> bool:
        """True if workers have to report losses."""
        return bool(LOSSES & (self.needs | self.uses))


def require(context: SelectionContext, policy: Policy) -> None:
    """Checks that the context has all arrays, float[N] or int[N], that a policy needs.

    Raises:
        InputError: an array is missing.
    """
    missing = sorted(name for name in policy.needs if getattr(context, name) is None)
    if missing:
        raise InputError(
            f"policy {policy.name} needs {', '.join(missing)} and the run has none", f"{_REMEDIES[missing[0]]}"
        )


_REMEDIES = {
    "representativeness": "run sae first, or take rotation",
    "diversity": "run sae first, or take rotation",
    "factor": "run sae first, or take rotation",
    "label": "train on labelled rows, or leave class quotas out",
    "loss": "let the training loop report losses",
    "entropy": "let the training loop report losses",
    "relative_loss": "let the training loop report losses",
    "doubt": "encode the pool first, or set max_doubt: 1",
    "irreducible": "train with targets and evidence of doubt, in a new folder if a former version made it",
    "copies": "encode the pool first, or set share_copies: false",
    "copy": "encode the pool first, or set share_copies: false",
}
