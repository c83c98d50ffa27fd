"""RePB: pruning within windows, uniform resampling, and weights by how often a row was selected."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import Policy, SelectionContext, require
from coevo_ray.core.selection.rotation import mark_smallest, noise, stream_seed
from coevo_ray.errors import UsageError


class RePB(Policy):
    """RePB: pruning within windows, resampling, weights by use (Zhou et al. 2026, "Inconsistency Biases in Dynamic Data
    Pruning", ICLR 2026, OpenReview Zw1Uw7u6Su).

    - Local window pruning: a row of the last epoch whose loss is at least the mean of its window stays; the others stay
      with probability 1 - rho. A window is `core.selection.losses.WINDOW` rows that a worker computed one after
      another, so that one network, nearly, gave all its losses.
    - Uniform resampling: rows outside the last epoch come back with probability 1 - rho.
    - Cumulative temporal reweighting: in epoch E (from 1) a row's weight is E / N, N its selections up to this one.

    The published rule fixes rho, which determines how many rows stay. Here the kept share is given and determines rho,
    exactly: all rows that may drop out or come back have the same chance, so as many of them are drawn as the budget
    leaves. At least a share `least` of the budget is drawn in this way: the paper's resampling does not cease either.
    The paper begins with all rows; here the first epoch, too, has its budget, of random rows. Rows without a loss are
    outside the last epoch, and come in as such rows do. Weights are divided by their mean in the epoch, as in
    `infobatch`: the published ones, of mean 1 / kept share in the long run, would lengthen the steps.

    The paper is known here from a detailed summary and its reviews, not from its full text.

    Args:
        least: smallest share of the budget that is drawn by chance, in (0, 1].

    Raises:
        UsageError: it is out of bounds.
    """

    name = "repb"
    needs = frozenset({"relative_loss"})
    equal_visits = False

    def __init__(self, least: float = 0.1) -> None:
        if not 0 < least <= 1:
            raise UsageError(f"repb: least {least}", "need above 0, up to 1")
        self.least = least

    def select(self, context: SelectionContext) -> Rows:
        """Selects the rows that stay and those that are drawn: int64[budget].

        Raises:
            InputError: there are no losses.
        """
        require(context, self)
        rows, budget = context.rows, context.budget
        stays, chance = self._staying(context, rows), noise(rows, context.seed, context.epoch + 1)
        drawn = max(1, round(self.least * budget))
        certain = min(int(stays.sum()), budget - min(drawn, int((~stays).sum())))
        chosen = np.zeros(len(rows), dtype=bool)
        for part, count in ((np.flatnonzero(stays), certain), (np.flatnonzero(~stays), budget - certain)):
            if count:
                chosen[part[mark_smallest(chance[part], count, rows[part], stream_seed(context.seed, 0))]] = True
        kept: Int64Array = rows[chosen]
        return kept

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array:
        """Returns weights float32[n] of mean 1 of selected rows int64[n], in proportion to E / N."""
        weights = (context.epoch + 1.0) / (context.usage[rows].astype(np.float64) + 1.0)
        scaled: Float32Array = (weights / weights.mean()).astype(np.float32)
        return scaled

    def _staying(self, context: SelectionContext, rows: Int64Array) -> BoolArray:
        """Returns bool[n], rows of the last epoch with a loss not below their window's mean."""
        assert context.relative_loss is not None
        if context.last is None:
            return np.zeros(len(rows), dtype=bool)
        staying: BoolArray = context.last.contains(rows) & (context.relative_loss[rows] >= 0)
        return staying
