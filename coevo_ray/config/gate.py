"""Settings of the annotation gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coevo_ray.config.base import Compute, Model, Share


class GateSettings(Model):
    """Annotation gate: which rows get a label."""

    annotator: Literal["label_column"] = Field("label_column", description="Who answers requests.")
    rule: Literal["margin", "compat"] = Field("margin", description="Gain and draw: ours, or as published.")
    seed_fraction: Share = Field(0.05, description="Random labels to begin with, as a share of the training rows.")
    round_fraction: Share = Field(0.03, description="Labels asked for in a round, as a share of the training rows.")
    neighbours: int = Field(16, ge=1, description="Neighbours of a row in the graph.")
    relative_gain: float = Field(
        0.1, ge=0, lt=1, description="Stop when mean gain falls below this share of the first."
    )
    accuracy_patience: int = Field(4, ge=1, description="Stop after so many rounds without better accuracy.")
    accuracy_tolerance: float = Field(0.002, ge=0, description="Accuracy that counts as better.")
    max_label_fraction: Share = Field(1.0, description="Never ask for more than this share of the training rows.")
    max_rounds: int = Field(100, ge=1, description="Never ask more often.")
    l2: float = Field(1e-3, gt=0, description="Weight decay of the light classifier that is refitted each round.")
    seed: int = Field(0, ge=0, description="Seed of random requests.")
    compute: Compute = Compute(cpus=1)
