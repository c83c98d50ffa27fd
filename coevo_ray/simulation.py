"""`coevo-ray plan`: which rows a policy would use over a run, without training."""

from __future__ import annotations

from typing import Any

import numpy as np

from coevo_ray.core.ledger import SelectionLedger
from coevo_ray.core.policies import KeptShares, make_policy
from coevo_ray.errors import UsageError
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable


def plan(
    rows: int, policy: str, *, keep: float = 0.5, epochs: int = 10, seed: int = 0, scores: str | None = None
) -> dict[str, Any]:
    """Simulates a trajectory.

    Args:
        rows: rows of the training split; with `scores` the table's rows are taken instead.
        policy: name of the policy.
        keep: kept share in (0, 1].
        epochs: epochs of the full schedule.
        seed: seed of the policy.
        scores: folder of a score table; needed by `scored`, used by `factors`.

    Returns:
        `rows`, `epochs`, `samples`, `never_used_share`, `usage` (count -> rows), and with scores
        `factors_covered` (share of factors with a selected row, by epoch).

    Raises:
        UsageError: the policy is unknown, or a number is out of bounds.
        InputError: the score table is not there.
    """
    if rows < 1 or epochs < 1 or not 0 < keep <= 1:
        raise UsageError(f"rows {rows}, epochs {epochs}, keep {keep}", "need rows >= 1, epochs >= 1, 0 < keep <= 1")
    table = None
    if scores is not None:
        table = RowTable(Location.parse(scores), "scores").scan(["representativeness", "diversity", "factor"])
        rows = len(table)
    rule = make_policy(policy)
    candidates = np.ones(rows, dtype=bool)
    ledger = SelectionLedger(rows=rows, candidates=candidates, policy=rule, keep=keep, epochs=epochs, seed=seed)
    factor = None
    if table is not None:
        factor = table.column("factor").to_numpy()
        ledger.set_scores(table.column("representativeness").to_numpy(), table.column("diversity").to_numpy(), factor)
    samples, covered = 0, []
    for epoch in range(rule.epochs_to_run(epochs, KeptShares(keep))):
        chosen = ledger.select(epoch).row_ids
        samples += len(chosen)
        if factor is not None:
            covered.append(round(len(np.unique(factor[chosen])) / len(np.unique(factor)), 4))
        ledger.commit(epoch)
    return {
        "policy": policy,
        "rows": rows,
        "epochs": rule.epochs_to_run(epochs, KeptShares(keep)),
        "samples": samples,
        "never_used_share": ledger.never_used_share(),
        "usage": {str(k): int(v) for k, v in ledger.usage_histogram().items()},
        **({"factors_covered": covered} if covered else {}),
    }
