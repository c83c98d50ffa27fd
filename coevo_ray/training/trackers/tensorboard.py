"""TensorBoard's event files, in the training's folder.

Each epoch is a whole file: stores without appending hold them too, and nothing is there twice after a restart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from coevo_ray.training.trackers.base import TrackedRun

_EVENTS = "tensorboard"


class TensorBoardFiles:
    """Writes `tensorboard/events.out.tfevents.EPOCH`; TensorBoard reads them in this order.

    Args:
        run: the training.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._folder = run.folder

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Writes the epoch's file, at its epoch as step.

        Raises:
            StoppedError: the store refused.
        """
        self._folder.child(_EVENTS, f"events.out.tfevents.{epoch:08d}").write_bytes(_event_file(epoch, figures))

    def close(self) -> None:
        """Nothing: files are whole."""


def _event_file(epoch: int, figures: Mapping[str, float]) -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        with SummaryWriter(temporary, write_to_disk=True) as writer:
            for name, value in figures.items():
                writer.add_scalar(name, value, epoch)
        (file,) = Path(temporary).glob("events.out.tfevents.*")
        return file.read_bytes()
