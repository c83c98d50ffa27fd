"""Policies: rules that draw an epoch's subset (DESIGN section 5.3; arXiv 2603.04981).

A policy is a function of a `SelectionContext` alone: the same context always gives the same rows. To add one, subclass
`Policy`, give it a `name` and a `select`, and put it into `POLICIES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from coevo_ray.core.rows import Int64Array, hash_rows
from coevo_ray.errors import InputError, UsageError

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SelectionContext:
    """What a policy may look at. Arrays of N have one value for every row of the pool.

    Attributes:
        epoch, epochs: the epoch from 0, and how many the full schedule has.
        keep: kept share in (0, 1].
        seed: seed of the run.
        candidates: int64[n], increasing: rows that may be selected.
        usage: uint16[N]: committed epochs that used each row.
        representativeness, diversity: float[N] in [0, 1], or None where the pool was not scored.
        factor: int32[N], the strongest factor, -1 without one; or None.
        label: int64[N], -1 without one; or None. For class quotas only.
    """

    epoch: int
    epochs: int
    keep: float
    seed: int
    candidates: Int64Array
    usage: npt.NDArray[np.uint16]
    representativeness: FloatArray | None = None
    diversity: FloatArray | None = None
    factor: npt.NDArray[np.int32] | None = None
    label: Int64Array | None = None

    @property
    def budget(self) -> int:
        """Rows of an epoch: keep x n, at least 1."""
        return max(1, round(self.keep * len(self.candidates)))


class Policy(ABC):
    """Draws subsets."""

    name: ClassVar[str]
    needs_scores: ClassVar[bool] = False

    @abstractmethod
    def select(self, context: SelectionContext) -> Int64Array:
        """Row_ids of the epoch, int64, increasing and distinct, out of `context.candidates`."""

    def epochs_to_run(self, epochs: int, keep: float) -> int:
        """How many epochs a trainer runs; all but `full_budget` run the full schedule's."""
        return epochs


class Full(Policy):
    """All rows in every epoch."""

    name = "full"

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        return context.candidates


class FullBudget(Full):
    """All rows, for kept share x epochs: as many visits as the others, the baseline that decides."""

    name = "full_budget"

    def epochs_to_run(self, epochs: int, keep: float) -> int:
        """Rounded, at least 1."""
        return max(1, round(keep * epochs))


class StaticRandom(Policy):
    """The same random rows in every epoch."""

    name = "static_random"

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        return _smallest(context.candidates, _noise(context.candidates, context.seed, 0), context.budget)


class Random(Policy):
    """Fresh random rows in every epoch."""

    name = "random"

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        return _smallest(
            context.candidates, _noise(context.candidates, context.seed, context.epoch + 1), context.budget
        )


class Rotation(Policy):
    """Every row once per cycle, in an order shuffled anew for each; usage never differs by more than 1."""

    name = "rotation"

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        rows = context.candidates
        return take_turns(rows, context.usage[rows], context.budget, context.seed)


class Scored(Policy):
    """The literal score of DESIGN 5.3: s = (1 - a_t) R + a_t D - lambda u, the top of it.

    a_t rises from 0 to 1 as half a cosine over the epochs; Gumbel noise of temperature tau makes the top a sample
    without replacement.

    With tau = 0 usage stays together: let g = ceil(range(s) / lambda) + 1, where range(s) <= 1 is that of the score
    without the penalty. Claim: max u - min u <= g always. Suppose an epoch lifts some row i from u_i to u_i + 1 with
    u_i + 1 - u_j > g for a row j. Then u_i - u_j >= g >= range(s) / lambda + 1, so the penalty separates them by more
    than range(s), and j scores above i; j is then selected whenever i is, and rises with it, so that their distance
    stays u_i - u_j <= g. The distance grows only while i is selected and j is not, which needs u_i - u_j <=
    range(s) / lambda before and thus at most ceil(range(s) / lambda) + 1 = g afterwards.

    Args:
        penalty: lambda > 0, loss of score per use.
        temperature: tau >= 0.
    """

    name = "scored"
    needs_scores = True

    def __init__(self, penalty: float = 0.5, temperature: float = 0.05) -> None:
        if penalty <= 0 or temperature < 0:
            raise UsageError(
                f"scored: penalty {penalty}, temperature {temperature}", "need penalty > 0, temperature >= 0"
            )
        self.penalty, self.temperature = penalty, temperature

    def score(self, context: SelectionContext) -> npt.NDArray[np.float64]:
        """Score of every candidate, float64[n], noise included."""
        if context.representativeness is None or context.diversity is None:
            raise InputError("policy scored needs scores and the pool has none", "run sae first, or take rotation")
        alpha = 0.5 * (1.0 - np.cos(np.pi * context.epoch / max(1, context.epochs - 1)))
        rows = context.candidates
        r, d = context.representativeness[rows].astype(np.float64), context.diversity[rows].astype(np.float64)
        s = (1.0 - alpha) * r + alpha * d - self.penalty * context.usage[rows]
        if self.temperature > 0:
            s = s - self.temperature * np.log(-np.log(_noise(rows, context.seed, context.epoch + 1)))
        scores: npt.NDArray[np.float64] = s
        return scores

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        return _smallest(context.candidates, -self.score(context), context.budget)


