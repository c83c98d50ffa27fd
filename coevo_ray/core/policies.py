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

from coevo_ray.core.rows import Int64Array
from coevo_ray.core.turns import IntArray, equal_quotas, noise, smallest, stream_seed, take_turns
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
        usage: uint16 or uint32[N]: committed epochs that used each row.
        representativeness, diversity: float[N] in [0, 1], or None where the pool was not scored.
        factor: int[N], the strongest factor, -1 without one; or None.
        label: int[N], -1 without one; or None. For class quotas only.

    Raises:
        UsageError: the kept share is out of bounds.
        InputError: there are no candidates.
    """

    epoch: int
    epochs: int
    keep: float
    seed: int
    candidates: Int64Array
    usage: IntArray
    representativeness: FloatArray | None = None
    diversity: FloatArray | None = None
    factor: IntArray | None = None
    label: IntArray | None = None

    def __post_init__(self) -> None:
        check_schedule(self.keep, self.epochs)
        if len(self.candidates) == 0:
            raise InputError("no candidates to select from", "ingest rows, or label some if labels are needed")

    @property
    def budget(self) -> int:
        """Rows of an epoch: keep x n, at least 1."""
        return max(1, round(self.keep * len(self.candidates)))


def check_schedule(keep: float, epochs: int) -> None:
    """Checks a kept share and a number of epochs.

    Raises:
        UsageError: one is out of bounds.
    """
    if not 0 < keep <= 1 or epochs < 1:
        raise UsageError(f"keep {keep}, epochs {epochs}", "need 0 < keep <= 1 and at least 1 epoch")


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
        rows = context.candidates
        return rows[smallest(noise(rows, context.seed, 0), context.budget, rows, context.seed)]


class Random(Policy):
    """Fresh random rows in every epoch."""

    name = "random"

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        rows = context.candidates
        return rows[smallest(noise(rows, context.seed, context.epoch + 1), context.budget, rows, context.seed)]


class Rotation(Policy):
    """Every row once per cycle, in an order shuffled anew for each; usage never differs by more than 1.

    An epoch may end one cycle and begin the next; no row comes twice in it.
    """

    name = "rotation"

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        rows = context.candidates
        return take_turns(rows, context.usage[rows], context.budget, context.seed)


class Scored(Policy):
    """The literal score of DESIGN 5.3: s = (1 - a_t) R + a_t D - lambda u, the top of it.

    a_t rises from 0 to 1 as half a cosine over the epochs; Gumbel noise of temperature tau makes the top a sample
    without replacement.

    With tau = 0 usage stays together. Let b = (1 - a_t) R + a_t D, rho the largest range of b over the candidates in
    any epoch so far (at most 1), and g = ceil(rho / lambda) + 1. Claim: u_i - u_j <= g for all rows i, j, if all began
    with equal usage. The difference grows, by 1, only in an epoch that selects i and not j. Then s_i >= s_j, that is
    lambda (u_i - u_j) <= b_i - b_j <= rho, so before the epoch u_i - u_j <= floor(rho / lambda), and after it
    u_i - u_j <= floor(rho / lambda) + 1 <= g. (The ceiling leaves room for rounding in s.)

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
        alpha = 0.5 * (1.0 - np.cos(np.pi * min(1.0, context.epoch / max(1, context.epochs - 1))))
        rows = context.candidates
        r, d = context.representativeness[rows].astype(np.float64), context.diversity[rows].astype(np.float64)
        s = (1.0 - alpha) * r + alpha * d - self.penalty * context.usage[rows]
        if self.temperature > 0:
            s = s - self.temperature * np.log(-np.log(noise(rows, context.seed, context.epoch + 1)))
        if not np.isfinite(s).all():
            raise InputError("scores are not finite", "score the pool anew: see sae")
        scores: npt.NDArray[np.float64] = s
        return scores

    def select(self, context: SelectionContext) -> Int64Array:
        """See `Policy.select`."""
        rows = context.candidates
        # Equal scores are broken by a hash that changes with the epoch, so that no row is always behind.
        return rows[smallest(-self.score(context), context.budget, rows, stream_seed(context.seed, context.epoch + 1))]


class Factors(Policy):
    """Rotation stratified by factors: each epoch covers every factor in proportion, and every row has its turn.

    Rows of a factor get evenly spaced phases in [0, 1), in an order and from an offset that are random per factor and
    cycle. An epoch takes the next window along the phases, wide enough for the exact budget; of a factor with n rows a
    window of width w holds floor(w n) or ceil(w n). Taking turns is the paper's usage penalty at its limit: usage
    never differs by more than 1 (see `take_turns`). An epoch that ends one cycle and begins the next has a window of
    each; rows of the old one are left out of the new one's. Without factors it is `Rotation`.

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
        labels = context.label[rows]
        if (labels < 0).any():
            raise InputError(
                f"class quotas need labels, {int((labels < 0).sum())} of {len(rows)} candidates have none",
                "set class_balanced: false, or train on labelled rows",
            )
        chosen = []
        for label, quota in equal_quotas(labels, budget, context.epoch).items():
            members = rows[labels == label]
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


def _strata(context: SelectionContext, rows: Int64Array) -> IntArray | None:
    return None if context.factor is None else context.factor[rows]
