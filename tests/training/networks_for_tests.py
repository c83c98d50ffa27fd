"""Networks that Ray Train workers import by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from coevo_ray.errors import InputError


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
    """Fails after as many training steps of the process as a file says, and notes every step beside that file.

    What follows the number in the file says how: `once` (the default) raises and takes the file away, `killed` ends the
    process by SIGKILL and takes the file away, `always` does so at the first step of every later process too, `input`
    raises an error of the input, `hang` never comes back.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file, self.steps = Path(file), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        step = torch.is_grad_enabled()  # a network that teaches itself predicts in training mode too; frozen in neither
        self.steps += step
        if step:
            with self.file.with_suffix(".steps").open("a") as log:
                log.write(f"{os.getpid()}\n")
        after, how = (*self.file.read_text().split(), "once")[:2] if self.file.is_file() else ("", "")
        if how and self.steps > int(after):
            self._fail(how)
        return images

    def _fail(self, how: str) -> None:
        if how in ("killed", "always") and self.steps > 1:
            time.sleep(4)  # Ray Train hears of a checkpoint only when it asks its workers, several times a second
        if how in ("once", "killed"):
            self.file.unlink()
        if how == "always":
            new = self.file.with_suffix(f".{os.getpid()}")  # another worker may be reading: never half a file
            new.write_text("0 always")
            new.replace(self.file)
        if how in ("killed", "always"):
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            time.sleep(3600)
        if how == "input":
            raise InputError("a planned fault of the input", "plan none")
        raise RuntimeError("a planned fault")


def steps_made(file: Path) -> int:
    """Training steps that processes with this file have begun."""
    return len(file.with_suffix(".steps").read_text().split())


def faulty(file: Path, kind: str = "normed") -> str:
    """Name of a network that fails if that file says so: `normed` has batch norm, `dropping` dropout."""
    return f"{__name__}:faulty_{kind}_{str(file).encode().hex()}"


def _faulty(kind: str, file: str, num_classes: int) -> nn.Module:
    from coevo_ray.training.models import SmallCNN

    rest = SmallCNN(num_classes, width=8) if kind == "normed" else plain(num_classes)
    return nn.Sequential(_Fault(file), *([nn.Dropout(0.2)] if kind == "dropping" else []), rest)


def __getattr__(name: str) -> Callable[[int], nn.Module]:
    # The workers of a running session do not see this process's environment: the name carries the path.
    if not name.startswith("faulty_"):
        raise AttributeError(name)
    _, kind, path = name.split("_")
    return partial(_faulty, kind, bytes.fromhex(path).decode())


def no_classifier(num_classes: int) -> nn.Module:
    """A network that ends in a convolution."""
    return nn.Conv2d(3, num_classes, 3)


def more_after_classifier(num_classes: int) -> nn.Module:
    """A network that goes on behind its linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes), nn.Softmax(1), nn.Flatten(0))


def stirred(network: nn.Module) -> nn.Module:
    """The network with random statistics in its batch norms, as after training."""
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.02)
        if name.endswith("running_var"):
            buffer.uniform_(0.2, 0.5)
    return network
