"""Options that work with any policy: class quotas, and weights that make the gradient unbiased."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from coevo_ray.core.policies.base import Float32Array, KeptShares, Policy, SelectionContext, require
from coevo_ray.core.row_set import Rows, ids_of
from coevo_ray.core.rows import Int64Array
from coevo_ray.core.turns import IntArray
from coevo_ray.errors import InputError, UsageError


class ClassQuotas(Policy):
    """A policy run inside every class, each class with a quota of its own.

    Small classes are used more often then; what the policy promises of usage holds within a class.

    Args:
        policy: the rule.
        power: quotas go with size ** power: 1 keeps the classes' shares, 0 makes them equal as far as sizes allow.
    """

    def __init__(self, policy: Policy, power: float = 0.0) -> None:
        if not 0 <= power <= 1:
            raise UsageError(f"class quotas of power {power}", "need 0 (equal) to 1 (in proportion to size)")
        self.policy, self.power = policy, power
        self.name, self.uses, self.needs = policy.name, policy.uses, policy.needs | {"label"}

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        return np.sort(np.concatenate([ids_of(self.policy.select(part)) for _, part in self._parts(context)]))

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array | None:
        """The policy's own weights, class by class."""
        weights, any_ = np.ones(len(rows), dtype=np.float32), False
        for inside, part in self._members(context, rows):
            mine = self.policy.weights(part, rows[inside])
            if mine is not None:
                weights[inside], any_ = mine, True
        return weights if any_ else None

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> npt.NDArray[np.float64]:
        """The policy's chances, class by class."""
        chances = np.empty(len(rows))
        for inside, part in self._members(context, rows):
            chances[inside] = self.policy.inclusion(part, rows[inside])
        return chances

    def epochs_to_run(self, epochs: int, shares: KeptShares) -> int:
        """The policy's."""
        return self.policy.epochs_to_run(epochs, shares)

    def rows_planned(self, context: SelectionContext) -> int:
        """The policy's, with the classes' quotas summed up."""
        return self.policy.rows_planned(dataclasses.replace(context, quota=context.budget))

    def _parts(self, context: SelectionContext) -> Iterator[tuple[int, SelectionContext]]:
        require(context, self)
        return class_parts(context, self.power)

    def _members(
        self, context: SelectionContext, rows: Int64Array
    ) -> Iterator[tuple[npt.NDArray[np.bool_], SelectionContext]]:
        """For each class, which selected rows are of it, and what the policy saw."""
        assert context.label is not None
        labels = context.label[rows]
        for label, part in self._parts(context):
            yield labels == label, part


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

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> npt.NDArray[np.float64]:
        """The policy's."""
        return self.policy.inclusion(context, rows)

    def epochs_to_run(self, epochs: int, shares: KeptShares) -> int:
        """The policy's."""
        return self.policy.epochs_to_run(epochs, shares)

    def rows_planned(self, context: SelectionContext) -> int:
        """The policy's."""
        return self.policy.rows_planned(context)


def class_parts(context: SelectionContext, power: float) -> Iterator[tuple[int, SelectionContext]]:
    """Classes with a quota, and what a policy sees of each; see `class_quotas`.

    Raises:
        InputError: a candidate has no label.
    """
    assert context.label is not None
    labels = context.label[context.rows]
    if (labels < 0).any():
        raise InputError(
            f"class quotas need labels, {int((labels < 0).sum())} of {len(labels)} candidates have none",
            "train on labelled rows, or leave class quotas out",
        )
    for label, quota in class_quotas(labels, context.budget, power, context.epoch).items():
        yield label, dataclasses.replace(context, candidates=context.rows[labels == label], quota=quota)


def class_quotas(labels: IntArray, budget: int, power: float = 0.0, epoch: int = 0) -> dict[int, int]:
    """Rows of each class, in proportion to size ** power as far as the sizes allow; they sum to the budget.

    Each class gets min(its size, level x size ** power) with one level for all; what rounding leaves goes, one row
    each, to classes that have more, in turn over the epochs, so that no class is left out when there are more classes
    than rows.

    Args:
        labels: int[n], 0 or above.
        budget: at most n.
        power: in [0, 1].
        epoch: from 0.

    Returns:
        Class -> rows, for classes with at least one.
    """
    sizes = np.bincount(labels)
    classes = np.flatnonzero(sizes)
    sizes = sizes[classes]
    shares = sizes.astype(np.float64) ** power
    # The level at which a class is exhausted, from the smallest on: until then all grow in proportion.
    full_at = sizes / shares
    quotas, left = np.zeros(len(classes)), float(budget)
    open_ = np.ones(len(classes), dtype=bool)
    for c in np.argsort(full_at, kind="stable"):
        level = left / shares[open_].sum()
        if level < full_at[c]:
            break
        quotas[c], open_[c] = sizes[c], False
        left -= sizes[c]
    if open_.any():
        quotas[open_] = left / shares[open_].sum() * shares[open_]
    whole = np.minimum(np.floor(quotas + 1e-9).astype(np.int64), sizes)
    while rest := budget - int(whole.sum()):
        room = np.flatnonzero(sizes > whole)
        whole[room[(epoch * rest + np.arange(min(rest, len(room)))) % len(room)]] += 1
    return {int(c): int(q) for c, q in zip(classes, whole, strict=True) if q > 0}
