"""Figures of a training in its folder: one line per epoch, whatever was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coevo_ray.store.layout import METRICS
from coevo_ray.store.location import Location
from coevo_ray.training.loop.metrics import write_metrics

HISTORY: list[dict[str, Any]] = [
    {"epoch": 0, "loss": 2.25, "accuracy": None, "samples": 10, "learning_rate": 0.1},
    {"epoch": 1, "loss": 1.5, "accuracy": 0.75, "samples": 20, "learning_rate": 0.0},
]


def test_every_epoch_is_there_once_after_repeated_writes(tmp_path: Path) -> None:
    place = Location.parse(str(tmp_path))
    # A worker was killed after it wrote epoch 1, went on from the checkpoint of epoch 0, and wrote it again.
    for epochs in (1, 2, 1, 2):
        write_metrics(place, HISTORY[:epochs])
    lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == HISTORY
    assert [p.name for p in tmp_path.iterdir()] == [METRICS]


def test_a_figure_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_metrics(Location.parse(str(tmp_path)), [{"epoch": 0, "loss": float("nan")}])
    assert list(tmp_path.iterdir()) == []
