"""A training as a run of Weights & Biases; the project and the mode are named by its own variables."""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from coevo_ray.training.trackers.base import TrackedRun

_PROJECT = "coevo-ray"


class WandbRun:
    """Logs each epoch's figures; a training that goes on has the same run again.

    WANDB_PROJECT says where (`coevo-ray` without), WANDB_MODE=offline keeps all in WANDB_DIR for `wandb sync`.

    Args:
        run: the training.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            id=run.identity,
            name=run.title,
            config={**run.settings, "folder": str(run.folder)},
            resume="allow",
        )

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Logs an epoch at its number as step; a server leaves out one that it has."""
        self._run.log(dict(figures), step=epoch, commit=True)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()
