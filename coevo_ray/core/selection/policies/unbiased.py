"""Weights that make the gradient unbiased, for any policy."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Float32Array, Float64Array, Int64Array
from coevo_ray.core.rows.row_set import Rows
from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext


class Unbiased(Policy):
    """Weights the rows of a policy by the inverse of their chance to be selected (Horvitz and Thompson 1952).

    A row's weight is len(rows) / (n x chance): the mean of the weighted gradients of a subset then has the gradient of
    all candidates as its expectation, and weights are 1 where all chances are equal. Weights that the policy gives
    itself are replaced. Rows that a rule never takes are beyond any weight.

    Args:
        policy: the rule.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.name, self.uses, self.needs = policy.name, policy.uses, policy.needs

    def select(self, context: SelectionContext) -> Rows:
        """See `Policy.select`."""
        return self.policy.select(context)

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array:
        """float32[len(rows)], above 0."""
        chances = self.inclusion(context, rows)
        weights: Float32Array = (len(rows) / (len(context.candidates) * chances)).astype(np.float32)
        return weights

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """The policy's."""
        return self.policy.inclusion(context, rows)

    def epochs_to_run(self, epochs: int, shares: KeptShares) -> int:
        """The policy's."""
        return self.policy.epochs_to_run(epochs, shares)

    def rows_planned(self, context: SelectionContext) -> int:
        """The policy's."""
        return self.policy.rows_planned(context)
