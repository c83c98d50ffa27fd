"""A selection policy of your own: easiest rows first, by their loss.

PYTHONPATH=examples coevo-ray train --objective supervised --policy own_policy:Curriculum --policy-option start=0.4 ...

An epoch may use the rows with the smallest last losses, a share of them that grows from `start` to all, so that hard
rows, and labels that are wrong, come late; and the rows that no epoch has used yet. Among them it takes turns.
"""

from __future__ import annotations

import numpy as np

from coevo_ray import Policy, Rows, SelectionContext, take_turns
from coevo_ray.errors import UsageError


class Curriculum(Policy):
    """Easiest first, in turns."""

    name = "curriculum"
    uses = frozenset({"loss"})  # workers report losses because of this
    equal_visits = False  # easy rows are used more often

    def __init__(self, start: float = 0.3) -> None:
        if not 0 < start <= 1:
            raise UsageError(f"curriculum: start {start}", "need a share in (0, 1]")
        self.start = start

    def select(self, context: SelectionContext) -> Rows:
        """Rows of the epoch; a function of the context alone, which after a restart is the same again."""
        assert context.loss is not None  # NaN where none is known yet
        losses = context.loss[context.rows].astype(np.float32)
        known = losses[np.isfinite(losses)]
        share = self.start + (1 - self.start) * context.epoch / max(1, context.epochs - 1)
        limit = np.quantile(known, max(share, context.keep)) if len(known) else np.inf
        easy = context.rows[~(losses > limit)]
        return take_turns(easy, context.usage, min(context.budget, len(easy)), context.seed)
