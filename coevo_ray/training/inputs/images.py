"""Images as networks take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from coevo_ray.config import SemiTrainConfig, TargetTrainConfig
from coevo_ray.core.json import JsonObject
from coevo_ray.training.feed.batch import Transform
from coevo_ray.training.feed.images import ImageTransform
from coevo_ray.training.feed.views import Augmented, Decode, Views
from coevo_ray.training.inputs.base import ViewPair
from coevo_ray.training.inputs.image_views import ConsistencyViews
from coevo_ray.training.models import Sample, make_model, sample_image


@dataclass(frozen=True)
class ImageShape:
    """A square image; see `Shape`.

    Attributes:
        size: pixels of its side.
        stem: of the network, as in `make_model`.
    """

    size: int
    stem: str = "standard"

    @property
    def kind(self) -> str:
        """See `Shape`."""
        return "image"

    def settings(self) -> JsonObject:
        """See `Shape`."""
        return {"stem": self.stem, "image_size": self.size}

    def files(self) -> dict[str, bytes]:
        """See `Shape`."""
        return {}

    def network(self, model: str, outputs: int) -> nn.Module:
        """See `Shape`."""
        return make_model(model, outputs, stem=self.stem, image_size=self.size)

    def sample(self) -> Sample:
        """See `Shape`."""
        return sample_image(self.size)

    def transform(self, column: str, augment: str = "none") -> Transform:
        """See `Shape`."""
        return ImageTransform(self.size, cast(Literal["none", "shift", "shift_flip"], augment))

    def decoded(self, column: str) -> Transform:
        """See `Shape`."""
        return Decode(self.size)

    def view_pair(self, config: SemiTrainConfig, mean: torch.Tensor | None) -> ViewPair:
        """See `Shape`."""
        return ConsistencyViews(config.flip, config.strength)

    def augmented(self, config: TargetTrainConfig) -> Augmented:
        """See `Shape`."""
        return Views(config.min_crop, config.flip, config.colour)
