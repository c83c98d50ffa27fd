"""Settings of the annotation gate."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from coevo_ray.config.annotators import AnnotatorSettings, LabelColumnSettings, annotator_from_short
from coevo_ray.config.base import Compute, Model, Share
from coevo_ray.core.gate.config import GateConfig


class GateSettings(Model):
    """Annotation gate: which rows get a label."""

    annotator: AnnotatorSettings = Field(LabelColumnSettings(), description="Who answers requests.")
    classes: tuple[str, ...] | None = Field(
        None, min_length=2, description="Names of the classes, in order; null takes the pool's own."
    )
    rule: Literal["margin", "compat"] = Field("margin", description="Gain and draw: ours, or as published.")
    seed_fraction: Share = Field(0.05, description="Random labels to begin with, as a share of the training rows.")
    round_fraction: Share = Field(0.03, description="Labels asked for in a round, as a share of the training rows.")
    max_seed_rows: int = Field(2500, ge=1, description="Never begin with more random labels than these.")
    neighbours: int = Field(16, ge=1, description="Neighbours of a row in the graph.")
    typical: float = Field(
        0.15,
        ge=0,
        le=1,
        description="margin: until this share has labels, rows are the typical ones of all groups, among those of much "
        "gain; 0 never.",
    )
    apart: float = Field(0.65, ge=0, le=1, description="margin: rows of a batch more similar are kept apart; 1 never.")
    copies: bool = Field(True, description="margin: near-duplicates of a labelled row have its label.")
    vote: Literal["none", "distributions", "classes"] = Field(
        "none", description="margin: what neighbours add to the gain: nothing, their distributions or surest classes."
    )
    vote_weight: float = Field(0.5, ge=0, le=1, description="margin: the neighbours' share in what a row is believed.")
    balance: float = Field(0, ge=0, description="margin: gains times (mean labels / labels of the class) ** balance.")
    power: float | None = Field(
        None, ge=0, description="margin: rows are drawn in proportion to gain ** power; null takes them from the top."
    )
    last_power: float | None = Field(None, ge=0, description="The power once all rows have labels; null: as power.")
    distance_weight: float = Field(0, ge=0, description="margin: what the distance to known rows adds to the gain.")
    min_similarity: float = Field(0.85, ge=0, le=1, description="Neighbours that vote, in compat and vote: classes.")
    recheck_neighbours: int = Field(8, ge=1, description="compat: nearest neighbours looked at after an answer.")
    recheck_similarity: float = Field(0.9, ge=0, le=1, description="compat: of those, only the more similar ones.")
    relative_gain: float = Field(
        0.05, ge=0, lt=1, description="Stop when mean gain falls below this share of the first."
    )
    loss_tolerance: float = Field(
        0.04,
        ge=0,
        description="Stop when all further labels would take less than so many nats off the validation loss.",
    )
    loss_rounds: int = Field(4, ge=1, description="Over how many of the latest rounds that is looked at, at least.")
    pseudo_label: float = Field(
        0.95, ge=0, le=1, description="Probability from which an arriving row's class is taken without asking."
    )
    same: float = Field(
        0.95, ge=0, le=1, description="An arriving row more similar to a labelled or requested one is not asked about."
    )
    max_label_fraction: Share = Field(1.0, description="Never ask for more than this share of the training rows.")
    max_rounds: int = Field(100, ge=1, description="Never ask more often.")
    calibrate: bool = Field(True, description="Scale the classifier's confidence to what it is right about.")
    l2: float | None = Field(
        None, gt=0, description="Weight decay of the light classifier; null chooses it by the first labels."
    )
    seed: int = Field(0, ge=0, description="Seed of random requests.")
    compute: Compute = Compute(cpus=1)

    _short_annotator = field_validator("annotator", mode="before")(annotator_from_short)

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """A number of classes stands for the names 0, 1, ..."""
        return tuple(str(i) for i in range(value)) if isinstance(value, int) else value

    def rule_for(self, rows: int, classes: int) -> GateConfig:
        """The gate's rule for a pool: shares become numbers of rows.

        Args:
            rows: of the gate's graph.
            classes: C.
        """
        same = {field.name: getattr(self, field.name) for field in fields(GateConfig) if hasattr(self, field.name)}
        return GateConfig(
            **{
                **same,
                "classes": classes,
                "round_size": max(1, round(self.round_fraction * rows)),
                "max_labels": max(1, round(self.max_label_fraction * rows)),
            }
        )

    def seed_rows(self, rows: int, classes: int) -> int:
        """How many random rows a pool begins with: see `rule_for`; two for each class at least."""
        return min(rows, max(2 * classes, min(self.max_seed_rows, round(self.seed_fraction * rows))))

    def content(self) -> dict[str, Any]:
        """The settings that shape the result; who answers may change from one round to the next."""
        return self.model_dump(mode="json", exclude={"compute", "annotator"})

    @model_validator(mode="after")
    def _check(self) -> GateSettings:
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes are named twice: {list(self.classes)}")
        if self.last_power is not None and self.power is None:
            raise ValueError("last_power without power: give both, or neither")
        return self
