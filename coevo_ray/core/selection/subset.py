"""Drawing and checking of a policy's subset, and the arrays that a journal stores of it."""

from __future__ import annotations

import numpy as np

from coevo_ray.core.arrays import Arrays, Float32Array, Int64Array
from coevo_ray.core.rows.row_set import RowSet, Subset
from coevo_ray.core.selection.policies import Policy, SelectionContext
from coevo_ray.errors import InputError


def draw_subset(policy: Policy, context: SelectionContext) -> Subset:
    """Draws an epoch's subset by a policy, with its weights, and checks the policy's contract.

    Returns:
        Subset with row_ids int64[n] and weights float32[n] or None.

    Raises:
        InputError: rows are not distinct candidates, there are none, or weights are not positive.
    """
    selected, size = policy.select(context), len(context.usage)
    candidates = context.candidates
    allowed = candidates if isinstance(candidates, RowSet) else RowSet.from_ids(candidates, size)
    try:
        rows = selected if isinstance(selected, RowSet) else RowSet.from_ids(selected, size)
    except InputError:
        rows = RowSet.empty(size)
    if len(rows) == 0 or not rows.issubset(allowed):
        raise InputError(
            f"policy {policy.name} selected {len(selected)} rows that are not distinct candidates",
            "let its select return rows of the context's candidates, at least one and each once",
        )
    subset = Subset(context.epoch, rows)
    if type(policy).weights is Policy.weights:
        return subset  # without computing row_ids, 8 bytes each
    return Subset(context.epoch, rows, _weights(policy, context, subset.row_ids))


def _weights(policy: Policy, context: SelectionContext, rows: Int64Array) -> Float32Array | None:
    weights = policy.weights(context, rows)
    if weights is None:
        return None
    if weights.shape != rows.shape or not np.isfinite(weights).all() or not (weights > 0).all():
        raise InputError(
            f"policy {policy.name} gave weights of shape {weights.shape} for {len(rows)} rows, "
            f"{int((~(weights > 0)).sum())} of them not above 0",
            "let its weights return one finite positive number for each selected row",
        )
    return weights.astype(np.float32)


def set_of(subset: Subset) -> RowSet:
    """Returns the rows of a subset of `draw_subset` or `subset_of` as a set, bits uint8[ceil(N / 8)]."""
    assert isinstance(subset.rows, RowSet)
    return subset.rows


def arrays_of(subset: Subset) -> Arrays:
    """Returns a subset's `bits` uint8[ceil(N / 8)] and, if it has any, `weights` float32[n]."""
    weights = {} if subset.weights is None else {"weights": subset.weights}
    return {"bits": set_of(subset).bits, **weights}


def subset_of(epoch: int, arrays: Arrays, size: int) -> Subset | None:
    """Makes a subset of a pool of N = `size` rows from copies of the arrays of `arrays_of`; None without arrays.

    Args:
        epoch: from 0.
        arrays: `bits` uint8[ceil(N / 8)] and, where it has them, `weights` float32[n].
        size: N.

    Raises:
        InputError: the arrays do not fit.
    """
    if not arrays:
        return None
    weights = arrays.get("weights")
    return Subset(epoch, RowSet(arrays["bits"].copy(), size), None if weights is None else weights.copy())


def part_of(arrays: Arrays, name: str) -> Arrays:
    """Returns the arrays named `name.key`, of any shape such as float32[n], by their keys."""
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
