"""Augmented views of images, as SimCLR (arXiv 2002.05709) and BYOL (arXiv 2006.07733) make them for small images:
a random resized crop, a mirror image, colour jitter and grey; no blur.

A view is one resampling and one linear map of colours for the whole batch, on whichever device the images are. Its
random numbers follow from (seed, epoch, row_id, view) alone, so views depend neither on order nor on workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from coevo_ray.core.arrays import Int64Array, UInt64Array
from coevo_ray.core.rows.hashing import hash_rows
from coevo_ray.training.feed.images import decode_square, scale_pixels, targets_of

# Area, aspect, place across and down, mirror; jitter or not, brightness, contrast, saturation, hue; grey.
NUMBERS = 11
_ASPECT = math.log(4 / 3)
_JITTER_SHARE, _GREY_SHARE = 0.8, 0.2
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.4, 0.4, 0.2, 0.1  # BYOL, table 6
_LUMA = torch.tensor([0.299, 0.587, 0.114])
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Views:
    """Limits of what a view changes.

    Attributes:
        min_crop: smallest share of the image's area that a crop keeps; 1 keeps all of it.
        flip: mirror half of the views.
        colour: strength of the colour jitter, 1 as in BYOL; 0 leaves colours as they are and makes none grey.
    """

    min_crop: float = 0.2
    flip: bool = True
    colour: float = 1.0

    def numbers(self, images: torch.Tensor) -> int:
        """Random numbers that a view of one image takes."""
        return NUMBERS

    def make(self, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """One view of each image.

        Args:
            images: uint8[b, 3, s, s].
            numbers: float32[b, NUMBERS] in [0, 1), as `view_numbers` gives them.

        Returns:
            float32[b, 3, s, s], scaled like every network input.
        """
        theta = _crops(numbers, self.min_crop, self.flip)
        grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
        pixels = nn.functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return scale_pixels(recolour(pixels, numbers, self.colour) if self.colour > 0 else pixels)


def view_numbers(row_ids: Int64Array, seed: int, epoch: int, view: int, numbers: int = NUMBERS) -> torch.Tensor:
    """The random numbers of some rows' views.

    Args:
        row_ids: int64[b].
        seed, epoch, view: which views; a view is 0 or 1.
        numbers: how many for each row.

    Returns:
        float32[b, numbers], uniform in [0, 1).
    """
    if numbers == 0:
        return torch.empty(len(row_ids), 0)
    rows = hash_rows(hash_rows(row_ids, seed).view(np.int64), 2 * epoch + view)
    hashes = np.stack([hash_rows(rows.view(np.int64), number) for number in range(numbers)], axis=1)
    return torch.from_numpy((hashes >> np.uint64(40)).astype(np.float32) / 2**24)


class Augmented(Protocol):
    """Views of samples, as `Views` are of images."""

    def numbers(self, samples: torch.Tensor) -> int:
        """Random numbers that a view of one sample takes."""
        ...

    def make(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """One view of each sample."""
        ...


def views_of(
    samples: torch.Tensor, row_ids: Int64Array, views: Augmented, seed: int, epoch: int, count: int = 2
) -> torch.Tensor:
    """Makes views of a feed's samples, on their device.

    Args:
        samples: [b, ...], as views are made of them.
        row_ids: int64[b].
        views: limits of what a view changes.
        seed, epoch: which views.
        count: views of a row, 1 or 2.

    Returns:
        [count b, ...]: the first views of all rows, then their second views.
    """
    wide = views.numbers(samples)
    numbers = [view_numbers(row_ids, seed, epoch, view, wide).to(samples.device) for view in range(count)]
    return torch.cat([views.make(samples, n) for n in numbers])


class Decode:
    """Feed transform: encoded images, and targets where the rows have them, as tensors.

    Gives `image` uint8[b, 3, s, s] and `target` float32[b, n].

    Args:
        size: pixels of the square output.

    Raises:
        ImageError: an image cannot be decoded (when called).
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, rows: pa.Table, seeds: UInt64Array) -> dict[str, torch.Tensor]:
        """Makes one batch."""
        images = np.stack([decode_square(data.as_py(), self.size) for data in rows.column("image")])
        return {"image": torch.from_numpy(images), **targets_of(rows)}


def _crops(numbers: torch.Tensor, min_crop: float, flip: bool) -> torch.Tensor:
    """float32[b, 2, 3] for `affine_grid`: where in the image each view looks."""
    area = min_crop + numbers[:, 0] * (1 - min_crop)
    # The aspect is kept within what the area leaves room for, so that the whole of the crop lies in the image.
    bound = torch.clamp(-torch.log(area), max=_ASPECT)
    aspect = torch.exp((2 * numbers[:, 1] - 1) * bound)
    width, height = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
    across, down = (2 * numbers[:, 2] - 1) * (1 - width), (2 * numbers[:, 3] - 1) * (1 - height)
    mirrored = (numbers[:, 4] < 0.5) & flip
    none = torch.zeros_like(area)
    rows = [torch.where(mirrored, -width, width), none, across, none, height, down]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def recolour(pixels: torch.Tensor, numbers: torch.Tensor, strength: float) -> torch.Tensor:
    """Brightness, contrast about the image's mean grey, saturation, hue and grey, in 0..255.

    All are linear in the pixels, and all but brightness and contrast leave greys alone: one matrix and one grey offset.

    Args:
        pixels: float32[b, 3, s, s].
        numbers: float32[b, NUMBERS]; those from the sixth on are used.
        strength: 1 as in BYOL.
    """
    jitter = torch.where(numbers[:, 5] < _JITTER_SHARE, strength, 0.0)
    factor = [1 + jitter * most * (2 * numbers[:, 6 + i] - 1) for i, most in enumerate((_BRIGHTNESS, _CONTRAST))]
    brightness, contrast = (f.clamp(min=0).view(-1, 1, 1) for f in factor)
    saturation = 1 + jitter * _SATURATION * (2 * numbers[:, 8] - 1)
    saturation = saturation.clamp(min=0).view(-1, 1, 1)
    grey = (numbers[:, 10] < _GREY_SHARE).view(-1, 1, 1)
    luma = _LUMA.to(pixels.device)
    eye, to_grey = torch.eye(3, device=pixels.device), luma.expand(3, 3)
    colours = _hue(jitter * _HUE * (2 * numbers[:, 9] - 1)) @ (saturation * eye + (1 - saturation) * to_grey)
    colours = torch.where(grey, to_grey.expand_as(colours), colours)
    flat = pixels.flatten(2)
    mean = torch.einsum("c,bcp->b", luma, flat).view(-1, 1, 1) / flat.shape[2]
    mapped = torch.baddbmm((1 - contrast) * brightness * mean, contrast * brightness * colours, flat)
    return mapped.clamp_(0, 255).view_as(pixels)


def _hue(turns: torch.Tensor) -> torch.Tensor:
    """float32[b, 3, 3]: rotation about the grey axis in YIQ by so many turns."""
    angle = turns * 2 * math.pi
    cosine, sine, one, none = torch.cos(angle), torch.sin(angle), torch.ones_like(angle), torch.zeros_like(angle)
    turn = torch.stack([one, none, none, none, cosine, -sine, none, sine, cosine], dim=1).view(-1, 3, 3)
    yiq = _YIQ.to(turns.device)
    matrices: torch.Tensor = torch.linalg.inv(yiq) @ turn @ yiq
    return matrices
