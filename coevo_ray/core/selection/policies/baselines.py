"""Policies that look at nothing but usage: what every other one has to beat."""

from __future__ import annotations

from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext
from coevo_ray.core.selection.rotation import draw, stream_seed, take_turns


class Full(Policy):
    """All rows in every epoch."""

    name = "full"

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        return context.candidates

    def rows_planned(self, context: SelectionContext) -> int:
        """All."""
        return len(context.candidates)


class FullBudget(Full):
    """All rows, for kept share x epochs: as many visits as the others, the baseline that decides."""

    name = "full_budget"

    def epochs_to_run(self, epochs: int, shares: KeptShares) -> int:
        """The sum of the epochs' kept shares, rounded, at least 1."""
        return shares.full_epochs(epochs)


class StaticRandom(Policy):
    """The same random rows in every epoch."""

    name = "static_random"

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        return draw(context.candidates, context.budget, stream_seed(context.seed, 0))


class Random(Policy):
    """Fresh random rows in every epoch."""

    name = "random"

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        return draw(context.candidates, context.budget, stream_seed(context.seed, context.epoch + 1))


class Rotation(Policy):
    """Every row once per cycle, in an order shuffled anew for each; usage never differs by more than 1.

    An epoch may end one cycle and begin the next; no row comes twice in it.
    """

    name = "rotation"

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        return take_turns(context.candidates, context.usage, context.budget, context.seed)
