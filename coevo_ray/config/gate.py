"""Settings of the annotation gate."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import Field, create_model, field_validator, model_validator

from coevo_ray.config.annotators import AnnotatorSettings, LabelColumnSettings
from coevo_ray.config.base import Compute, Model, Share
from coevo_ray.core.gate.config import GateConfig, GateRule

_RULE_FIELDS = fields(GateRule)
# What `gate set` changes on an open gate: how much is asked for, when it stops, who answers; not what a label is worth.
TERMS = (
    *("max_label_fraction", "max_rounds", "round_fraction", "relative_gain", "loss_tolerance", "loss_rounds"),
    *("tolerance", "cost_per_label", "worth_per_point"),
    "annotator",
)
# Which version 0.1.0 did not have; null in each stands for its present default.
LATER_SETTINGS = (
    *("copy_similarity", "copy_margin", "draw"),
    *("validation_share", "tolerance", "cost_per_label", "worth_per_point"),
)

if TYPE_CHECKING:

    class _RuleSettings(GateRule, Model):
        """The rule's settings, as type checkers see them."""

else:
    _HINTS = get_type_hints(GateRule)
    _RuleSettings = create_model(
        "_RuleSettings",
        __base__=Model,
        **{each.name: (_HINTS[each.name], Field(each.default, **each.metadata)) for each in _RULE_FIELDS},
    )


class GateSettings(_RuleSettings):
    """Annotation gate: chooses rows to label.

    The rule's settings, their defaults and bounds are those of `core.gate.config.GateRule`.
    """

    annotator: AnnotatorSettings = Field(LabelColumnSettings(), description="Annotator: its kind, or its settings.")
    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="Names of the classes, in order; null takes the pool's own."
    )
    seed_fraction: Share = Field(0.05, description="Random labels to begin with, as a share of the training rows.")
    round_fraction: Share = Field(0.03, description="Labels asked for in a round, as a share of the training rows.")
    max_seed_rows: int = Field(2500, ge=1, description="Maximum random labels to begin with.")
    pseudo_label: float = Field(
        0.95, ge=0, le=1, description="Probability from which an arriving row's class is taken without asking."
    )
    same: float = Field(
        0.95, ge=0, le=1, description="An arriving row more similar to a labelled or requested one is not asked about."
    )
    max_label_fraction: Share = Field(1.0, description="Maximum share of the training rows to ask for.")
    max_rounds: int = Field(100, ge=1, description="Maximum number of rounds.")
    calibrate: bool = Field(True, description="Calibrate the classifier's confidence to its accuracy.")
    l2: float | None = Field(
        None, gt=0, description="Weight decay of the light classifier; null chooses it on the first labels."
    )
    compute: Compute = Field(
        Compute(cpus=1),
        description="Resources of its tasks; with more than one actor, each holds a part of the neighbour graph.",
    )

    if TYPE_CHECKING:  # checkers would not take the rule's settings, which they cannot see in the made model

        def __init__(self, **settings: Any) -> None: ...

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """A number of classes stands for the names 0, 1, ..."""
        return tuple(str(i) for i in range(value)) if isinstance(value, int) else value

    def rule_for(self, rows: int, classes: int, **settled: Any) -> GateConfig:
        """The gate's rule for a pool: shares become numbers of rows.

        Args:
            rows: of the gate's graph.
            classes: C.
            settled: settings of the rule that were settled when the gate was opened, in place of these.
        """
        return GateConfig(
            **{**{each.name: getattr(self, each.name) for each in _RULE_FIELDS}, **settled},
            classes=classes,
            round_size=max(1, round(self.round_fraction * rows)),
            max_labels=max(1, round(self.max_label_fraction * rows)),
            max_rounds=self.max_rounds,
        )

    def seed_rows(self, rows: int, classes: int) -> int:
        """Number of random first rows of a pool (arguments as for `rule_for`), at least two for each class."""
        return min(rows, max(2 * classes, min(self.max_seed_rows, round(self.seed_fraction * rows))))

    def content(self) -> dict[str, Any]:
        """The settings that shape the result; who answers may change from one round to the next.

        Settings that version 0.1.0 did not have are in it only where they are given: its gates go on.
        """
        later = {name for name in LATER_SETTINGS if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude={"compute", "annotator"} | later)

    @model_validator(mode="after")
    def _check(self) -> GateSettings:
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes are named twice: {list(self.classes)}")
        if self.last_power is not None and self.power is None:
            raise ValueError("last_power without power: give both, or neither")
        if (self.cost_per_label is None) != (self.worth_per_point is None):
            raise ValueError("one of cost_per_label and worth_per_point: give both, or neither")
        if self.rule == "compat" and self.validation_share:
            raise ValueError("validation_share with rule compat, whose votes use every label: leave it out")
        return self
