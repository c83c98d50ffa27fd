"""Weights that make the expected gradient unbiased, for any policy."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, Float64Array, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext


class Unbiased(Policy):
    """A policy with its rows weighted by inverse inclusion probability (Horvitz & Thompson 1952).

    A row's weight is len(rows) / (n x its inclusion probability): the mean of a subset's weighted gradients then has
    the gradient over all candidates as its expectation, and weights are 1 if all probabilities are equal. The policy's
    own weights are replaced. No weight makes up for rows that the policy never takes.

    Args:
        policy: the rule.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.name, self.uses, self.needs = policy.name, policy.uses, policy.needs

    def select(self, context: SelectionContext) -> Rows:
        """Selects as the policy: int64[n] or a set."""
        return self.policy.select(context)

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array:
        """Returns weights float32[n] > 0 of selected rows int64[n]."""
        chances = self.inclusion(context, rows)
        weights: Float32Array = (len(rows) / (len(context.candidates) * chances)).astype(np.float32)
        return weights

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns the policy's inclusion probabilities, float64[n] of selected rows int64[n]."""
        return self.policy.inclusion(context, rows)

    def epochs_to_run(self, epochs: int, shares: KeptShares) -> int:
        """Returns the policy's number of epochs."""
        return self.policy.epochs_to_run(epochs, shares)

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the policy's number of rows."""
        return self.policy.rows_planned(context)
