"""Settings and requests of the annotation gate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from coevo_ray.core.arrays import Float32Array, Int64Array
from coevo_ray.errors import UsageError

Rule = Literal["margin", "compat"]
Voting = Literal["none", "distributions", "classes"]
Draw = Literal["herding", "top"]
_VALIDATION_SHARE, _TOLERANCE = 0.1, 0.01
MAX_CLASSES = 65_536  # classes are kept as uint16


def about(description: str, **bounds: float) -> dict[str, Any]:
    """Metadata of a settings field.

    Args:
        description: a sentence for people.
        bounds: `ge` and `le`, the least and the largest value.
    """
    return {"description": description, **bounds}


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """Settings of the gate's rule that do not depend on the pool.

    The settings of the command `gate` are made from these fields: a setting is written here and nowhere else.

    Raises:
        UsageError: a value is out of bounds.
    """

    # margin: gain is 1 - the margin of the class distribution; rows cover it at first, then are taken from the top.
    # compat: gain is 1 - the fused confidence, rows are drawn in proportion, near rows are rechecked after answers.
    rule: Rule = field(
        default="margin", metadata=about("Gain and draw: margin (ours) or compat (as published, arXiv 2506.08070).")
    )
    neighbours: int = field(default=16, metadata=about("Nearest neighbours of a row that vote.", ge=1))
    # See `herding.draw_herding`.
    draw: Draw | None = field(
        default=None,
        metadata=about(
            "margin: the first rows after the random ones: herding, those that cover the most gain, their "
            "neighbours' too; or top, as in version 0.1.0, those of high gain that are typical of groups. null: "
            "herding."
        ),
    )
    # Typical rows are those of `groups.NeighbourGroups`, among the quarter of the largest gain.
    typical: float = field(
        default=0.15,
        metadata=about(
            "margin: until this share of the rows has labels, ask for rows that represent others, as draw says, then "
            "for those of the largest gain; 0 never. Skipped if the first labels show skewed classes, or with power.",
            ge=0,
            le=1,
        ),
    )
    apart: float = field(
        default=0.65,
        metadata=about(
            "margin: no two rows of a batch from the top are among each other's 8 nearest and more similar than this; "
            "1 for no limit.",
            ge=0,
            le=1,
        ),
    )
    copies: bool = field(default=True, metadata=about("margin: a near-duplicate of a labelled row is worth no label."))
    # See `core.graph.copies`.
    copy_similarity: float | None = field(
        default=None,
        metadata=about(
            "Similarity of near-duplicates; null: the pool's own measure, or 0.7 with a margin.", ge=0, le=1
        ),
    )
    copy_margin: float | None = field(
        default=None,
        metadata=about(
            "Excess of that over the similarity to the last neighbour; null: the pool's own, or 0.2 with a similarity.",
            ge=0,
            le=2,
        ),
    )
    vote: Voting = field(
        default="none",
        metadata=about(
            "margin: what neighbours add to the gain: nothing, their class distributions, or their surest "
            "classes as in the published vote."
        ),
    )
    vote_weight: float = field(
        default=0.5, metadata=about("margin: the neighbours' share in the fused class distribution.", ge=0, le=1)
    )
    balance: float = field(
        default=0.0,
        metadata=about(
            "margin: gains are multiplied by (mean labels of a class / labels of the predicted class) ** "
            "balance; 0 leaves them.",
            ge=0,
        ),
    )
    power: float | None = field(
        default=None,
        metadata=about(
            "margin: draw rows in proportion to gain ** power, instead of by draw and from the top; null: by these.",
            ge=0,
        ),
    )
    last_power: float | None = field(
        default=None,
        metadata=about("The power once all rows have labels, linear in their share; null: as power.", ge=0),
    )
    distance_weight: float = field(
        default=0.0,
        metadata=about("margin: weight of the distance to the nearest labelled or sure row in the gain.", ge=0),
    )
    min_similarity: float = field(
        default=0.85,
        metadata=about("Neighbours less similar do not vote, in compat and with vote: classes.", ge=0, le=1),
    )
    recheck_neighbours: int = field(
        default=8, metadata=about("compat: nearest neighbours updated after an answer.", ge=1)
    )
    recheck_similarity: float = field(
        default=0.9, metadata=about("compat: of those, only the more similar ones.", ge=0, le=1)
    )
    # See `GateState.reserved` and `forecast`.
    validation_share: float | None = field(
        default=None,
        metadata=about(
            "margin: share of each round's labels for random rows which the gate's model never learns from: they "
            "measure its accuracy and what further labels will add; 0 for none. null: 0.1, and 0 with compat.",
            ge=0,
            le=0.5,
        ),
    )
    tolerance: float | None = field(
        default=None,
        metadata=about(
            "Stop when the forecast of what all further labels add to the accuracy is below this; 0 never; null: "
            "0.01, a point. Without validation rows there is no forecast, and loss_tolerance decides.",
            ge=0,
            le=1,
        ),
    )
    cost_per_label: float | None = field(
        default=None,
        metadata=about(
            "Price of a label, in any currency: with worth_per_point, stop when the forecast says that the next "
            "round would cost more than it brings.",
            ge=0,
        ),
    )
    worth_per_point: float | None = field(
        default=None,
        metadata=about("What a point of accuracy (0.01) is worth, in the same currency.", ge=0),
    )
    relative_gain: float = field(
        default=0.05,
        metadata=about(
            "Stop when the mean gain of the unlabelled rows falls below this share of the first; 0 never.", ge=0, le=1
        ),
    )
    # See `stop.loss_left`.
    loss_tolerance: float = field(
        default=0.04,
        metadata=about(
            "Without validation rows: stop when all further labels would take less than this many nats off the loss "
            "on the random first labels; 0: only where the loss rises.",
            ge=0,
        ),
    )
    loss_rounds: int = field(
        default=4, metadata=about("Minimum number of the latest rounds over which the loss is measured.", ge=1)
    )
    seed: int = field(default=0, metadata=about("Seed of the random first rows and of every draw.", ge=0))

    @property
    def copies_by_numbers(self) -> bool:
        """True if given numbers define near-duplicates, false if the pool's own measure does."""
        return self.copy_similarity is not None or self.copy_margin is not None

    @property
    def accuracy_tolerance(self) -> float:
        """`tolerance`, or what null stands for."""
        return _TOLERANCE if self.tolerance is None else self.tolerance

    @property
    def validated_share(self) -> float:
        """`validation_share`, or what null stands for."""
        if self.validation_share is None:
            return 0.0 if self.rule == "compat" else _VALIDATION_SHARE
        return self.validation_share

    def __post_init__(self) -> None:
        hints = get_type_hints(GateRule)
        for each in fields(GateRule):
            value, choices = getattr(self, each.name), _named(hints[each.name])
            if choices and value not in choices and not (value is None and each.default is None):
                raise UsageError(f"gate {each.name} {value!r}", f"use {', '.join(choices[:-1])} or {choices[-1]}")
            if "ge" in each.metadata and not (value is None and each.default is None):
                check_bounds(f"gate.{each.name}", value, each.metadata["ge"], each.metadata.get("le", math.inf))
        if self.last_power is not None and self.power is None:
            raise UsageError("gate.last_power without gate.power", "give both, or neither")
        if self.rule == "compat" and self.validated_share > 0:
            raise UsageError(
                f"gate.validation_share {self.validation_share} with rule compat, whose votes use every label",
                "leave it out, or use rule margin",
            )
        if (self.cost_per_label is None) != (self.worth_per_point is None):
            raise UsageError("one of gate.cost_per_label and gate.worth_per_point", "give both, or neither")


