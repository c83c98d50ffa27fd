"""Policies that use the training network's loss or uncertainty."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext, require
from coevo_ray.core.selection.rotation import highest, mark_smallest, noise, stream_seed
from coevo_ray.errors import UsageError


class InfoBatch(Policy):
    """InfoBatch: prunes rows of below-mean loss at random and upweights the rest (Qin et al. 2024, arXiv 2303.04947).

    Rows whose last loss is below the mean of the known losses are pruned with probability r; those that stay weigh
    1 / (1 - r) times as much as the other rows, which all stay, as do rows without a loss. The last epochs take all
    rows.

    The published rule fixes r, which determines the kept share. Here the share is given and determines r, so that
    policies compare at equal numbers of visits, whatever the schedule of kept shares: the visits of the tail are saved
    before it, and if pruning all but `least` of the low rows does not suffice, the other rows are pruned and upweighted
    in the same way. Weights are scaled to mean 1; the published ones would lengthen the steps, tenfold at a kept share
    of 0.1.

    Args:
        tail: share of the epochs, at the end, with all rows; 0.125 as published. Halved until the budget allows it.
        least: smallest share of the low rows that stays.

    Raises:
        UsageError: a share is out of bounds.
    """

    name = "infobatch"
    needs = frozenset({"loss"})
    equal_visits = False

    def __init__(self, tail: float = 0.125, least: float = 0.1) -> None:
        if not 0 <= tail < 1 or not 0 < least <= 1:
            raise UsageError(f"infobatch: tail {tail}, least {least}", "need 0 <= tail < 1 and 0 < least <= 1")
        self.tail, self.least = tail, least

    def select(self, context: SelectionContext) -> Rows:
        """Selects the epoch's rows: int64[n] or a set.

        Raises:
            InputError: there are no losses.
        """
        require(context, self)
        if self.rows_planned(context) == len(context.candidates):
            return context.candidates
        rows = context.rows
        low, kept_low, kept_high = self._parts(context)
        chosen = np.zeros(len(rows), dtype=bool)
        for part, count in ((np.flatnonzero(low), kept_low), (np.flatnonzero(~low), kept_high)):
            if count:
                members = rows[part]
                keys = noise(members, context.seed, context.epoch + 1)
                chosen[part[mark_smallest(keys, count, members, context.seed)]] = True
        kept: Int64Array = rows[chosen]
        return kept

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array | None:
        """Returns weights float32[n] of selected rows int64[n], inverse to `inclusion`, with mean 1 in expectation."""
        if len(rows) == len(context.candidates):
            return None
        weights: Float32Array = (len(rows) / len(context.candidates) / self.inclusion(context, rows)).astype(np.float32)
        return weights

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns the kept share of each row's part (low or high loss): float64[n] of selected rows int64[n]."""
        if len(rows) == len(context.candidates):
            return np.ones(len(rows))
        low, kept_low, kept_high = self._parts(context)
        of_low, of_high = (kept / max(1, int(flags.sum())) for flags, kept in ((low, kept_low), (~low, kept_high)))
        chances = np.where(low[np.searchsorted(context.rows, rows)], of_low, of_high)
        return chances * (context.mean_budget / context.budget)

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the number of candidates in the tail, a share of the visits left before it, or the quota."""
        if context.rules == 1:
            return self._planned_formerly(context)
        if context.quota is not None:
            return context.budget
        return _visits(context.schedule, context.epochs, len(context.candidates), self.tail)[context.epoch]

    def _planned_formerly(self, context: SelectionContext) -> int:
        tail, n = round(self.tail * context.epochs), len(context.candidates)
        while tail > context.keep * context.epochs / 2:
            tail //= 2
        if context.epoch >= context.epochs - tail:
            return n
        share = (context.keep * context.epochs - tail) / (context.epochs - tail)
        return min(n, max(1, round(share * n))) if context.quota is None else context.budget

    def _parts(self, context: SelectionContext) -> tuple[BoolArray, int, int]:
        """Returns bool[n], rows of below-mean loss, and the numbers of those and of the others that stay."""
        budget = self.rows_planned(context)
        assert context.loss is not None
        low = context.loss[context.rows] < _mean_loss(context)
        if budget == 1 and context.rules > 1:
            low[:] = False  # a single row is drawn among all
        lows, highs = int(low.sum()), int((~low).sum())
        # Each part keeps a row at least: no weight can make up for a part without rows.
        least = round(self.least * lows)
        if context.rules > 1:
            least = max(least, min(lows, 1))
        kept_high = min(highs, budget - min(budget, least))
        kept_high = max(kept_high, min(highs, 1))
        return low, min(lows, budget - kept_high), kept_high


@lru_cache(maxsize=64)
def _visits(shares: KeptShares, epochs: int, n: int, share_of_tail: float) -> tuple[int, ...]:
    """Returns the rows of every epoch: in all as many as the schedule's, each from 1 to n, and n in the tail."""
    given = shares.visits(epochs, n)
    full_anyway = epochs - shares.selected_epochs(epochs)
    tail, total = round(share_of_tail * epochs), sum(given)
    # At least half of the visits are left to the epochs that prune, and a row to each of them.
    while tail > full_anyway and (2 * tail * n > total or total - tail * n < epochs - tail):
        tail //= 2
    tail = max(tail, full_anyway)
    # One row each; the other visits go along with the schedule's, in whole numbers.
    wanted = [rows - 1 for rows in given[: epochs - tail]]
    spare = total - tail * n - len(wanted)
    upto = [spare * there // max(1, sum(wanted)) for there in accumulate(wanted, initial=0)]
    return (*(1 + after - before for before, after in pairwise(upto)), *[n] * tail)


class Loss(Policy):
    """The rows with the largest last loss; a naive reference. Rows without a loss come first."""

    name = "loss"
    needs = frozenset({"loss"})
    equal_visits = False

    def select(self, context: SelectionContext) -> Rows:
        """Selects the rows with the largest loss: int64[budget] or a set."""
        require(context, self)
        assert context.loss is not None
        return _largest(context, context.loss)


class Entropy(Policy):
    """The rows with the largest entropy of the last prediction; a naive reference. Rows without one come first."""

    name = "entropy"
    needs = frozenset({"entropy"})
    equal_visits = False

    def select(self, context: SelectionContext) -> Rows:
        """Selects the rows with the largest entropy: int64[budget] or a set."""
        require(context, self)
        assert context.entropy is not None
        return _largest(context, context.entropy)


def _largest(context: SelectionContext, values: FloatArray) -> Rows:
    def key(rows: Int64Array) -> Float64Array:
        own = values[rows].astype(np.float64)
        return np.where(np.isnan(own), np.inf, own)

    return highest(context.candidates, key, context.budget, stream_seed(context.seed, context.epoch + 1))


def _mean_loss(context: SelectionContext) -> float:
    """Returns the mean of the candidates' known losses; -inf if none is known, so that no row is below it."""
    assert context.loss is not None
    known = context.loss[context.rows].astype(np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else -np.inf
