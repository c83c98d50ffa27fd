"""Baseline policies, which use nothing but usage counts: every other policy has to beat them."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float64Array, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext
from coevo_ray.core.selection.rotation import draw, stream_seed, take_turns


class Full(Policy):
    """All rows in every epoch."""

    name = "full"

    def select(self, context: SelectionContext) -> Rows:
        """Returns all candidates, int64[n] or a set."""
        return context.candidates

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns the planned share of the candidates, which is 1 for all rows: float64[n] of rows int64[n]."""
        if context.rules == 1:
            return super().inclusion(context, rows)
        planned = self.rows_planned(context) if context.expected is None else context.mean_budget
        return np.full(len(rows), planned / len(context.candidates))

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the number of candidates."""
        return len(context.candidates)


class FullBudget(Full):
    """All rows, for kept share x epochs epochs: as many row visits as other policies make, so the decisive baseline.

    The last epoch takes what is left of those visits, random rows.
    """

    name = "full_budget"

    def select(self, context: SelectionContext) -> Rows:
        """Returns all candidates, and in the last epoch as many as are planned: int64[n] or a set."""
        planned = self.rows_planned(context)
        if planned == len(context.candidates):
            return context.candidates
        return draw(context.candidates, planned, stream_seed(context.seed, context.epoch + 1))

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the number of candidates, and in the last epoch the visits that are left; or the quota."""
        n = len(context.candidates)
        if context.shares is None:
            return n
        if context.quota is not None:
            return context.budget
        left = sum(context.shares.visits(context.epochs, n)) - context.epoch * n
        return min(n, max(1, left))

    def epochs_to_run(self, epochs: int, shares: KeptShares, rows: int | None = None) -> int:
        """Returns the schedule's row visits / rows, rounded up; without `rows` the sum of the shares, rounded."""
        return shares.full_epochs(epochs) if rows is None else -(-sum(shares.visits(epochs, rows)) // rows)


class StaticRandom(Policy):
    """The same random rows in every epoch."""

    name = "static_random"

    def select(self, context: SelectionContext) -> Rows:
        """Draws random rows by the run's seed alone: int64[budget] or a set."""
        return draw(context.candidates, context.budget, stream_seed(context.seed, 0))


class Random(Policy):
    """Fresh random rows in every epoch."""

    name = "random"

    def select(self, context: SelectionContext) -> Rows:
        """Draws random rows by seed and epoch: int64[budget] or a set."""
        return draw(context.candidates, context.budget, stream_seed(context.seed, context.epoch + 1))


class Rotation(Policy):
    """Every row once per cycle, in an order reshuffled for each cycle; usage counts differ by at most 1.

    An epoch may end one cycle and begin the next; it uses no row twice. See docs/design.md#rotation.
    """

    name = "rotation"

    def select(self, context: SelectionContext) -> Rows:
        """Takes the next rows of the rotation, see `take_turns`: int64[budget] or a set."""
        return take_turns(context.candidates, context.usage, context.budget, context.seed)
