"""Settings of the search for duplicates in a pool."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coevo_ray.config.base import Compute, Model


class DedupConfig(Model):
    """Duplicates: groups of rows that are copies of one another, and which row of each is kept."""

    neighbours: int = Field(16, ge=1, le=127, description="Neighbours of a row in the graph.")
    similarity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Cosine similarity of centred targets from which rows may be near-duplicates; null: the pool's own "
        "measure, or 0.7 with a margin.",
    )
    margin: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Excess of that over the similarity to the last neighbour of either row; null: the pool's own "
        "measure, or 0.2 with a similarity.",
    )
    same: float = Field(
        0.95, gt=0, le=1, description="Similarity that needs no margin; only with a given similarity or margin."
    )
    keep: Literal["best", "first"] = Field(
        "best",
        description="Training row of a group to keep: preferably labelled, then the largest sample (best), or the "
        "lowest row_id (first).",
    )
    leaks: Literal["drop", "keep"] = Field(
        "drop", description="What happens to training rows that are copies of held-out rows."
    )
    seed: int = Field(0, ge=0, description="Seed of the graph's cells.")
    compute: Compute = Compute(cpus=1)
