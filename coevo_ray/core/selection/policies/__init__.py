"""Policies: rules that draw an epoch's subset (arXiv 2603.04981; docs/design.md#policies).

A policy depends only on a `SelectionContext`: the same context always gives the same rows. To add one, subclass
`Policy`, give it a `name` and a `select`, and refer to it as `package.module:Class`, or add it to `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from coevo_ray.core.selection.policies.base import RULES, KeptShares, Policy, SelectionContext, check_schedule, require
from coevo_ray.core.selection.policies.baselines import Full, FullBudget, Random, Rotation, StaticRandom
from coevo_ray.core.selection.policies.factors import Factors
from coevo_ray.core.selection.policies.order_dp import OrderDP
from coevo_ray.core.selection.policies.pruning import Entropy, InfoBatch, Loss
from coevo_ray.core.selection.policies.quotas import ClassQuotas, class_quotas
from coevo_ray.core.selection.policies.rcap import RCAP
from coevo_ray.core.selection.policies.repb import RePB
from coevo_ray.core.selection.policies.rho_loss import RhoLoss
from coevo_ray.core.selection.policies.scored import Scored
from coevo_ray.core.selection.policies.seta import SeTa
from coevo_ray.core.selection.policies.unbiased import Unbiased
from coevo_ray.errors import UsageError

__all__ = [
    "POLICIES",
    "RCAP",
    "RULES",
    "ClassQuotas",
    "Entropy",
    "Factors",
    "Full",
    "FullBudget",
    "InfoBatch",
    "KeptShares",
    "Loss",
    "OrderDP",
    "Policy",
    "Random",
    "RePB",
    "RhoLoss",
    "Rotation",
    "Scored",
    "SeTa",
    "SelectionContext",
    "StaticRandom",
    "Unbiased",
    "check_schedule",
    "class_quotas",
    "make_policy",
    "require",
]

_WITHOUT_LOSSES = (Full, FullBudget, StaticRandom, Random, Rotation, Scored, Factors)
_BY_LOSSES = (InfoBatch, RhoLoss, OrderDP, RePB, RCAP, SeTa, Loss, Entropy)
POLICIES: dict[str, Callable[..., Policy]] = {policy.name: policy for policy in (*_WITHOUT_LOSSES, *_BY_LOSSES)}


def make_policy(name: str, /, *, class_power: float | None = None, unbiased: bool = False, **options: Any) -> Policy:
    """Makes a policy by name.

    Args:
        name: a key of `POLICIES`, or `package.module:Class` for the user's own.
        class_power: class quotas in proportion to size ** this (`ClassQuotas`); None sets no quotas.
        unbiased: weight rows by the inverse of their inclusion probability (`Unbiased`).
        options: the policy's own options.

    Raises:
        UsageError: the name or an option is unknown, or the result is no `Policy`.
    """
    make = _find(name)
    try:
        policy = make(**options)
    except TypeError as error:
        raise UsageError(f"policy {name}: {error}", f"correct the options given: {', '.join(options)}") from error
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
    choices = f"use one of {', '.join(POLICIES)}, or package.module:Class for your own"
    if not attribute:
        raise UsageError(f"unknown policy {name!r}", choices)
    try:
        found: Callable[..., Any] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"unknown policy {name!r}: {error}", choices) from error
    return found
