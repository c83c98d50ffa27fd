"""Encoders as a user would write them: `callable:tests.pipelines.priors_for_tests:Class`."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import torch
from torch import nn


class _Centred(nn.Module):
    """Pixels minus their mean: zero for a black image; NaN where the mean is above `limit`."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(1)
        mean = pixels.mean(dim=1, keepdim=True)
        return torch.where(mean > self.limit, torch.nan, pixels - mean)


class _Constant(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 12)


class _OneRow(nn.Module):
    """Right for one image, as in the check that is made when it is loaded, and wrong for a batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:1]


class FailsOnBright:
    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Centred(0.75), 192, 8


class Constant:
    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Constant(), 12, 8


class WrongShape:
    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _OneRow(), 192, 8


class Noted:
    """Leaves a file of its process and node in the folder COEVO_NOTED; each pass takes a while."""

    def __init__(self) -> None:
        import ray

        self.module, self.dim, self.input_size = _Slow(), 192, 8
        node = ray.get_runtime_context().get_node_id()
        (Path(os.environ["COEVO_NOTED"]) / f"{node}-{os.getpid()}").touch()


class _Slow(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.5)
        return images.flatten(1) - 0.5


class _Linear(nn.Module):
    matrix: torch.Tensor

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(1)
        features: torch.Tensor = (pixels - pixels.mean(dim=1, keepdim=True)) @ self.matrix
        return features


def _random(seed: int, rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


class Pixels:
    """As many features as the tests' targets have dimensions, so that projection is a rotation too."""

    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Linear(_random(1, 192, 8)), 8, 8


class Rotated:
    """Pixels, turned."""

    def __init__(self) -> None:
        turn = torch.linalg.qr(_random(2, 8, 8))[0]
        self.module, self.dim, self.input_size = _Linear(_random(1, 192, 8) @ turn), 8, 8


class Shuffled:
    """Another encoder of the same images."""

    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Linear(_random(3, 192, 12).abs().sqrt()), 12, 8


FLAG = Path(tempfile.gettempdir()) / f"coevo-tests-fault-{os.getuid()}"


class _Faulty(nn.Module):
    """Pixels, until the flag is set: then what the flag says happens once, in whichever actor sees it first."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = Pixels().module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1:  # not in the check that is made when it is loaded
            self._fault()
        features: torch.Tensor = self.pixels(images)
        return features

    def _fault(self) -> None:
        try:
            what = FLAG.read_text()
            FLAG.unlink()
        except FileNotFoundError:
            return
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what.startswith("lose "):  # the disk that holds the folder goes away
            folder = Path(what.removeprefix("lose "))
            folder.rename(folder.with_suffix(".gone"))
            folder.write_text("not a folder")


class Faulty:
    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Faulty(), 8, 8


class _Raises(_Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 1:
            raise RuntimeError("no such kernel")
        return super().forward(images)


class Raises:
    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Raises(_random(1, 192, 8)), 8, 8


class _Picky(_Linear):
    """NaN for about one image in five."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = super().forward(images)
        return torch.where(features[:, :1] > 3.5, torch.nan, features)


class Picky:
    """Pixels, but not of every image."""

    def __init__(self) -> None:
        self.module, self.dim, self.input_size = _Picky(_random(1, 192, 8)), 8, 8
