"""Helpers of the training tests."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encoded bytes of an image."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()
