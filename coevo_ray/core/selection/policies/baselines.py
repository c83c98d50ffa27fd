"""Baseline policies, which use nothing but usage counts: every other policy has to beat them."""

from __future__ import annotations

from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext
from coevo_ray.core.selection.rotation import draw, stream_seed, take_turns


class Full(Policy):
    """All rows in every epoch."""

    name = "full"

    def select(self, context: SelectionContext) -> Rows:
        """Returns all candidates, int64[n] or a set."""
        return context.candidates

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the number of candidates."""
        return len(context.candidates)


class FullBudget(Full):
    """All rows, for kept share x epochs epochs: as many row visits as other policies make, so the decisive baseline."""

    name = "full_budget"

    def epochs_to_run(self, epochs: int, shares: KeptShares) -> int:
        """Returns the sum of the epochs' kept shares, rounded, at least 1."""
        return shares.full_epochs(epochs)


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