class Factors(Policy):
    """Rotation stratified by factors: each epoch covers every factor in proportion, and every row has its turn.

    Rows of a factor get evenly spaced phases in [0, 1), in an order and from an offset that are random per factor and
    cycle; in the sequence of all rows by phase any window holds each factor in proportion to its frequency, within one
    row a factor. Taking turns along it is the usage penalty of the paper at its limit: usage never differs by more
    than 1. Without factors it is `Rotation`.

    Args:
        class_balanced: equal quotas for all classes instead of proportional ones; rotation then runs inside each class,
            small classes are used more often, and usage differs by at most 1 within a class.
    """

    name = "factors"

    def __init__(self, class_balanced: bool = False) -> None:
        self.class_balanced = class_balanced

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        rows, budget = context.candidates, context.budget
        if not self.class_balanced:
            return take_turns(rows, context.usage[rows], budget, context.seed, _strata(context, rows))
        if context.label is None:
            raise InputError("class quotas need labels", "set class_balanced: false, or train on labelled rows")
        chosen = []
        for label, quota in equal_quotas(context.label[rows], budget).items():
            members = rows[context.label[rows] == label]
            usage, strata = context.usage[members], _strata(context, members)
            chosen.append(take_turns(members, usage, quota, context.seed, strata))
        return np.sort(np.concatenate(chosen))


POLICIES: dict[str, Callable[..., Policy]] = {
    policy.name: policy for policy in (Full, FullBudget, StaticRandom, Random, Rotation, Scored, Factors)
}


def make_policy(name: str, **options: Any) -> Policy:
    """A policy by name.

    Raises:
        UsageError: the name is unknown, or an option is.
    """
    if name not in POLICIES:
        raise UsageError(f"unknown policy {name!r}", f"known ones are {', '.join(POLICIES)}")
    try:
        return POLICIES[name](**options)
    except TypeError as error:
        raise UsageError(f"policy {name}: {error}", "leave that option out") from error


def take_turns(
    rows: Int64Array,
    usage: npt.NDArray[np.uint16],
    count: int,
    seed: int,
    strata: npt.NDArray[np.int32] | None = None,
) -> Int64Array:
    """The `count` rows whose turn it is: least used first, among equals by the phase of that cycle.

    Usage never differs by more than 1 if it did not before: while rows used c times are left they are taken before any
    row used c + 1 times, and no row is taken twice at once, so {c, c + 1} becomes {c, c + 1} or {c + 1, c + 2}.

    Args:
        rows: int64[n], increasing.
        usage: uint16[n] of these rows.
        count: at most n.
        seed: seed of the phases.
        strata: int32[n]; rows of a stratum are spread evenly over a cycle.

    Returns:
        int64[count], increasing and distinct.
    """
    keys = np.empty(len(rows))
    for cycle in np.unique(usage):
        now = usage == cycle
        keys[now] = cycle + stratified_phases(rows, seed, int(cycle), strata)[now]
    return _smallest(rows, keys, count)


def stratified_phases(
    rows: Int64Array, seed: int, cycle: int, strata: npt.NDArray[np.int32] | None
) -> npt.NDArray[np.float64]:
    """A phase in [0, 1) for each row: evenly spaced within its stratum, from a random offset."""
    noise = _noise(rows, seed, cycle + 1)
    if strata is None:
        return noise
    order = np.lexsort((noise, strata))
    _, start, size = np.unique(strata[order], return_index=True, return_counts=True)
    rank = np.arange(len(rows)) - np.repeat(start, size)
    # The offset of a stratum is the noise of its first row in this cycle: random, and the same for any sharding.
    offset = np.repeat(noise[order][start], size)
    phases = np.empty(len(rows))
    phases[order] = (rank + offset) / np.repeat(size, size)
    return phases


def equal_quotas(labels: Int64Array, budget: int) -> dict[int, int]:
    """Rows of each class, as equal as their sizes allow; they sum to the budget.

    Args:
        labels: int64[n].
        budget: at most n.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    quotas = np.zeros(len(classes), dtype=np.int64)
    left = budget
    while left > 0:
        open_ = np.flatnonzero(quotas < sizes)
        share = max(1, left // len(open_))
        for i in open_:
            give = min(share, int(sizes[i] - quotas[i]), left)
            quotas[i] += give
            left -= give
    return {int(c): int(q) for c, q in zip(classes, quotas, strict=True) if q > 0}


def _strata(context: SelectionContext, rows: Int64Array) -> npt.NDArray[np.int32] | None:
    return None if context.factor is None else context.factor[rows]


def _noise(rows: Int64Array, seed: int, stream: int) -> npt.NDArray[np.float64]:
    """Uniform in (0, 1), a function of (row, seed, stream)."""
    bits = hash_rows(rows, seed * 1_000_003 + stream)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def _smallest(rows: Int64Array, keys: npt.NDArray[np.float64], count: int) -> Int64Array:
    """The rows with the smallest keys, increasing; linear in their number."""
    if count >= len(rows):
        return rows
    return np.sort(rows[np.argpartition(keys, count - 1)[:count]])
