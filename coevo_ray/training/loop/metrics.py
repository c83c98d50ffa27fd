"""A training's figures, epoch by epoch, in its output folder.

Every write is of a whole file: stores without appending hold it too, and nothing is there twice after a restart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from coevo_ray.store.layout import METRICS
from coevo_ray.store.location import Location


def json_lines(history: Sequence[dict[str, Any]]) -> bytes:
    """One object per line and epoch."""
    return "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in history).encode()


def write_metrics(folder: Location, history: Sequence[dict[str, Any]]) -> None:
    """Writes `metrics.jsonl`.

    Args:
        folder: the training's output.
        history: the entries of all epochs so far, from 0.

    Raises:
        StoppedError: the store refused.
    """
    folder.child(METRICS).write_bytes(json_lines(history))
