"""Weights that make the expected gradient unbiased, for any policy."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, Float64Array, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext
from coevo_ray.core.selection.policies.quotas import ClassQuotas


class Unbiased(Policy):
    """A policy with its rows weighted by inverse inclusion probability (Horvitz & Thompson 1952).

    A row's weight is len(rows) / (n x its inclusion probability), n the rows that may be drawn: the mean of a subset's
    weighted gradients then has the mean gradient over those rows as its expectation, over seeds and the epochs of a
    cycle. Weights are 1 if all probabilities are equal. The policy's own weights are replaced.

    No weight makes up for rows that the policy never takes: rows that `factors` sets aside for doubt are outside the
    mean. Near-duplicates that share one row's visits count as the rows that they are.

    Args:
        policy: the rule.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        estimated = frozenset() if _in_closed_form(policy) else frozenset({"last_used"})
        self.name, self.uses, self.needs = policy.name, policy.uses | estimated, policy.needs

    def select(self, context: SelectionContext) -> Rows:
        """Selects as the policy: int64[n] or a set."""
        return self.policy.select(context)

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array:
        """Returns weights float32[n] > 0 of selected rows int64[n]."""
        there = len(context.candidates) if context.rules == 1 else self.policy.drawable(context)
        weights: Float32Array = (len(rows) / (there * self.inclusion(context, rows))).astype(np.float32)
        return weights

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns the policy's inclusion probabilities, float64[n] of selected rows int64[n]."""
        return self.policy.inclusion(context, rows)

    def drawable(self, context: SelectionContext) -> int:
        """Returns the policy's number of rows that may be drawn."""
        return self.policy.drawable(context)

    def epochs_to_run(self, epochs: int, shares: KeptShares, rows: int | None = None) -> int:
        """Returns the policy's number of epochs."""
        return self.policy.epochs_to_run(epochs, shares, rows)

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the policy's number of rows."""
        return self.policy.rows_planned(context)


def _in_closed_form(policy: Policy) -> bool:
    """Tests whether a policy knows its inclusion probabilities; others are estimated from epochs between uses."""
    inner = policy.policy if isinstance(policy, ClassQuotas) else policy
    return inner.equal_visits or type(inner).inclusion is not Policy.inclusion
