"""What the feed's tests hand to other processes."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.training.feed.feed import Feed
from tests.training import png

SIZE = 8


def write_pool(folder: Path, rows: int, files: int = 3, group_rows: int = 16) -> Location:
    """A pool of small random images, whose first pixel is the row_id; every fifth row has no label."""
    place, entries = Location.parse(folder), []
    for i, part in enumerate(np.array_split(np.arange(rows), files)):
        images = []
        for row in part.tolist():
            pixels = np.random.default_rng(row).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[0, 0] = (row // 256, row % 256, 0)
            images.append(png(pixels))
        labels = pa.array([None if row % 5 == 0 else row % 10 for row in part.tolist()], pa.int64())
        columns = {"row_id": part, "image": pa.array(images, pa.binary()), "label": labels}
        entries.append(write_table(place, f"{i}.parquet", pa.table(columns), group_rows))
    finish(place, "pool", {}, {}, entries, {"modality": "image", "classes": 10})
    return place


def row_of(images: torch.Tensor) -> list[int]:
    """The row_ids in images' first pixels."""
    return [int(image[0, 0, 0]) * 256 + int(image[1, 0, 0]) for image in images]


class Noisy:
    """A transform that draws from every generator."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        noise = [torch.rand(1).item(), random.random(), np.random.random()]  # noqa: NPY002 - what it is to test
        return torch.tensor(noise)


class DiesAt:
    """A transform whose process is killed at one row."""

    def __init__(self, row: int) -> None:
        self.row = row

    def __call__(self, rows: pa.Table, seeds: npt.NDArray[np.uint64]) -> dict[str, torch.Tensor]:
        if self.row in rows.column("row_id").to_pylist():
            os.kill(os.getpid(), 9)
        return {}


def train(place: str, log: str, rank: str, world: str, start: str, workers: str) -> None:
    """A training worker: notes each batch when its step is done, slowly."""
    feed = Feed.of_images(place, global_batch=8, seed=3, window_blocks=2, workers=int(workers))
    subset = Subset(1, np.arange(0, 300, 2))
    with Path(log).open("a", encoding="utf-8") as file:
        for batch in feed.epoch(subset, int(rank), int(world), int(start)):
            real = batch.weights > 0
            record: dict[str, Any] = {"offset": batch.offset, "rows": row_of(batch["image"][real])}
            file.write(json.dumps(record) + "\n")
            file.flush()
            time.sleep(0.05)
    feed.close()


if __name__ == "__main__":
    train(*sys.argv[1:])
