"""Image batches for training: decode, resize, scale, augment."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from coevo_ray.pool.images import decode_resized

# ImageNet's statistics in 0..255 units; a fixed choice, so that nothing has to be measured before training.
_MEAN = torch.tensor([123.7, 116.3, 103.5]).view(1, 3, 1, 1)
_STD = torch.tensor([58.4, 57.1, 57.4]).view(1, 3, 1, 1)


class ImageTransform:
    """Feed transform: encoded images -> {"image": float32[b, 3, s, s]}.

    Args:
        size: pixels of the square output.
        augment: `shift` moves by up to an eighth of the size, `shift_flip` also mirrors half of the images.

    Raises:
        ImageError: an image cannot be decoded (when called).
    """

    def __init__(self, size: int, augment: Literal["none", "shift", "shift_flip"]) -> None:
        self.size, self.augment = size, augment

    def __call__(self, rows: pa.Table, random: np.random.Generator) -> dict[str, torch.Tensor]:
        """Makes one batch."""
        images = np.stack([decode_resized(data.as_py(), self.size) for data in rows.column("image")])
        if self.augment != "none":
            images = shift(images, random, max(1, self.size // 8))
        if self.augment == "shift_flip":
            mirrored = random.random(len(images)) < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
        return {"image": scale_pixels(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float())}


def scale_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels float[b, 3, s, s] of 0..255 as networks see them: about zero, about unit spread."""
    return (pixels - _MEAN.to(pixels.device)) / _STD.to(pixels.device)


def shift(images: npt.NDArray[np.uint8], random: np.random.Generator, by: int) -> npt.NDArray[np.uint8]:
    """Moves each image by up to `by` pixels in both directions; the border is reflected."""
    rows, size = images.shape[:2]
    padded = np.pad(images, ((0, 0), (by, by), (by, by), (0, 0)), mode="reflect")
    down, right = random.integers(0, 2 * by + 1, size=(2, rows))
    y = down[:, None] + np.arange(size)
    x = right[:, None] + np.arange(size)
    moved: npt.NDArray[np.uint8] = padded[np.arange(rows)[:, None, None], y[:, :, None], x[:, None, :]]
    return moved
