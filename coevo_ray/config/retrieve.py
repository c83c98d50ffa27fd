"""Settings of retrieval from an open pool."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from coevo_ray.config.base import Compute, Model

_NEAR_ANCHORS = 0.25  # an anchor's gain says little of rows far away


class RetrieveSettings(Model):
    """Retrieval: chooses rows of an open pool."""

    budget: int = Field(ge=1, description="Rows wanted.")
    gain: Literal["auto", "classifier", "anchors"] = Field(
        "auto",
        description="Value of an open row's label: by the gate's light classifier, or its nearest anchor's; auto "
        "takes the classifier if the gate has learned one.",
    )
    anchors: int = Field(
        4096, ge=1, description="Maximum number of anchors, the gate's unlabelled rows with the most gain."
    )
    near: float | None = Field(
        None,
        ge=0,
        le=8,
        description="Power of the similarity to the nearest anchor; 0 leaves it out. Default: 0 with the classifier's "
        "gain, 0.25 with the anchors'.",
    )
    same: float = Field(0.95, ge=0, le=1, description="Rows more similar than this are copies; only one is taken.")
    stray: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="An open row is a copy too if its nearest row of the gate stands out from its other neighbours "
        "more than for all but this share of the gate's own rows; 0 for never.",
    )
    apart: float = Field(0.65, ge=0, le=1, description="Maximum similarity of chosen rows while there are others.")
    compute: Compute = Compute(cpus=1)

    def near_by(self, classifier: bool) -> float:
        """The power of the similarity, when gains are the classifier's or else the anchors'."""
        return self.near if self.near is not None else 0.0 if classifier else _NEAR_ANCHORS

    @model_validator(mode="after")
    def _check(self) -> RetrieveSettings:
        if self.apart > self.same:
            raise ValueError(f"apart {self.apart} is above same {self.same}")
        return self
