"""Rotation that knows the factors."""

from __future__ import annotations

from coevo_ray.core.policies.base import Policy, SelectionContext
from coevo_ray.core.row_set import Rows
from coevo_ray.core.turns import take_turns


class Factors(Policy):
    """Rotation stratified by factors: each epoch covers every factor in proportion, and every row has its turn.

    Rows of a factor get evenly spaced phases in [0, 1), in an order and from an offset that are random per factor and
    cycle. An epoch takes the next window along the phases, wide enough for the exact budget; of a factor with n rows a
    window of width w holds floor(w n) or ceil(w n). Taking turns is the paper's usage penalty at its limit: usage
    never differs by more than 1 (see `take_turns`). An epoch that ends one cycle and begins the next has a window of
    each; rows of the old one are left out of the new one's. Without factors it is `Rotation`.
    """

    name = "factors"
    uses = frozenset({"factor"})

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        return take_turns(context.candidates, context.usage, context.budget, context.seed, context.factor)
