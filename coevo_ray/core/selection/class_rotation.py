"""Stratified rotation within all classes at once, in few passes over the rows (docs/design.md#rotation).

The rows taken are those of `rotation.take_turns` for each class by itself. Rows are read in their order, a step at a
time, so that none is looked up and nothing is held for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from coevo_ray.core.arrays import BoolArray, Int64Array, IntArray, UInt64Array
from coevo_ray.core.rows.chunks import Chunk, map_ahead
from coevo_ray.core.rows.hashing import hash_from, seed_offset
from coevo_ray.core.rows.row_set import RowSet
from coevo_ray.core.selection.class_strata import ClassStrata, random_offsets
from coevo_ray.core.selection.rotation import Groups, OffsetsOf, stream_seed, window
from coevo_ray.core.selection.smallest_hashes import HashedRows, Quotas, spans_of, steps_of, take_smallest_hashes

# Counters of a histogram of turns, and strata (class, factor) that are looked at in one pass.
_MOST_TURNS = 1 << 18
_MOST_STRATA = 1 << 20


class _Step(NamedTuple):
    """Rows of a step: membership bool[n], label int64[n], turns taken and turns of a visit uint[n] (None for 1)."""

    there: BoolArray
    label: Int64Array
    turns: IntArray
    visit: IntArray | None


class ClassRows:
    """The candidates of a rotation within classes, read a step at a time.

    Args:
        candidates: rows that may be taken, of N; each has a label from 0.
        usage, label: int[N] each, see `SelectionContext`.
        factor: int[N], strata within a class; None for one.
        copies, copy: int[N] each, near-duplicates that share visits; None for none.
    """

    def __init__(
        self,
        candidates: RowSet,
        usage: IntArray,
        label: IntArray,
        *,
        factor: IntArray | None = None,
        copies: IntArray | None = None,
        copy: IntArray | None = None,
    ) -> None:
        self.candidates, self._usage, self.label, self.factor = candidates, usage, label, factor
        self._copies, self._copy = copies, copy
        shared = 1 if copies is None or copy is None else int(copies.max(initial=1))
        self.groups = None if factor is None else Groups(candidates, factor)
        self.width = 1 if self.groups is None else len(self.groups.names)
        most = (int(usage.max(initial=0)) + 1) * shared
        self.turn_bits = most.bit_length()
        # Turns and, above them, those of one visit more.
        self.kind: npt.DTypeLike = next(
            kind for kind in (np.uint8, np.uint16, np.uint32, np.uint64) if 2 * most <= np.iinfo(kind).max
        )

    def read(self, step: Chunk) -> _Step:
        """Reads the rows of a step; arrays are the caller's."""
        there, label = self.candidates.flags(step), self.label[step.slice].astype(np.int64)
        turns = self._usage[step.slice].astype(self.kind)
        if self._copies is None or self._copy is None:
            return _Step(there, label, turns, None)
        visit = self._copies[step.slice].astype(self.kind)
        turns *= visit
        turns += self._copy[step.slice].astype(self.kind)
        return _Step(there, label, turns, visit)


