"""Weak and strong views of images, for training by consistency (FixMatch, arXiv 2001.07685).

A weak view is moved by up to an eighth of its size and perhaps mirrored. A strong view is moved, turned, sheared,
zoomed and mirrored in one resampling, recoloured, perhaps solarised, and has a square cut out (arXiv 1708.04552): what
RandAugment (arXiv 1909.13719) draws image by image, for a whole batch at once and on whichever device it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from coevo_ray.training.feed.images import scale_pixels
from coevo_ray.training.feed.views import NUMBERS, recolour

# Those of `views` (of which the first five are place, mirror and how far it is warped), then turn, two shears, zoom,
# solarise or not and from where on, and the place and size of the cut.
VIEW_NUMBERS = NUMBERS + 9
_SHIFT = 1 / 8
_TURN, _SHEAR, _ZOOM = math.radians(30), 0.3, 0.3
_WARPED, _SOLARISED = 0.7, 0.2
_COLOUR = 1.5  # of what BYOL's jitter does
_CUT = 0.5  # of the side


@dataclass(frozen=True)
class ConsistencyViews:
    """Limits of what views change.

    Attributes:
        flip: mirror half of the views, weak and strong.
        strength: how far strong views go: 1 turns by up to 30 degrees and cuts a square of up to half the side.
    """

    flip: bool = True
    strength: float = 1.0

    def numbers(self, images: torch.Tensor) -> int:
        """Random numbers that a view of one image takes."""
        return VIEW_NUMBERS

    def weak(self, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """One weak view of each image.

        Args:
            images: uint8[b, 3, s, s].
            numbers: float32[b, VIEW_NUMBERS] in [0, 1), as `views.view_numbers` gives them.

        Returns:
            float32[b, 3, s, s], scaled like every network input.
        """
        size = images.shape[-1]
        by = int(size * _SHIFT)
        # Whole pixels, so that a weak view is as sharp as the image; the border is reflected.
        right, down = (torch.floor(numbers[:, i] * (2 * by + 1)).long() - by for i in (0, 1))
        places = torch.arange(size, device=images.device)
        across = torch.where(self._mirrors(numbers)[:, None], places.flip(0), places) + right[:, None]
        y, x = (_reflected(place, size) for place in (places + down[:, None], across))
        rows = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1)
        channels = torch.arange(3, device=images.device).view(1, 3, 1, 1)
        return scale_pixels(images[rows, channels, y[:, None, :, None], x[:, None, None, :]].float())

    def strong(self, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """One strong view of each image; as `weak`."""
        extra = numbers[:, NUMBERS:]
        matrix = _warp(numbers[:, 4], extra, self.strength)
        sign = torch.where(self._mirrors(numbers), -1.0, 1.0)[:, None]
        matrix = torch.stack([matrix[:, :, 0] * sign, matrix[:, :, 1]], dim=2)
        pixels = _resample(images, matrix, (2 * numbers[:, :2] - 1) * 2 * _SHIFT)
        if self.strength > 0:
            pixels = recolour(pixels, numbers, _COLOUR * self.strength)
            bound = torch.where(extra[:, 4] < _SOLARISED * self.strength, 255 * extra[:, 5], 256.0).view(-1, 1, 1, 1)
            pixels = torch.where(pixels < bound, pixels, 255 - pixels)
        return torch.where(_cut(images, extra, self.strength), 0.0, scale_pixels(pixels))

    def _mirrors(self, numbers: torch.Tensor) -> torch.Tensor:
        return (numbers[:, 3] < 0.5) & self.flip


def _reflected(places: torch.Tensor, size: int) -> torch.Tensor:
    """Places outside of 0..size-1 by less than that, mirrored at the first and last."""
    return size - 1 - (size - 1 - places.abs()).abs()


def _warp(chance: torch.Tensor, extra: torch.Tensor, strength: float) -> torch.Tensor:
    """float32[b, 2, 2]: turn, then shear and zoom; unchanged for some images."""
    far = torch.where(chance < _WARPED, strength, 0.0)
    angle, across, down, zoom = (
        far * most * (2 * extra[:, i] - 1) for i, most in enumerate((_TURN, _SHEAR, _SHEAR, _ZOOM))
    )
    cosine, sine, one = torch.cos(angle), torch.sin(angle), torch.ones_like(angle)
    turn = torch.stack([cosine, -sine, sine, cosine], dim=1).view(-1, 2, 2)
    shear = torch.stack([one, across, down, one], dim=1).view(-1, 2, 2)
    return turn @ shear * torch.exp(zoom).view(-1, 1, 1)


def _resample(images: torch.Tensor, matrix: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """float32[b, 3, s, s] in 0..255: what lies at matrix x place + shift."""
    theta = torch.cat([matrix, shift[:, :, None]], dim=2)
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def _cut(images: torch.Tensor, extra: torch.Tensor, strength: float) -> torch.Tensor:
    """bool[b, 1, s, s]: a square somewhere, which may reach over the edge."""
    size = images.shape[-1]
    half = (size * _CUT * min(1.0, strength) * extra[:, 8] / 2).view(-1, 1)
    places = torch.arange(size, device=images.device) + 0.5
    down, across = ((places - size * extra[:, i, None]).abs() < half for i in (6, 7))
    return (down[:, :, None] & across[:, None, :])[:, None]
