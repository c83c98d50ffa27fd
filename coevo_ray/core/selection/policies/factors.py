"""Rotation stratified by factors, with class quotas, doubt about labels and shared visits of near-duplicates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float64Array, FloatArray, Int64Array, IntArray
from coevo_ray.core.rows.chunks import Chunk, each_chunk
from coevo_ray.core.rows.row_set import Rows, RowSet
from coevo_ray.core.selection.class_rotation import ClassRows, rotate_classes
from coevo_ray.core.selection.class_strata import random_offsets
from coevo_ray.core.selection.inclusion import shared_chances
from coevo_ray.core.selection.policies.base import Policy, SelectionContext
from coevo_ray.core.selection.policies.quotas import (
    budgets_until,
    class_sizes,
    fair_shares,
    quotas_in_turn,
    select_by_class,
)
from coevo_ray.core.selection.rotation import take_turns
from coevo_ray.errors import UsageError


class Factors(Policy):
    """Rotation stratified by factors: every epoch takes rows of each factor in proportion, and every row in turn.

    After arXiv 2603.04981, with its usage penalty at the limit (docs/design.md#policy-factors). Rows of a factor get
    evenly spaced phases in [0, 1), in an order that is random per factor and cycle, from offsets that spread a factor's
    rows over the cycle across classes (`core.selection.class_strata`). An epoch takes the next window along the phases,
    wide enough for the exact budget: of a class's factor with n rows, a window of width w holds floor(w n) or
    ceil(w n). Usage counts differ by at most 1 (see `take_turns`). An epoch that ends one cycle and begins the next has
    a window of each, without the rows of the first window in the second. Without factors it is `Rotation`.

    Uniform visits are worth what a shorter schedule over all rows is worth. Three rules go beyond them:

    - Rows whose label is wrong with a probability above `max_doubt` are excluded (see `core.probes.label_doubt`).
    - Near-duplicates share the visits of one row: a group of m copies has one turn per cycle, which its members take in
      order (usage u of member j counts as u m + j turns).
    - Classes get quotas in proportion to size ** quota_power; usage counts then differ by at most 1 within a class.

    Args:
        max_doubt: largest probability of a wrong label of a row that is used; 1 excludes no row. The default is below a
            half: in the policies benchmark (benchmarks/results/policies.md) that was better on noisy labels.
        share_copies: let near-duplicates share visits.
        quota_power: 1 keeps the classes' shares, 0 makes them equal as far as sizes allow.

    Raises:
        UsageError: `max_doubt` or `quota_power` is outside [0, 1].
    """

    name = "factors"

    def __init__(self, max_doubt: float = 0.25, share_copies: bool = True, quota_power: float = 0.0) -> None:
        if not 0 <= max_doubt <= 1 or not 0 <= quota_power <= 1:
            raise UsageError(f"factors: max_doubt {max_doubt}, quota_power {quota_power}", "need 0 to 1")
        self.max_doubt, self.share_copies, self.quota_power = max_doubt, share_copies, quota_power
        # An array that is not named here is neither computed nor kept.
        self.uses = frozenset(
            {"factor"}
            | ({"doubt"} if max_doubt < 1 else set())
            | ({"copies", "copy"} if share_copies else set())
            | ({"label"} if quota_power < 1 else set())
        )

    def select(self, context: SelectionContext) -> Rows:
        """Selects the epoch's rows, see the class: int64[n] or a set."""
        believed = self._believed(context)
        label = None if self.quota_power == 1 else believed.label
        if label is None:
            return self.take(self._in_turns(believed))
        if context.rules == 1:
            return select_by_class(
                _Inside(self), self._in_turns(believed), self.quota_power, [believed.budget], in_threads=True
            )
        return self._in_classes(context, believed, label)

    def take(self, context: SelectionContext) -> Rows:
        """Takes the next rows of the rotation, ignoring doubt and classes: int64[n] or a set; `usage` counts turns.

        Args:
            context: of all candidates, or of those of the class `part`.
        """
        offsets, copies = None, self._copies(context)
        if context.rules == 1:
            copies = None
        elif context.part is not None:
            offsets = partial(random_offsets, context.part, context.seed)
        return take_turns(
            context.candidates,
            context.usage,
            context.budget,
            context.seed,
            context.factor,
            offsets=offsets,
            turns=copies,
        )

    def _in_turns(self, context: SelectionContext) -> SelectionContext:
        """Returns the context with turns taken in the place of usage, where near-duplicates share visits."""
        copies = self._copies(context)
        if copies is None or context.copy is None:
            return context
        turns = turns_taken(context.candidates, context.usage, copies, context.copy)
        return dataclasses.replace(context, usage=turns)

    def _in_classes(self, context: SelectionContext, believed: SelectionContext, label: IntArray) -> RowSet:
        """Rotates within every class, each with its quota of the epoch's budget."""
        kept, size = believed.candidates, len(context.usage)
        candidates = kept if isinstance(kept, RowSet) else RowSet.from_ids(kept, size)
        sizes = class_sizes(candidates, label)
        budgets = [min(budget, len(candidates)) for budget in budgets_until(self, context)]
        quotas = np.zeros(len(sizes), dtype=np.int64)
        for of, quota in quotas_in_turn(sizes, budgets, self.quota_power).items():
            quotas[of] = quota
        rows = ClassRows(
            candidates,
            context.usage,
            label,
            factor=context.factor,
            copies=self._copies(context),
            copy=context.copy,
        )
        # Within a class of `ClassQuotas` there are no others to spread across.
        return rotate_classes(rows, quotas, context.seed, spread=context.part is None)

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns the share of a long run's epochs that use each of the rows: float64[n] of selected rows int64[n].

        A row of a group of m near-duplicates is used min(1, level / m) times an epoch, with a level for each class at
        which its rows get its quota together.
        """
        if context.rules == 1:
            return super().inclusion(context, rows)
        believed, copies = self._believed(context), self._copies(context)
        label = None if self.quota_power == 1 else believed.label
        if label is None:
            quotas = np.array([believed.mean_budget])
        else:
            quotas = fair_shares(class_sizes(believed.candidates, label), believed.mean_budget, self.quota_power)
        return shared_chances(believed.candidates, label, copies, quotas, rows)

    def drawable(self, context: SelectionContext) -> int:
        """Returns the number of candidates that are not set aside for doubt."""
        return len(self._believed(context).candidates)

    def _copies(self, context: SelectionContext) -> IntArray | None:
        return context.copies if self.share_copies and context.copy is not None else None

    def _believed(self, context: SelectionContext) -> SelectionContext:
        doubt, candidates = context.doubt, context.candidates
        if doubt is None or self.max_doubt == 1:
            return context
        kept: Rows
        if isinstance(candidates, RowSet):
            kept = candidates.without(_above(doubt, self.max_doubt))
        else:
            kept = candidates[doubt[candidates] <= self.max_doubt]
        # The budget stays that of all candidates, as far as enough rows are left.
        return dataclasses.replace(context, candidates=kept, quota=context.budget) if len(kept) else context


class _Inside(Policy):
    """The rotation of `Factors` within a class, by the rules of version 0.1.0."""

    name = "factors"

    def __init__(self, factors: Factors) -> None:
        self.factors = factors

    def select(self, context: SelectionContext) -> Rows:
        """Selects rows of the class, see `Factors.take`: int64[n] or a set."""
        return self.factors.take(context)


def _above(values: FloatArray, most: float) -> Callable[[Chunk], BoolArray]:
    """Returns chunk -> whether values float[N], none below 0, are above a number from 0: bool[stop - start]."""
    if values.dtype != np.float16:
        return lambda chunk: values[chunk.slice] > most
    # Half floats are compared slowly; from 0 on their bits have the same order, and those of -0 are below all.
    bits, edge = values.view(np.int16), np.float16(most + 0.0).view(np.int16)
    return lambda chunk: bits[chunk.slice] > edge


def turns_taken(rows: Rows, usage: IntArray, copies: IntArray, copy: IntArray) -> IntArray:
    """Computes the turns taken before a row's next one: u m + j for member j of m copies that was used u times.

    Args:
        rows: int64[n] or a set, rows to compute them for.
        usage, copies, copy: int[N] each, see `SelectionContext`.

    Returns:
        uint16[N], or uint32[N] for larger numbers; undefined for other rows.
    """
    picked = slice(None) if isinstance(rows, RowSet) else rows
    most = (int(usage[picked].max(initial=0)) + 1) * int(copies[picked].max(initial=1))
    turns: IntArray = np.zeros(len(usage), dtype=np.uint16 if most <= np.iinfo(np.uint16).max else np.uint32)

    def count(part: slice | Int64Array) -> None:
        turns[part] = usage[part].astype(turns.dtype) * copies[part].astype(turns.dtype) + copy[part].astype(
            turns.dtype
        )

    if isinstance(rows, RowSet):
        each_chunk(len(usage), lambda chunk: count(chunk.slice))
    else:
        count(rows)
    return turns
