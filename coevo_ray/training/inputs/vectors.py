"""Vectors as networks take them: heads on stored targets or on a column of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from coevo_ray.config import SemiTrainConfig, TargetTrainConfig
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import UsageError
from coevo_ray.training.feed.batch import Transform
from coevo_ray.training.feed.vectors import VectorTransform
from coevo_ray.training.feed.views import Augmented
from coevo_ray.training.inputs.base import AsTheyAre, ViewPair
from coevo_ray.training.models import HEADS, MLP, Sample, is_users, make_users

_WIDTH = 512  # of the hidden layer
_SQUARED_LENGTH = 256  # mean, of normalised vectors
_CUT = 0.3  # of a strong view's dimensions, at strength 1


class VectorNetwork(nn.Module):
    """A linear layer, or one hidden layer and one, on centred vectors whose mean squared length is 256.

    All dimensions are divided by one number, so that directions keep their relative size, as in
    `core.probes.probe.LinearProbe`. With one length for vectors of any dimension one learning rate fits all.

    Args:
        dim: d of the vectors.
        outputs: classes.
        hidden: width of the hidden layer; 0 for none.

    Attributes:
        mean: float32[d], of the training rows; zero until `normalise`.
        scale: float32[], what centred vectors are divided by; one until `normalise`.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dim: int, outputs: int, hidden: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.hidden: nn.Module = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.head = nn.Linear(hidden or dim, outputs)

    def normalise(self, mean: torch.Tensor, mean_square: float) -> None:
        """Sets mean and scale.

        Args:
            mean: float32[d], of the training rows.
            mean_square: about the mean, over rows and dimensions.
        """
        self.mean.copy_(mean)
        self.scale.fill_((mean_square * len(mean) / _SQUARED_LENGTH) ** 0.5)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Vectors float[b, d] -> logits float[b, classes]."""
        logits: torch.Tensor = self.head(self.hidden((samples - self.mean) / self.scale))
        return logits


@dataclass(frozen=True)
class VectorShape:
    """A vector of d numbers; see `Shape`."""

    dim: int

    @property
    def kind(self) -> str:
        """See `Shape`."""
        return "vector"

    def settings(self) -> JsonObject:
        """See `Shape`."""
        return {"input": {"kind": self.kind, "dim": self.dim}}

    def files(self) -> dict[str, bytes]:
        """See `Shape`."""
        return {}

    def network(self, model: str, outputs: int) -> nn.Module:
        """See `Shape`."""
        if model in HEADS:
            return VectorNetwork(self.dim, outputs, _WIDTH if model == MLP else 0)
        if not is_users(model):
            raise UsageError(f"{model} does not take vectors", f"take one of {', '.join(HEADS)}, or leave features out")
        return make_users(model, outputs)

    def sample(self) -> Sample:
        """See `Shape`."""
        return Sample(torch.zeros(1, self.dim), f"vectors of {self.dim} numbers", "model")

    def transform(self, column: str, augment: str = "none") -> Transform:
        """See `Shape`."""
        return VectorTransform(column)

    def decoded(self, column: str) -> Transform:
        """See `Shape`."""
        return VectorTransform(column)

    def view_pair(self, config: SemiTrainConfig, mean: torch.Tensor | None) -> ViewPair:
        """See `Shape`."""
        return VectorViews(torch.zeros(self.dim) if mean is None else mean, config.strength)

    def augmented(self, config: TargetTrainConfig) -> Augmented:
        """See `Shape`."""
        return AsTheyAre()


@dataclass(frozen=True, eq=False)
class VectorViews:
    """Weak views are the vectors; of strong ones some dimensions are cut to the mean.

    Feature cutoff (Shen et al. 2020, arXiv 2009.13818), on the input.

    Attributes:
        mean: float32[d].
        strength: 1 cuts three tenths of the dimensions.
    """

    mean: torch.Tensor
    strength: float

    def numbers(self, samples: torch.Tensor) -> int:
        """See `ViewPair`."""
        return samples.shape[1]

    def weak(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `ViewPair`."""
        return samples

    def strong(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """See `ViewPair`."""
        return torch.where(numbers < _CUT * self.strength, self.mean.to(samples.device), samples)