def rotate_classes(rows: ClassRows, quotas: Int64Array, seed: int, *, spread: bool) -> RowSet:
    """Takes the next rows of each class's rotation; see `rotation.take_turns`.

    Args:
        rows: candidates.
        quotas: int64[classes], rows to take of each class, at most its candidates.
        seed: of the phases and the hashes.
        spread: spread each factor's phases across the classes, see `class_strata`; else they are random.
    """
    result = RowSet.empty(rows.candidates.size)
    cycle, left = _cycles(rows, quotas)
    size = max(1, _MOST_STRATA // rows.width)
    parts = [slice(first, first + size) for first in range(0, len(quotas), size)]
    batches = [_Batch(rows, part.start, cycle[part], left[part], seed) for part in parts]
    counts = batches[0].count()
    # All strata are known from the counts of one batch.
    offsets = _offsets(rows, seed, counts if len(batches) == 1 else None) if spread else _random(seed)
    for number, batch in enumerate(batches):
        result.update(batch.take(batch.count() if number else counts, offsets))
    return result


def _random(seed: int) -> Callable[[int], OffsetsOf]:
    return lambda label: partial(random_offsets, label, seed)


def _offsets(rows: ClassRows, seed: int, counts: Int64Array | None) -> Callable[[int], OffsetsOf]:
    """Spreads offsets over strata with rows, which counts int64[classes, factors, 4] of all classes give too."""
    if rows.factor is None or rows.groups is None:
        return _random(seed)
    if counts is None or rows.groups.sparse:
        return ClassStrata.of_rows(rows.candidates, rows.label, rows.factor, seed).of_class
    there: BoolArray = counts.sum(axis=2) > 0
    return ClassStrata(there, int(rows.groups.names[0]), seed).of_class


def _cycles(rows: ClassRows, quotas: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Finds the turn in which each class's quota ends, and the rows to take of it: int64[classes] each.

    Leading bits of the turns are counted first where there are many: members of a large group take as many at once.
    """
    cycle, left, shift = np.zeros(len(quotas), dtype=np.int64), quotas.copy(), rows.turn_bits
    classes = np.arange(len(quotas))
    while shift:
        bits = min(shift, max(1, (_MOST_TURNS // len(quotas)).bit_length() - 1))
        shift -= bits
        counts = _histogram(rows, cycle, shift, bits)
        upto = counts.cumsum(axis=1)
        bucket = (upto < left[:, None]).sum(axis=1)
        left -= upto[classes, bucket] - counts[classes, bucket]
        cycle = (cycle << bits) | bucket
    return cycle, left


def _histogram(rows: ClassRows, prefix: Int64Array, shift: int, bits: int) -> Int64Array:
    """Counts the next bits of the turns whose leading ones are their class's prefix: int64[classes, 2^bits]."""
    first = shift + bits == rows.turn_bits

    def keys(step: Chunk) -> Int64Array:
        there, key, turns, _ = rows.read(step)
        if not first:
            there &= (turns >> (shift + bits)) == prefix.take(key, mode="clip")
        key <<= bits
        key += (turns >> shift) & ((1 << bits) - 1)
        return key[there]

    return _count(rows.candidates.size, keys, len(prefix) << bits).reshape(-1, 1 << bits)


class _Batch:
    """Some classes, from `first` on, whose strata are looked at together.

    Args:
        rows: candidates.
        first: the first class.
        cycle, left: int64[classes], of the batch; see `_cycles`.
        seed: of the hashes.
    """

    def __init__(self, rows: ClassRows, first: int, cycle: Int64Array, left: Int64Array, seed: int) -> None:
        self._rows, self._first, self._cycle, self._left = rows, first, cycle, left
        self._size, self._width = rows.candidates.size, rows.width
        self._turn = cycle.astype(rows.kind)
        self._begin = np.concatenate([seed_offset(stream_seed(seed, int(c) + 1)) for c in cycle])

    def count(self) -> Int64Array:
        """Counts the candidates of each stratum by their progress: int64[classes, factors, 4]."""
        return _count(self._size, self._progress, 4 * self._width * len(self._cycle)).reshape(-1, self._width, 4)

    def take(self, counts: Int64Array, offsets: Callable[[int], OffsetsOf]) -> RowSet:
        """Takes the rows, from the counts of `count` and the offsets of each class's strata."""
        open_ = counts[:, :, _OPEN]
        quotas = np.zeros_like(open_)
        if self._rows.groups is None:
            quotas[:, 0] = self._left
        else:
            names = self._rows.groups.names

            def share(of: int) -> None:
                total, done = counts[of, :, 1:].sum(axis=1), counts[of, :, _DONE]
                phases = offsets(self._first + of)(names, int(self._cycle[of]))
                quotas[of] = window(total, done, open_[of], int(self._left[of]), phases)

            for _ in map_ahead(share, [int(of) for of in np.flatnonzero(self._left)]):
                pass
        # Of a stratum's rows of this cycle those with the smallest hashes are done.
        each = Quotas(*(rows.ravel() for rows in (quotas, open_, counts[:, :, _DONE])))
        return take_smallest_hashes(self._size, self._hashed, self._hash, each)

    def _read(self, step: Chunk) -> tuple[_Step, IntArray]:
        """Reads the rows of a step, with labels from the batch's first, and the turns of their classes' cycles."""
        there, label, turns, visit = self._rows.read(step)
        label -= self._first
        there &= (label >= 0) & (label < len(self._cycle))
        return _Step(there, label, turns, visit), self._turn.take(label, mode="clip")

    def _progress(self, step: Chunk) -> Int64Array:
        """Returns 4 x stratum + progress of each row of a step: int64[n]."""
        (there, label, turns, visit), now = self._read(step)
        # Not in this cycle is a row whose next turn lies beyond it while the one before it did not; see `take_turns`.
        begun = turns < now if visit is None else turns + visit <= now
        done = turns > now if visit is None else turns >= now + visit
        progress = (turns == now).view(np.uint8) * np.uint8(_OPEN)
        progress += begun.view(np.uint8)
        progress += done.view(np.uint8) * np.uint8(_DONE)
        key = self._strata(label, step.slice)
        key *= 4
        key += progress
        return key[there]

    def _hashed(self, step: Chunk) -> HashedRows:
        (there, label, turns, _), now = self._read(step)
        at = np.flatnonzero(there & (turns == now))
        label, ids = label.take(at), at + step.start
        return HashedRows(
            there & (turns < now), at, self._strata(label, ids), hash_from(ids, self._begin.take(label, mode="clip"))
        )

    def _strata(self, label: Int64Array, pick: Int64Array | slice) -> Int64Array:
        """Returns the stratum, within the batch, of rows with labels int64[n]: int64[n]."""
        stratum = label * self._width
        if self._rows.groups is not None:
            stratum += self._rows.groups.of(pick)
        return stratum

    def _hash(self, at: Int64Array, stratum: Int64Array) -> UInt64Array:
        return hash_from(at, self._begin[stratum // self._width])


# Progress of a row in its class's cycle: 0 not in it, 1 its turn is before the cycle's, 2 is it, 3 was it.
_OPEN, _DONE = 2, 3


def _count(size: int, keys: Callable[[Chunk], Int64Array], most: int) -> Int64Array:
    """Counts how often each key below `most` occurs: int64[most]."""

    def count(span: Chunk) -> Int64Array:
        return np.bincount(np.concatenate([keys(step) for step in steps_of(span)]), minlength=most)

    counts = np.zeros(most, dtype=np.int64)
    for part in map_ahead(count, spans_of(size)):
        counts += part
    return counts
