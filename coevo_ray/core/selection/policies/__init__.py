"""Policies: rules that draw an epoch's subset (DESIGN section 5.3; arXiv 2603.04981).

A policy is a function of a `SelectionContext` alone: the same context always gives the same rows. To add one, subclass
`Policy`, give it a `name` and a `select`, and name it as `package.module:Class`, or put it into `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext, check_schedule, require
from coevo_ray.core.selection.policies.baselines import Full, FullBudget, Random, Rotation, StaticRandom
from coevo_ray.core.selection.policies.factors import Factors
from coevo_ray.core.selection.policies.pruning import Entropy, InfoBatch, Loss
from coevo_ray.core.selection.policies.quotas import ClassQuotas, class_quotas
from coevo_ray.core.selection.policies.scored import Scored
from coevo_ray.core.selection.policies.unbiased import Unbiased
from coevo_ray.errors import UsageError

__all__ = [
    "POLICIES",
    "ClassQuotas",
    "Entropy",
    "Factors",
    "Full",
    "FullBudget",
    "InfoBatch",
    "KeptShares",
    "Loss",
    "Policy",
    "Random",
    "Rotation",
    "Scored",
    "SelectionContext",
    "StaticRandom",
    "Unbiased",
    "check_schedule",
    "class_quotas",
    "make_policy",
    "require",
]

POLICIES: dict[str, Callable[..., Policy]] = {
    policy.name: policy
    for policy in (Full, FullBudget, StaticRandom, Random, Rotation, Scored, Factors, InfoBatch, Loss, Entropy)
}


def make_policy(name: str, /, *, class_power: float | None = None, unbiased: bool = False, **options: Any) -> Policy:
    """A policy by name.

    Args:
        name: one of `POLICIES`, or `package.module:Class` for one of the user's.
        class_power: class quotas in proportion to size ** this; None leaves classes alone.
        unbiased: weigh rows by the inverse of their chance.
        options: the policy's own.

    Raises:
        UsageError: the name is unknown, or an option is.
    """
    make = _find(name)
    try:
        policy = make(**options)
    except TypeError as error:
        raise UsageError(f"policy {name}: {error}", f"leave out what is wrong of: {', '.join(options)}") from error
    if not isinstance(policy, Policy):
        raise UsageError(
            f"{name} made {type(policy).__name__}", "make it a subclass of coevo_ray.core.selection.policies.Policy"
        )
    if class_power is not None:
        policy = ClassQuotas(policy, class_power)
    return Unbiased(policy) if unbiased else policy


def _find(name: str) -> Callable[..., Any]:
    if name in POLICIES:
        return POLICIES[name]
    module, _, attribute = name.partition(":")
    known = f"known ones are {', '.join(POLICIES)}, and package.module:Class for one of your own"
    if not attribute:
        raise UsageError(f"unknown policy {name!r}", known)
    try:
        found: Callable[..., Any] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"unknown policy {name!r}: {error}", known) from error
    return found
