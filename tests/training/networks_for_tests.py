"""Networks that Ray Train workers import by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn


def plain(num_classes: int) -> nn.Module:
    """Convolutions without batch norm: each row's output depends on that row alone."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, num_classes),
    )


def normed(num_classes: int) -> nn.Module:
    """A network that keeps where things are, with batch norm."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )


class _Fault(nn.Module):
    """Fails once, after as many training steps of the process as a file says."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file, self.steps = Path(file), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.file.is_file() and self.steps > int(self.file.read_text()):
            self.file.unlink()
            raise RuntimeError("a planned fault")
        return images


def faulty(file: Path) -> str:
    """Name of a network with batch norm that fails once if that file says so."""
    return f"{__name__}:faulty_{str(file).encode().hex()}"


def _faulty(file: str, num_classes: int) -> nn.Module:
    from coevo_ray.training.models import SmallCNN

    return nn.Sequential(_Fault(file), SmallCNN(num_classes, width=8))


def __getattr__(name: str) -> Callable[[int], nn.Module]:
    # The workers of a running session do not see this process's environment: the name carries the path.
    if not name.startswith("faulty_"):
        raise AttributeError(name)
    return partial(_faulty, bytes.fromhex(name.removeprefix("faulty_")).decode())


def no_classifier(num_classes: int) -> nn.Module:
    """A network that ends in a convolution."""
    return nn.Conv2d(3, num_classes, 3)


def more_after_classifier(num_classes: int) -> nn.Module:
    """A network that goes on behind its linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes), nn.Softmax(1), nn.Flatten(0))
