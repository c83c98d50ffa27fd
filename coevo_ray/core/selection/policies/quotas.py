"""Class quotas: the number of rows of each class in an epoch, and a policy run within every class."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from coevo_ray.core.arrays import BoolArray, Float32Array, Float64Array, Int64Array, IntArray
from coevo_ray.core.rows.chunks import Chunk, each_chunk, map_ahead, map_chunks
from coevo_ray.core.rows.row_set import Rows, RowSet
from coevo_ray.core.selection.policies.base import KeptShares, Policy, SelectionContext, require
from coevo_ray.errors import InputError, UsageError

# Rows whose row_ids are held at a time, 8 bytes each; a larger class is passed on as a set.
BATCH_ROWS = 1 << 22
# Rounding errors of shares are below it.
_SLACK = 1e-9


class ClassQuotas(Policy):
    """A policy run within every class, each class with a quota of its own (docs/design.md#class-quotas).

    Rows of small classes are used more often; the policy's guarantees on usage hold within a class.

    Args:
        policy: the rule.
        power: quotas are proportional to size ** power: 1 keeps the classes' shares, 0 makes them equal as far as sizes
            allow.

    Raises:
        UsageError: the power is outside [0, 1].
    """

    def __init__(self, policy: Policy, power: float = 0.0) -> None:
        if not 0 <= power <= 1:
            raise UsageError(f"class quotas of power {power}", "need 0 (equal) to 1 (in proportion to size)")
        self.policy, self.power = policy, power
        self.name, self.uses, self.needs = policy.name, policy.uses, policy.needs | {"label"}

    def select(self, context: SelectionContext) -> Rows:
        """Selects within every class: the rows together, a set of int64[n] row_ids.

        Raises:
            InputError: a candidate has no label.
        """
        require(context, self)
        return select_by_class(self.policy, context, self.power, self._budgets(context))

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array | None:
        """Returns the policy's weights, class by class: float32[n] of selected rows int64[n], or None."""
        weights, any_ = np.ones(len(rows), dtype=np.float32), False
        for inside, part in self._members(context, rows):
            mine = self.policy.weights(part, rows[inside])
            if mine is not None:
                weights[inside], any_ = mine, True
        return weights if any_ else None

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns the policy's inclusion probabilities, class by class: float64[n] of rows int64[n]."""
        chances = np.empty(len(rows))
        for inside, part in self._members(context, rows, idle=context.rules > 1):
            chances[inside] = self.policy.inclusion(part, rows[inside])
        return chances

    def drawable(self, context: SelectionContext) -> int:
        """Returns the policy's number of rows that may be drawn, of all classes."""
        parts = class_parts(context, self.power, self._budgets(context), idle=True)
        return sum(self.policy.drawable(part) for _, part in parts)

    def epochs_to_run(self, epochs: int, shares: KeptShares, rows: int | None = None) -> int:
        """Returns the policy's number of epochs."""
        return self.policy.epochs_to_run(epochs, shares, rows)

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the policy's number of rows, which the classes' quotas sum to."""
        if context.rules == 1:
            context = dataclasses.replace(context, quota=context.budget)
        return self.policy.rows_planned(context)

    def _budgets(self, context: SelectionContext) -> list[int]:
        return [context.budget] if context.rules == 1 else budgets_until(self, context)

    def _members(
        self, context: SelectionContext, rows: Int64Array, *, idle: bool = False
    ) -> Iterator[tuple[Int64Array, SelectionContext]]:
        """Yields, for each class, the positions of the selected rows in it and the context that the policy got."""
        require(context, self)
        assert context.label is not None
        labels = context.label[rows]
        order = np.argsort(labels, kind="stable")
        labels = labels[order]
        for label, part in class_parts(context, self.power, self._budgets(context), idle=idle):
            first, end = np.searchsorted(labels, [label, label + 1])
            yield order[first:end], part


def budgets_until(policy: Policy, context: SelectionContext) -> list[int]:
    """Returns the rows that a policy plans for each epoch from the first up to the context's."""
    if context.quota is not None:
        return [policy.rows_planned(context)] * (context.epoch + 1)
    shares, epochs = context.schedule, context.epochs
    return [
        policy.rows_planned(dataclasses.replace(context, epoch=epoch, keep=shares.at(epoch, epochs)))
        for epoch in range(context.epoch)
    ] + [policy.rows_planned(context)]


def select_by_class(
    policy: Policy, context: SelectionContext, power: float, budgets: list[int], *, in_threads: bool = False
) -> RowSet:
    """Runs a policy within every class, each with its quota; see `class_quotas`.

    Args:
        policy: the rule.
        context: context of all classes; `label` int[N] is set.
        power: see `class_quotas`.
        budgets: rows of each epoch up to the context's; of that one alone under the rules of version 0.1.0.
        in_threads: select within several classes at once, for rules without state.

    Returns:
        The selected rows of all classes.

    Raises:
        InputError: a candidate has no label.
    """
    result = RowSet.empty(len(context.usage))
    parts = (part for _, part in class_parts(context, power, budgets))
    for rows in map_ahead(policy.select, parts) if in_threads else map(policy.select, parts):
        if isinstance(rows, RowSet):
            result.update(rows)
        else:
            result.add(rows)
    return result


def class_parts(
    context: SelectionContext, power: float, budgets: list[int], *, idle: bool = False
) -> Iterator[tuple[int, SelectionContext]]:
    """Yields the classes with a quota, in order, and the context of each; see `class_quotas`.

    A class's context has its rows, int64[n] or a set, as candidates and its quota. Classes without a quota in this
    epoch are among them if `idle` is set.

    Raises:
        InputError: a candidate has no label.
    """
    assert context.label is not None
    sizes = class_sizes(context.candidates, context.label)
    if context.rules == 1:
        shares, quotas = None, quotas_of(sizes, budgets[-1], power, context.epoch)
    else:
        shares = fair_shares(sizes, budgets[-1] if context.expected is None else context.mean_budget, power)
        quotas = quotas_in_turn(sizes, budgets, power)
    for batch in _batches(sizes):
        for label, rows in _members(context.candidates, context.label, batch, sizes):
            if label in quotas or idle:
                mean = None if shares is None else float(shares[label])
                yield (
                    label,
                    dataclasses.replace(
                        context, candidates=rows, quota=quotas.get(label, 0), expected=mean, part=label
                    ),
                )


def class_sizes(candidates: Rows, labels: IntArray) -> Int64Array:
    """Counts the candidates of each class: int64[classes], from labels int[N].

    Raises:
        InputError: a candidate has no label.
    """
    counts = np.zeros(int(labels.max(initial=0)) + 2, dtype=np.int64)

    def count(chunk: Chunk) -> Int64Array:
        of = (
            labels[chunk.slice][candidates.flags(chunk)]
            if isinstance(candidates, RowSet)
            else labels[candidates[chunk.slice]]
        )
        return np.bincount(of.astype(np.int64) + 1, minlength=len(counts))

    for part in map_chunks(_positions(candidates), count):
        counts += part
    if counts[0]:
        raise InputError(
            f"class quotas need labels, {counts[0]} of {counts.sum()} candidates have none",
            "train on labelled rows, or leave class quotas out",
        )
    return counts[1:]


def _batches(sizes: Int64Array) -> Iterator[range]:
    """Yields ranges of classes with at most `BATCH_ROWS` rows together, or a single larger class."""
    first, rows = 0, 0
    for label, size in enumerate(sizes.tolist()):
        if rows and rows + size > BATCH_ROWS:
            yield range(first, label)
            first, rows = label, 0
        rows += size
    yield range(first, len(sizes))


def _members(candidates: Rows, labels: IntArray, batch: range, sizes: Int64Array) -> Iterator[tuple[int, Rows]]:
    """Yields the candidates of each class of a batch, found in one pass."""

    def inside(chunk: Chunk) -> BoolArray:
        of = labels[chunk.slice] if isinstance(candidates, RowSet) else labels[candidates[chunk.slice]]
        here: BoolArray = (of >= batch.start) & (of < batch.stop)
        return here & candidates.flags(chunk) if isinstance(candidates, RowSet) else here

    def mark(chunk: Chunk) -> None:
        large.bits[chunk.start // 8 : -(-chunk.stop // 8)] = np.packbits(inside(chunk))

    def find(chunk: Chunk) -> tuple[Int64Array, Int64Array]:
        """Rows of a chunk by class, and where each class begins and the last one ends."""
        ids = np.flatnonzero(inside(chunk)) + chunk.start
        ids = ids if isinstance(candidates, RowSet) else candidates[ids]
        of = labels[ids]
        order = np.argsort(of, kind="stable")
        return ids[order], np.searchsorted(of[order], np.arange(batch.start, batch.stop + 1))

    if len(batch) == 1 and sizes[batch.start] > BATCH_ROWS and isinstance(candidates, RowSet):
        large = RowSet.empty(candidates.size)
        each_chunk(candidates.size, mark)
        yield batch.start, large
        return
    found = list(map_chunks(_positions(candidates), find))
    for place, label in enumerate(batch):
        if sizes[label]:
            yield label, np.concatenate([ids[ends[place] : ends[place + 1]] for ids, ends in found])


def _positions(candidates: Rows) -> int:
    return candidates.size if isinstance(candidates, RowSet) else len(candidates)


def class_quotas(labels: IntArray, budget: int, power: float = 0.0, epoch: int = 0) -> dict[int, int]:
    """Divides a budget of rows among classes, in proportion to size ** power as far as the sizes allow.

    See docs/design.md#class-quotas.

    Args:
        labels: int[n], 0 or above.
        budget: number of rows of this and each earlier epoch, at most n.
        power: in [0, 1].
        epoch: from 0; what rounding gives and takes is made up for over the epochs, so that small classes take turns.

    Returns:
        Class -> number of rows, for classes with at least one; the numbers sum to the budget.

    Examples:
        >>> class_quotas(np.array([0] * 90 + [1] * 10), budget=40, power=0.0)
        {0: 30, 1: 10}
        >>> class_quotas(np.array([0] * 90 + [1] * 10), budget=40, power=1.0)
        {0: 36, 1: 4}
    """
    return quotas_in_turn(np.bincount(labels), [budget] * (epoch + 1), power)


def quotas_in_turn(sizes: Int64Array, budgets: list[int], power: float = 0.0) -> dict[int, int]:
    """Computes the last epoch's class quotas: its fair shares rounded down, or up where most is owed.

    A class is owed the fair shares of all epochs so far less the rows it got, so that its rows over many epochs are
    those shares' sum to within a few.

    Args:
        sizes: int64[classes].
        budgets: rows of each epoch, the last one last.
        power: in [0, 1].

    Returns:
        Class -> number of rows, for classes with at least one.
    """
    owed, known = np.zeros(len(sizes)), {}
    for budget in budgets:
        if budget not in known:
            shares = fair_shares(sizes, budget, power)
            known[budget] = shares, np.minimum(np.floor(shares + _SLACK).astype(np.int64), sizes)
        shares, quotas = known[budget]
        owed += shares - quotas
        rest = budget - int(quotas.sum())
        room = np.flatnonzero(shares > quotas + _SLACK)
        # Rounded, so that equal fractions stay equal: the first class wins.
        up = room[np.argsort(-np.round(owed[room], 6), kind="stable")[:rest]]
        owed[up] -= 1
    quotas = quotas.copy()
    quotas[up] += 1
    return {int(c): int(quotas[c]) for c in np.flatnonzero(quotas)}


def quotas_of(sizes: Int64Array, budget: int, power: float = 0.0, epoch: int = 0) -> dict[int, int]:
    """Computes class quotas by the rules of version 0.1.0 from the classes' sizes, int64[classes].

    Rows left over by rounding go, one each, to all classes with rows to spare, in turn over the epochs.
    """
    classes = np.flatnonzero(sizes)
    sizes = sizes[classes]
    floored = np.minimum(np.floor(fair_shares(sizes, budget, power) + _SLACK).astype(np.int64), sizes)
    while rest := budget - int(floored.sum()):
        room = np.flatnonzero(sizes > floored)
        floored[room[(epoch * rest + np.arange(min(rest, len(room)))) % len(room)]] += 1
    return {int(c): int(q) for c, q in zip(classes, floored, strict=True) if q > 0}


def fair_shares(sizes: Int64Array, budget: float, power: float) -> Float64Array:
    """Divides a budget among classes: min(size, level x size ** power) with a common level, float64[classes].

    Args:
        sizes: int64[classes]; an empty class gets nothing.
        budget: at most the sum of the sizes.
        power: in [0, 1].
    """
    shares = np.where(sizes > 0, sizes.astype(np.float64) ** power, 0.0)
    # `full_at` is the level at which a class is exhausted; classes are exhausted in that order.
    full_at = np.divide(sizes, shares, out=np.zeros(len(sizes)), where=shares > 0)
    quotas, left = np.zeros(len(sizes)), float(budget)
    open_ = shares > 0
    for c in np.argsort(full_at, kind="stable"):
        if not open_[c]:
            continue
        level = left / shares[open_].sum()
        if level < full_at[c]:
            break
        quotas[c], open_[c] = sizes[c], False
        left -= sizes[c]
    if open_.any():
        quotas[open_] = left / shares[open_].sum() * shares[open_]
    return quotas
