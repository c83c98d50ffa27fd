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
        return select_by_class(self.policy, context, self.power)

    def weights(self, context: SelectionContext, rows: Int64Array) -> Float32Array | None:
        """Returns the policy's weights, class by class: float32[n] of selected rows int64[n], or None."""
        weights, any_ = np.ones(len(rows), dtype=np.float32), False
        for inside, part in self._members(context, rows):
            mine = self.policy.weights(part, rows[inside])
            if mine is not None:
                weights[inside], any_ = mine, True
        return weights if any_ else None

    def inclusion(self, context: SelectionContext, rows: Int64Array) -> Float64Array:
        """Returns the policy's inclusion probabilities, class by class: float64[n] of selected rows int64[n]."""
        chances = np.empty(len(rows))
        for inside, part in self._members(context, rows):
            chances[inside] = self.policy.inclusion(part, rows[inside])
        return chances

    def epochs_to_run(self, epochs: int, shares: KeptShares) -> int:
        """Returns the policy's number of epochs."""
        return self.policy.epochs_to_run(epochs, shares)

    def rows_planned(self, context: SelectionContext) -> int:
        """Returns the policy's number of rows for the sum of the classes' quotas."""
        return self.policy.rows_planned(dataclasses.replace(context, quota=context.budget))

    def _parts(self, context: SelectionContext) -> Iterator[tuple[int, SelectionContext]]:
        require(context, self)
        return class_parts(context, self.power)

    def _members(self, context: SelectionContext, rows: Int64Array) -> Iterator[tuple[BoolArray, SelectionContext]]:
        """Yields, for each class, a mask of the selected rows in it and the context that the policy got."""
        assert context.label is not None
        labels = context.label[rows]
        for label, part in self._parts(context):
            yield labels == label, part


def select_by_class(policy: Policy, context: SelectionContext, power: float, *, in_threads: bool = False) -> RowSet:
    """Runs a policy within every class, each with its quota; see `class_quotas`.

    Args:
        policy: the rule.
        context: context of all classes; `label` int[N] is set.
        power: see `class_quotas`.
        in_threads: select within several classes at once, for rules without state.

    Returns:
        The selected rows of all classes.

    Raises:
        InputError: a candidate has no label.
    """
    result = RowSet.empty(len(context.usage))
    parts = (part for _, part in class_parts(context, power))
    for rows in map_ahead(policy.select, parts) if in_threads else map(policy.select, parts):
        if isinstance(rows, RowSet):
            result.update(rows)
        else:
            result.add(rows)
    return result


def class_parts(context: SelectionContext, power: float) -> Iterator[tuple[int, SelectionContext]]:
    """Yields the classes with a quota, in order, and the context of each; see `class_quotas`.

    A class's context has its rows, int64[n] or a set, as candidates and its quota.

    Raises:
        InputError: a candidate has no label.
    """
    assert context.label is not None
    sizes = _class_sizes(context.candidates, context.label)
    quotas = quotas_of(sizes, context.budget, power, context.epoch)
    for batch in _batches(sizes):
        for label, rows in _members(context.candidates, context.label, batch, sizes):
            if label in quotas:
                yield label, dataclasses.replace(context, candidates=rows, quota=quotas[label])


def _class_sizes(candidates: Rows, labels: IntArray) -> Int64Array:
    """Counts the candidates of each class: int64[classes]."""
    counts = np.zeros(int(labels.max(initial=0)) + 2, dtype=np.int64)

    def count(chunk: Chunk) -> Int64Array:
        return np.bincount(_labels_of(candidates, labels, chunk)[1].astype(np.int64) + 1, minlength=len(counts))

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

    def find(chunk: Chunk) -> tuple[Int64Array, IntArray]:
        ids, of = _labels_of(candidates, labels, chunk)
        inside = (of >= batch.start) & (of < batch.stop)
        return ids[inside], of[inside]

    def mark(chunk: Chunk) -> None:
        flags = np.zeros(chunk.stop - chunk.start, dtype=bool)
        flags[find(chunk)[0] - chunk.start] = True
        large.bits[chunk.start // 8 : -(-chunk.stop // 8)] = np.packbits(flags)

    if len(batch) == 1 and sizes[batch.start] > BATCH_ROWS and isinstance(candidates, RowSet):
        large = RowSet.empty(candidates.size)
        each_chunk(candidates.size, mark)
        yield batch.start, large
        return
    ids, of = (np.concatenate(part) for part in zip(*map_chunks(_positions(candidates), find), strict=True))
    ids = ids[np.argsort(of, kind="stable")]
    ends = np.cumsum(sizes[batch.start : batch.stop])
    for label, end in zip(batch, ends.tolist(), strict=True):
        if sizes[label]:
            yield label, ids[end - int(sizes[label]) : end]


def _positions(candidates: Rows) -> int:
    return candidates.size if isinstance(candidates, RowSet) else len(candidates)


def _labels_of(candidates: Rows, labels: IntArray, chunk: Chunk) -> tuple[Int64Array, IntArray]:
    ids = candidates.ids(chunk) if isinstance(candidates, RowSet) else candidates[chunk.slice]
    return ids, labels[ids]


def class_quotas(labels: IntArray, budget: int, power: float = 0.0, epoch: int = 0) -> dict[int, int]:
    """Divides a budget of rows among classes, in proportion to size ** power as far as the sizes allow.

    See docs/design.md#class-quotas.

    Args:
        labels: int[n], 0 or above.
        budget: number of rows, at most n.
        power: in [0, 1].
        epoch: from 0; classes that a small budget leaves out take turns over the epochs.

    Returns:
        Class -> number of rows, for classes with at least one; the numbers sum to the budget.

    Examples:
        >>> class_quotas(np.array([0] * 90 + [1] * 10), budget=40, power=0.0)
        {0: 30, 1: 10}
        >>> class_quotas(np.array([0] * 90 + [1] * 10), budget=40, power=1.0)
        {0: 36, 1: 4}
    """
    return quotas_of(np.bincount(labels), budget, power, epoch)


def quotas_of(sizes: Int64Array, budget: int, power: float = 0.0, epoch: int = 0) -> dict[int, int]:
    """Computes `class_quotas` from the classes' sizes, int64[classes].

    Each class gets min(its size, level x size ** power) with a common level. Rows left over by rounding go, one each,
    to classes with rows to spare, in turn over the epochs, so that no class is left out if there are more classes than
    rows.
    """
    classes = np.flatnonzero(sizes)
    sizes = sizes[classes]
    shares = sizes.astype(np.float64) ** power
    # `full_at` is the level at which a class is exhausted; classes are exhausted in that order.
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
    floored = np.minimum(np.floor(quotas + 1e-9).astype(np.int64), sizes)
    while rest := budget - int(floored.sum()):
        room = np.flatnonzero(sizes > floored)
        floored[room[(epoch * rest + np.arange(min(rest, len(room)))) % len(room)]] += 1
    return {int(c): int(q) for c, q in zip(classes, floored, strict=True) if q > 0}
