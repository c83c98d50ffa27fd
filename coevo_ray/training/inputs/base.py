"""The seam between trainings and modalities: what a sample is to a network (docs/design.md#inputs).

A training knows tensors, row_ids and this protocol. Everything that differs between images, vectors and texts is in the
modules beside this one: how rows become tensors, which networks take them, and how views of them are made.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from coevo_ray.config import SemiTrainConfig, TargetTrainConfig
from coevo_ray.core.json import JsonObject
from coevo_ray.training.feed.batch import Transform
from coevo_ray.training.feed.views import Augmented
from coevo_ray.training.models import FEATURES_OF, Sample, without_classifier


class ViewPair(Protocol):
    """Weak and strong views of samples, for consistency (FixMatch, arXiv 2001.07685)."""

    def numbers(self, samples: torch.Tensor) -> int:
        """Random numbers that a view of one sample takes."""
        ...

    def weak(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """One weak view of each sample."""
        ...

    def strong(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """One strong view of each sample."""
        ...


class Shape(Protocol):
    """A sample as a network gets it; pickles."""

    @property
    def kind(self) -> str:
        """`image`, `vector` or `text`."""
        ...

    def settings(self) -> JsonObject:
        """Entries of `model.json` by which `shapes.shape_of` makes it again."""
        ...

    def files(self) -> dict[str, bytes]:
        """Further files that belong to a trained network, by name."""
        ...

    def network(self, model: str, outputs: int) -> nn.Module:
        """A network at its start.

        Raises:
            UsageError: the model is unknown, or does not take such samples.
        """
        ...

    def sample(self) -> Sample:
        """A sample to try a network with."""
        ...

    def transform(self, column: str, augment: str = "none") -> Transform:
        """Feed transform: rows -> `column`, as the network takes it, and `label` where rows have labels."""
        ...

    def decoded(self, column: str) -> Transform:
        """Feed transform: rows -> `column`, as views are made of it, and `target` where rows have targets."""
        ...

    def view_pair(self, config: SemiTrainConfig, mean: torch.Tensor | None) -> ViewPair:
        """Views for consistency; `mean` float32[d] is that of vectors."""
        ...

    def augmented(self, config: TargetTrainConfig) -> Augmented:
        """Views for training on targets."""
        ...


class AsTheyAre:
    """Views that change nothing."""

    def numbers(self, samples: torch.Tensor) -> int:
        """None."""
        return 0

    def make(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """The samples."""
        return samples


def backbone_for(shape: Shape, model: str) -> tuple[nn.Module, int]:
    """A network at its start with its classifier taken off, and the dimension of its features.

    Raises:
        UsageError: as in `Shape.network` and `models.without_classifier`.
    """
    return without_classifier(model, shape.network(model, FEATURES_OF), shape.sample())
