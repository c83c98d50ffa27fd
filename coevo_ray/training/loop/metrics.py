"""A training's figures, epoch by epoch, in its output folder: JSON lines, and TensorBoard's event files when asked.

Every write is of whole files: stores without appending hold them too, and nothing is there twice after a restart.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from coevo_ray.store.layout import METRICS
from coevo_ray.store.location import Location

_EVENTS = "tensorboard"


def json_lines(history: Sequence[dict[str, Any]]) -> bytes:
    """One object per line and epoch."""
    return "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in history).encode()


def write_metrics(folder: Location, history: Sequence[dict[str, Any]], *, tensorboard: bool) -> None:
    """Writes `metrics.jsonl` and, if asked, the last epoch as an event file of its own.

    Args:
        folder: the training's output.
        history: the entries of all epochs so far, from 0.
        tensorboard: also write `tensorboard/events.out.tfevents.EPOCH`; TensorBoard reads them in this order.

    Raises:
        StoppedError: the store refused.
    """
    folder.child(METRICS).write_bytes(json_lines(history))
    if tensorboard:
        last = history[-1]
        name = f"events.out.tfevents.{last['epoch']:08d}"
        folder.child(_EVENTS, name).write_bytes(_event_file(last))


def _event_file(entry: dict[str, Any]) -> bytes:
    """The numbers of one epoch, at its epoch as step."""
    with tempfile.TemporaryDirectory() as temporary:
        with SummaryWriter(temporary, write_to_disk=True) as writer:
            for name, value in entry.items():
                if name != "epoch" and isinstance(value, int | float):
                    writer.add_scalar(name, value, entry["epoch"])
        (file,) = Path(temporary).glob("events.out.tfevents.*")
        return file.read_bytes()
