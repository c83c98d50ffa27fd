"""Settings of the sparse autoencoder and of evidence, which learn from targets before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from coevo_ray.config.base import Compute, Model


class SaeConfig(Model):
    """Sparse autoencoder: targets -> factors, codes and scores."""

    latents: int = Field(512, ge=2, description="Number of factors m.")
    k: int = Field(16, ge=1, description="Active factors of a row.")
    epochs: int = Field(40, ge=1, description="Maximum passes over the training rows.")
    batch_rows: int = Field(256, ge=1, description="Rows of a global batch.")
    learning_rate: float = Field(2e-3, gt=0, description="Adam's step, decayed to zero over the last fifth.")
    window_rows: int = Field(
        1_000_000, ge=1, description="Check explained variance and save state after each pass or this many rows."
    )
    patience: int | None = Field(
        5, ge=1, description="Checks without improvement after which the last fifth begins; null: never early."
    )
    min_improvement: float = Field(
        1e-3, ge=0, description="Rise of the explained variance that counts as an improvement."
    )
    rare_quantile: float = Field(0.5, gt=0, lt=1, description="Factors up to this quantile of frequency are rare.")
    seed: int = Field(0, ge=0, description="Seed of the start and of the order of rows.")
    compute: Compute = Compute(actors=1, cpus=1)

    @model_validator(mode="after")
    def _check(self) -> SaeConfig:
        if self.k > self.latents:
            raise ValueError(f"k = {self.k} active factors of only {self.latents} latents")
        return self


_FORMER_L2 = 1e-3  # the default of version 0.1.0


class EvidenceConfig(Model):
    """Evidence: labels that may be wrong and near-duplicates, as the targets show them."""

    doubt: bool = Field(True, description="Find labels that are likely wrong.")
    copies: bool = Field(True, description="Find near-duplicates; builds a neighbour graph of the training rows.")
    similarity: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Cosine similarity of centred targets from which rows may be near-duplicates; null: the pool's own "
        "measure, or 0.7 with a margin,",
    )
    margin: float | None = Field(
        None,
        ge=0,
        le=2,
        description="if it exceeds that of the last neighbour of either row by this much; null: the pool's own "
        "measure, or 0.2 with a similarity,",
    )
    same: float = Field(
        0.95, gt=0, le=1, description="or if they are as similar as this; only with a given similarity or margin."
    )
    neighbours: int = Field(16, ge=1, le=127, description="Neighbours of a row in the graph.")
    probe_rows: int = Field(100_000, ge=2, description="Maximum labelled rows to fit the light classifiers on.")
    l2: float | None = Field(
        None, gt=0, description="Weight decay of the light classifiers; null chooses it by cross-validation."
    )
    seed: int = Field(0, ge=0, description="Seed of the sample and of its folds.")
    compute: Compute = Compute(cpus=1)

    def settled(self, begun: Mapping[str, Any] | None) -> EvidenceConfig:
        """The settings with the numbers that an artifact was begun with, where these give none.

        Version 0.1.0 had numbers for near-duplicates and an `l2` where nothing was said; what it began goes on with
        them.

        Args:
            begun: settings of the artifact; None where there is none.
        """
        there = begun or {}
        numbers = {n: there[n] for n in ("similarity", "margin") if getattr(self, n) is None and n in there}
        if self.l2 is None and there.get("l2") == _FORMER_L2:
            numbers["l2"] = _FORMER_L2
        return self.model_copy(update=numbers)
