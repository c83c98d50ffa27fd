"""Rows of every epoch of a run, as far as its policy knows them beforehand."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.selection.policies import RULES, KeptShares, Policy, SelectionContext


def planned_visits(policy: Policy, shares: KeptShares, epochs: int, candidates: int, rules: int = RULES) -> list[int]:
    """Plans the rows of each epoch that will be run; learning-rate schedules need them before the arrays exist.

    Args:
        policy: the rule.
        shares: kept shares of the schedule.
        epochs: of the full schedule.
        candidates: rows that may be selected.
        rules: version of the rules, see `policies.RULES`.

    Examples:
        >>> from coevo_ray.core.selection.policies import make_policy
        >>> planned_visits(make_policy("full_budget"), KeptShares(0.3), epochs=8, candidates=10)
        [10, 10, 4]
    """
    nothing = np.broadcast_to(np.int64(0), (candidates,))  # takes no memory
    run = policy.epochs_to_run(epochs, shares) if rules == 1 else policy.epochs_to_run(epochs, shares, candidates)
    return [
        policy.rows_planned(
            SelectionContext(
                epoch=epoch,
                epochs=epochs,
                keep=shares.at(epoch, epochs),
                seed=0,
                candidates=nothing,
                usage=nothing,
                shares=None if rules == 1 else shares,
                rules=rules,
            )
        )
        for epoch in range(run)
    ]
