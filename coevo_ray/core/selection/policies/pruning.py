"""Policies that follow the loss or the uncertainty of the network in training."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, FloatArray, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import Policy, SelectionContext, require
from coevo_ray.core.selection.rotation import highest, mark_smallest, noise, stream_seed
from coevo_ray.errors import UsageError


class InfoBatch(Policy):
    """Prunes rows of below-mean loss at random and lets the others stand for them (Qin et al. 2024, arXiv 2303.04947).

    Rows whose last loss is below the mean of the known losses are pruned with a chance r, and those of them that stay
    weigh 1 / (1 - r) times as much as the others, which all stay, as do rows without a loss. The last epochs take all
    rows.

    The published rule fixes r and lets the kept share follow; here the share is given and r follows, so that all
    policies are compared at equal visits: the tail's visits are saved before it, and where pruning all but `least` of
    the low rows does not suffice, the others are pruned as well, and weigh more for it in the same way. Weights have
    mean 1: as published they would multiply the step's length, by 10 at a kept share of 0.1.

    Args:
        tail: share of the epochs at the end with all rows; the source takes 0.125. Halved until the budget allows it.
        least: smallest share of the low rows that stays.
    """

    name = "infobatch"
    needs = frozenset({"loss"})
    equal_visits = False

    def __init__(self, tail: float = 0.125, least: float = 0.1) -> None:
        if not 0 <= tail < 1 or not 0 < least <= 1:
            raise UsageError(f"infobatch: tail {tail}, least {least}", "need 0 <= tail < 1 and 0 < least <= 1")
        self.tail, self.least = tail, least

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        require(context, self)
        if context.epoch >= context.epochs - self._tail_epochs(context):
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
        """Inverse to the chance with which the row was kept, of mean 1 over a subset."""
        if len(rows) == len(context.candidates):
            return None
        weights: Float32Array = (len(rows) / len(context.candidates) / self.inclusion(context, rows)).astype(np.float32)
        return weights

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """How many of the row's part were kept, over the part's size."""
        if len(rows) == len(context.candidates):
            return np.ones(len(rows))
        assert context.loss is not None
        low, kept_low, kept_high = self._parts(context)
        of_low, of_high = (kept / max(1, int(flags.sum())) for flags, kept in ((low, kept_low), (~low, kept_high)))
        return np.where(context.loss[rows] < _mean_loss(context), of_low, of_high)

    def _tail_epochs(self, context: SelectionContext) -> int:
        tail = round(self.tail * context.epochs)
        # At least half of the visits stay for the epochs in which pruning has something to say.
        while tail > context.keep * context.epochs / 2:
            tail //= 2
        return tail

    def rows_planned(self, context: SelectionContext) -> int:
        """All in the tail; before it what the tail leaves of the visits."""
        if context.epoch >= context.epochs - self._tail_epochs(context):
            return len(context.candidates)
        return self._budget(context)

    def _budget(self, context: SelectionContext) -> int:
        tail, n = self._tail_epochs(context), len(context.candidates)
        share = (context.keep * context.epochs - tail) / (context.epochs - tail)
        return min(n, max(1, round(share * n))) if context.quota is None else context.budget

    def _parts(self, context: SelectionContext) -> tuple[BoolArray, int, int]:
        """bool[n] rows of below-mean loss; how many of them stay, and of the others."""
        budget = self._budget(context)
        assert context.loss is not None
        low = context.loss[context.rows] < _mean_loss(context)
        lows, highs = int(low.sum()), int((~low).sum())
        kept_high = min(highs, budget - min(budget, round(self.least * lows)))
        # Both parts keep at least a row, so that each is stood for.
        kept_high = max(kept_high, min(highs, 1))
        return low, min(lows, budget - kept_high), kept_high


class Loss(Policy):
    """The rows of the largest last loss; a naive reference. Rows without one come first."""

    name = "loss"
    needs = frozenset({"loss"})
    equal_visits = False

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        require(context, self)
        assert context.loss is not None
        return _largest(context, context.loss)


class Entropy(Policy):
    """The rows of the least certain last prediction; a naive reference. Rows without one come first."""

    name = "entropy"
    needs = frozenset({"entropy"})
    equal_visits = False

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        require(context, self)
        assert context.entropy is not None
        return _largest(context, context.entropy)


def _largest(context: SelectionContext, values: FloatArray) -> Rows:
    def key(rows: Int64Array) -> Float64Array:
        known = values[rows].astype(np.float64)
        return np.where(np.isnan(known), np.inf, known)

    return highest(context.candidates, key, context.budget, stream_seed(context.seed, context.epoch + 1))


def _mean_loss(context: SelectionContext) -> float:
    """Mean of the candidates' known losses; -inf while none is known, so that no row is below it."""
    assert context.loss is not None
    known = context.loss[context.rows].astype(np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else -np.inf
