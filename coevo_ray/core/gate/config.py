"""Settings and requests of the annotation gate (DESIGN 5.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.errors import UsageError

Rule = Literal["margin", "compat"]
Voting = Literal["distributions", "classes", "none"]
MAX_CLASSES = 65_536  # classes are kept as uint16


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Settings of the annotation gate.

    Attributes:
        classes: number of classes C, 2 to 65 536.
        round_size: labels asked for in a round, at most.
        rule: `margin` (ours: the margin of the fused class distribution, from the top, near rows apart) or `compat`
            (as published: 1 - fused confidence, drawn in proportion, near rows rechecked after answers).
        neighbours: nearest neighbours that vote.
        min_similarity: neighbours less similar do not vote; compat, and `classes`.
        recheck_neighbours: nearest neighbours that are looked at after an answer; compat.
        recheck_similarity: of those, only the more similar ones.
        vote: margin: what neighbours add to the gain: `none`; `distributions`, their whole class distributions;
            `classes`, their surest class as in the published vote. What the gate believes of a row is always fused from
            the model's and the neighbours' distributions.
        vote_weight: margin: the neighbours' share in the fused distribution.
        typical: margin: until this share of the candidates has a label, the rows are those typical of the groups with
            the fewest labels (`groups.NeighbourGroups`), among the quarter of the largest gain; 0 never. Nor where the
            random first labels tell that classes are skewed, or rows are drawn by a power.
        apart: margin: of a batch, no two rows are among each other's 8 nearest and more similar than this; 1 for no
            limit.
        copies: margin: whether a near-duplicate (`neighbours.near_duplicates`) of a labelled row is worth no label.
        balance: margin: gains are multiplied by (mean labels of a class / labels of the predicted class) ** balance;
            0 leaves them.
        power: margin: rows are drawn in proportion to gain ** power; None takes them from the top.
        last_power: the power once all candidates are labelled, linear in their share; None for as `power`.
        distance_weight: what the distance to the nearest labelled or sure row adds to the gain, times this.
        seed: seed of the random first rows and of every draw.
        relative_gain: stop when the mean gain of the unlabelled rows falls below this share of the first; 0 never.
        loss_tolerance: stop when all further labels together would take less than this off the cross-entropy measured
            on random labels, in nats, see `gate_stop.loss_left`; 0 never, but where the loss rises.
        loss_rounds: over how many of the latest rounds that is looked at, at least.
        max_labels: never ask for more labels; None for no limit.
        max_rounds: never ask more often, the random first round included; None for no limit.

    Raises:
        UsageError: a value is out of bounds.
    """

    classes: int
    round_size: int
    rule: Rule = "margin"
    neighbours: int = 16
    min_similarity: float = 0.85
    recheck_neighbours: int = 8
    recheck_similarity: float = 0.9
    vote: Voting = "none"
    vote_weight: float = 0.5
    typical: float = 0.15
    apart: float = 0.65
    copies: bool = True
    balance: float = 0.0
    power: float | None = None
    last_power: float | None = None
    distance_weight: float = 0.0
    seed: int = 0
    relative_gain: float = 0.05
    loss_tolerance: float = 0.04
    loss_rounds: int = 4
    max_labels: int | None = None
    max_rounds: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in ("margin", "compat"):
            raise UsageError(f"gate rule {self.rule!r}", "use margin or compat")
        if self.vote not in ("distributions", "classes", "none"):
            raise UsageError(f"gate vote {self.vote!r}", "use distributions, classes or none")
        if self.last_power is not None and self.power is None:
            raise UsageError("gate.last_power without gate.power", "give both, or neither")
        self._check("classes", 2, MAX_CLASSES)
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("round_size", "neighbours", "recheck_neighbours", "loss_rounds"):
            self._check(name, 1, math.inf)
        for name in (
            "min_similarity",
            "recheck_similarity",
            "relative_gain",
            "vote_weight",
            "typical",
            "apart",
        ):
            self._check(name, 0, 1)
        for name in ("balance", "distance_weight", "loss_tolerance"):
            self._check(name, 0, math.inf)
        for name in ("power", "last_power"):
            if getattr(self, name) is not None:
                self._check(name, 0, math.inf)
        self._check("seed", 0, math.inf)
        for name in ("max_labels", "max_rounds"):
            if getattr(self, name) is not None:
                self._check(name, 1, math.inf)

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise UsageError(f"gate.{name} is {value}", f"give a value from {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class OfferConfig:
    """How arriving rows are decided.

    Attributes:
        sure: probability of the class, as model and neighbours have it together, from which it is a pseudo-label.
        same: a row that is more similar than this to one that is labelled or requested is not asked about.

    Raises:
        UsageError: a value is out of bounds.
    """

    sure: float = 0.95
    same: float = 0.95

    def __post_init__(self) -> None:
        for name in ("sure", "same"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"offer.{name} is {getattr(self, name)}", "give a value from 0 to 1")


@dataclass(frozen=True, eq=False)
class Requests:
    """Rows that need a label now.

    Attributes:
        round: number of the round, from 0.
        positions: int64[n], positions in the graph, in the order of the draw.
        gains: float32[n], expected gain of each; 0 for random first rows.
    """

    round: int
    positions: Int64Array
    gains: Float32Array
