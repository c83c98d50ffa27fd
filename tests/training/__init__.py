"""Helpers of the training tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from coevo_ray.pool.pool import Pool
from coevo_ray.store.artifact import finish
from coevo_ray.store.data_files import write_table
from coevo_ray.store.location import Location
from coevo_ray.training.loop.descent import averaged
from coevo_ray.training.loop.weights import write_weights
from coevo_ray.training.networks import write_network_files


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


def trained_folder(folder: Path, settings: dict[str, Any], network: nn.Module, ema: bool = False) -> Location:
    """The folder of a finished training with this network; averaged weights are half of its weights."""
    place, state = Location.parse(folder), {"model": network.state_dict()}
    if ema:
        average = averaged(network, 0.5)
        average.update_parameters(network)
        for tensor in average.parameters():
            tensor.data.mul_(0.5)
        state["average"] = average.state_dict()
    files = [*write_weights(place, state, settings), *write_network_files(place, state, settings)]
    finish(place, "model", {"objective": "targets"} if "dim" in settings else {}, {}, files, {})
    return place
