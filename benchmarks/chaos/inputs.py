"""Small inputs of the commands: a pool of large pictures, one of small ones, and targets near the corners of a cube."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from coevo_ray.core.arrays import UInt8Array
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import vector_column

ROWS, CLASSES = 240, 4
_SIDE = 16
_DIM = 16


def make_inputs(folder: Path, side: int = 256) -> None:
    """Writes `pictures`, `thumbnails` and `targets` below a folder; every fifth row is held out.

    Args:
        folder: where.
        side: pixels of a side of `pictures`; large ones take a while to read.
    """
    random = np.random.default_rng(0)
    classes = random.integers(0, CLASSES, ROWS)
    ids = np.arange(ROWS)
    for name, pixels in (("pictures", side), ("thumbnails", _SIDE)):
        place = Location.parse(folder / name)
        images = [_png(random.integers(0, 64, (pixels, pixels), dtype=np.uint8) + 48 * label) for label in classes]
        columns = {"row_id": ids, "key": [f"row-{i}" for i in ids], "image": pa.array(images, pa.binary())}
        table = pa.table({**columns, "label": classes, "split": (ids % 5 == 0).astype(np.int8)})
        finish(place, "pool", {}, {}, [write_table(place, "a.parquet", table, group_rows=16)], {"classes": CLASSES})
    features = np.eye(_DIM)[classes] + 0.35 * random.standard_normal((ROWS, _DIM)) + 1.0
    place = Location.parse(folder / "targets")
    table = pa.table({"row_id": ids, "target": vector_column(features.astype(np.float32))})
    finish(place, "targets", {}, {}, [write_table(place, "a.parquet", table, 64)], {})


def _png(pixels: UInt8Array) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(data, "PNG", compress_level=1)
    return data.getvalue()
