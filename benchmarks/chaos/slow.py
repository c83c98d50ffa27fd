"""A prior and a network that take their time and note what they are at, so that a kill comes in the midst of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import nn

NOTES = "COEVO_RAY_CHAOS_NOTES"  # folder; in the environment of the cluster
_FORWARD_S, _STEP_S = 0.2, 0.2


def note(name: str) -> None:
    """Adds the pid of this process to a file of the folder of notes."""
    if (folder := os.environ.get(NOTES)) is not None:
        with Path(folder, name).open("a") as file:
            file.write(f"{os.getpid()}\n")


def noted(folder: Path, name: str) -> list[int]:
    """Pids of a file of notes, in their order."""
    file = folder / name
    return [int(line) for line in file.read_text().splitlines()] if file.is_file() else []


class _Features(nn.Module):
    matrix: torch.Tensor

    def __init__(self, pixels: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(pixels, dim, generator=torch.Generator().manual_seed(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1:  # not in the check that is made when it is loaded
            note("forward")
            time.sleep(_FORWARD_S)
        pixels = images.flatten(1)
        features: torch.Tensor = (pixels - pixels.mean(dim=1, keepdim=True)) @ self.matrix
        return features


class Prior:
    """`callable:benchmarks.chaos.slow:Prior`: eight random features of eight by eight pixels."""

    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Features(192, 8), 8, 8


class _Noted(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            note("step")
            time.sleep(_STEP_S)
        return images


def network(num_classes: int) -> nn.Module:
    """`benchmarks.chaos.slow:network`: a small network with dropout, so that a step made again has to be the same."""
    return nn.Sequential(
        _Noted(),
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, num_classes),
    )