def _named(hint: Any) -> tuple[str, ...]:
    """The names that a setting may have: those of a literal, or of the literal in a union; none for other types."""
    values = get_args(hint)
    parts = (*values, *(inner for value in values for inner in get_args(value)))
    return tuple(part for part in parts if isinstance(part, str))


@dataclass(frozen=True, kw_only=True)
class GateConfig(GateRule):
    """Settings of the annotation gate over one pool: its rule, and what depends on the pool.

    Attributes:
        classes: number of classes C, 2 to 65 536.
        round_size: labels asked for in a round, at most.
        max_labels: never ask for more labels; None for no limit.
        max_rounds: never ask more often, the random first round included; None for no limit.
        shared_confidence: least confidence of a label that a row has from its near-duplicate, as gates of version 0.1.0
            go on; None takes what agreement within groups shows.

    Raises:
        UsageError: a value is out of bounds.
    """

    classes: int
    round_size: int
    max_labels: int | None = None
    max_rounds: int | None = None
    shared_confidence: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds("gate.classes", self.classes, 2, MAX_CLASSES)
        check_bounds("gate.round_size", self.round_size, 1)
        for name in ("max_labels", "max_rounds"):
            if getattr(self, name) is not None:
                check_bounds(f"gate.{name}", getattr(self, name), 1)


def check_bounds(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Checks that low <= value <= high.

    Raises:
        UsageError: it is out of bounds, or not a number.
    """
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}", f"give a value from {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class OfferConfig:
    """Settings of decisions on arriving rows.

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
            check_bounds(f"offer.{name}", getattr(self, name), 0, 1)


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
