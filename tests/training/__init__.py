"""Helpers of the training tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from sklearn.datasets import load_digits

from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish, write_table
from coevo_ray.store.location import Location


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encoded bytes of an image."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def digits_pool(folder: Path, rows: int, labels: npt.NDArray[np.int64] | None = None) -> Pool:
    """A pool of digits of 16 pixels, with their own labels or others; every fifth row is held out."""
    place, ids, digits = Location.parse(str(folder)), np.arange(rows), load_digits()
    images = [png(np.kron(image * 15.9, np.ones((2, 2))).astype(np.uint8)) for image in digits.images[:rows]]
    columns = {"row_id": ids, "image": pa.array(images, pa.binary()), "label": digits.target[:rows].astype(np.int64)}
    if labels is not None:
        columns["label"] = labels
    table = pa.table({**columns, "split": (ids % 5 == 0).astype(np.int8)})
    finish(place, "pool", {}, {}, [write_table(place, "a.parquet", table, group_rows=64)], {"classes": 10})
    return Pool(place)
