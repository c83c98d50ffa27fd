"""Settings of encode and merge (CoOpt): pool -> contributions -> targets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from coevo_ray.config.base import BaseCompute, Compute, Model


class EncodeCompute(BaseCompute):
    """Resources of a prior; they never change its result."""

    actors: int | None = Field(None, ge=1, description="Actors per prior; null for as many as fit.")
    max_actors: int | None = Field(
        None, ge=1, description="Maximum actors as nodes join and leave; null for a fixed number."
    )

    @model_validator(mode="after")
    def _check(self) -> EncodeCompute:
        if self.max_actors is not None and self.max_actors < (self.actors or 1):
            raise ValueError(
                f"max_actors is {self.max_actors}, and actors {self.actors}: lower actors, or raise max_actors"
            )
        return self


class ActorPool(Compute):
    """The settled resources of a prior.

    Attributes:
        max_actors: that the pool may grow to; null where their number is fixed.
    """

    max_actors: int | None = None


class PriorConfig(Model):
    """A participant: a prior model and the share of the pool that it encodes."""

    name: str = Field(min_length=3, description="scheme:model, for instance efficientnet_lite:0.")
    input_size: int | None = Field(None, ge=8, description="Pixels of its square input; null for the model's own.")
    weight: float = Field(1.0, gt=0, description="Its share of the pool relative to the other participants.")
    compute: EncodeCompute | None = Field(None, description="Its resources; null for those of all participants.")

    @property
    def label(self) -> str:
        """Its name, with the input size where one was chosen; no other participant has it."""
        return self.name if self.input_size is None else f"{self.name}@{self.input_size}"


Alignment = Literal["ridge", "procrustes", "none"]
Projection = Literal["components", "random"]
Assign = Literal["quality", "weights"]
Consensus = Literal["latent", "reference"]


class MergeConfig(Model):
    """Merge: contributions -> targets (CoOpt)."""

    consensus: Consensus | None = Field(
        None,
        description="How priors are aligned: by a common latent, or, as published, to one reference prior; null for "
        "what the contributions were made for.",
    )
    dim: int | None = Field(None, ge=2, description="Dimension n of the latent; null for that of the contributions.")
    refit: bool = Field(False, description="Refit the latent to all contributions when targets are extended.")
    reference: str | None = Field(None, description="Reference prior: its name, name@pixels, or index from 0.")
    alignment: Alignment = Field("ridge", description="Map of all targets into one space; none leaves each in its own.")
    allow_overlap: bool = Field(False, description="Allow a row in several contributions; the first one's is taken.")
    seed: int = Field(0, ge=0, description="Seed of the shared rows that are held out to measure alignment.")


class EncodeConfig(Model):
    """Encode: pool -> contributions -> targets (CoOpt)."""

    priors: tuple[PriorConfig, ...] = Field(min_length=1, description="The participants, in order.")
    dim: int = Field(
        256,
        ge=2,
        description="Common dimension n of the targets. If not given: 128 in the published form or if 4 shared rows "
        "per dimension would be more than two fifths of a small pool's training rows, fewer if the pool's own vectors "
        "have fewer; a resumed folder keeps its own.",
    )
    projection: Projection | None = Field(
        None,
        description="Features that a contribution keeps: leading components on the shared set, or, as published, a "
        "random projection; null for components, unless reference or alignment are given or a folder of the "
        "published form is resumed.",
    )
    components: int | None = Field(
        None, ge=2, description="Components of each prior, 2 bytes each in a contribution's row; null for twice dim."
    )
    coverage: str = Field("one", description="Priors that encode a row: one, a number of them, or all.")
    assign: Assign | None = Field(
        None,
        description="quality: the prior that reaches the consensus best encodes the pool (with more coverage, those "
        "that reach it well, by weight); weights: by weight alone; null for quality, or for weights if they differ.",
    )
    shared: float | str = Field(
        0.1,
        description="Shared set: a share of the pool below 1 (raised to 4 x dim rows in small pools), a number of "
        "rows, or the folder of a pool.",
    )
    like: str | None = Field(
        None,
        description="Folder of targets whose components and latent to use, so that the new targets are in the same "
        "space; needs no shared set.",
    )
    part: tuple[int, int] | None = Field(
        None, description="A single participant's part of the pool: [which, of how many], from 0; null for all rows."
    )
    reference: str | None = Field(None, description="Reference prior: its name, name@pixels, or index from 0.")
    alignment: Alignment = Field("ridge", description="Map of all targets into one space; none leaves each in its own.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the forward pass; auto is float32 on CPUs and half precision on GPUs."
    )
    compile: bool = Field(False, description="Compile the priors with torch.compile; pays off on long jobs.")
    max_reject_fraction: float = Field(
        0.05, ge=0, le=1, description="Maximum share of rejected rows before the job fails."
    )
    shard_rows: int | None = Field(
        None, ge=1, description="Pool rows per shard: the unit of work and of resume; null derives it from input sizes."
    )
    seed: int = Field(0, ge=0, description="Seed of projection, shared set and assignment.")
    compute: EncodeCompute = EncodeCompute()

    @field_validator("priors", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """A prior may be written as its name alone."""
        return [{"name": v} if isinstance(v, str) else v for v in value] if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _check(self) -> EncodeConfig:
        names = [prior.label for prior in self.priors]
        if len(set(names)) < len(names):
            raise ValueError(f"priors are named twice: {names}")
        known = {*names, *(prior.name for prior in self.priors), *(str(i) for i in range(len(names)))}
        if self.reference is not None and self.reference not in known:
            raise ValueError(f"reference {self.reference!r} is not one of the priors {names}")
        if self.coverage not in ("one", "all") and not (self.coverage.isdecimal() and int(self.coverage) > 0):
            raise ValueError(f"coverage = {self.coverage!r}: give one, a number of priors, or all")
        if self.form == "random" and (self.coverage != "one" or self.components is not None):
            raise ValueError(
                "projection: random, reference, alignment belong to the published form: leave coverage and "
                "components out"
            )
        if self.form == "components" and (self.reference is not None or self.alignment != "ridge"):
            raise ValueError(
                "a latent has no reference prior: leave reference and alignment out, or set projection: random"
            )
        if self.like is not None and self.form == "random":
            raise ValueError("like: the published form has no latent; use the same priors, dim and seed instead")
        number = self.shared if isinstance(self.shared, float) else 1.0
        if not (0 < number < 1 or (number > 0 and number.is_integer())):
            raise ValueError(f"shared = {self.shared}: give a share below 1, whole rows, or a pool's folder")
        if self.part is not None and not (len(names) == 1 and 0 <= self.part[0] < self.part[1]):
            raise ValueError(f"part = {list(self.part)}: it is for one prior alone, [which, of how many], from 0")
        return self

    @property
    def form(self) -> Projection:
        """Its projection, derived where it is not given: `reference` and `alignment` belong to the published form."""
        if self.projection is not None:
            return self.projection
        return "random" if self.reference is not None or self.alignment != "ridge" else "components"

    @property
    def assignment(self) -> Assign:
        """`assign`, derived where it is not given: different weights of priors are meant to count."""
        if self.assign is not None:
            return self.assign
        return "weights" if len({prior.weight for prior in self.priors}) > 1 else "quality"

    def content(self) -> dict[str, Any]:
        """JSON of all settings but resources; those that version 0.1.0 did not have appear where they are set."""
        later = ("projection", "components", "coverage", "assign", "like")
        content = self.model_dump(mode="json", exclude={"compute"})
        return {n: v for n, v in content.items() if n not in later or v != type(self).model_fields[n].default}

    @property
    def kept(self) -> int:
        """Components wanted of each prior."""
        return 2 * self.dim if self.components is None else self.components

    @property
    def alone(self) -> bool:
        """True for one participant that makes a contribution and leaves merging to others."""
        shared = isinstance(self.shared, str) and self.like is None
        return len(self.priors) == 1 and (shared or self.part is not None)

    def compute_of(self, index: int) -> EncodeCompute:
        """Resources of a participant."""
        return self.priors[index].compute or self.compute

    def merging(self) -> MergeConfig:
        """The settings of its second half."""
        return MergeConfig(reference=self.reference, alignment=self.alignment, seed=self.seed)

    @field_validator("coverage", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
