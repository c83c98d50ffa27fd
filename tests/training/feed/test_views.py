"""Views: against slow loops and torchvision, and as a function of (seed, epoch, row, view) alone."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from coevo_ray.training.feed.images import scale_pixels
from coevo_ray.training.feed.views import NUMBERS, Decode, Views, view_numbers
from tests.training import png

ROWS = np.arange(40, dtype=np.int64) * 977
BLACK = scale_pixels(torch.zeros(1, 3, 1, 1))
UNIT = scale_pixels(torch.ones(1, 3, 1, 1)) - BLACK


def pixels_of(scaled: torch.Tensor) -> torch.Tensor:
    """0..255 of network inputs."""
    return (scaled - BLACK) / UNIT


def noise(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (rows, 3, size, size), dtype=np.uint8))


def still(**changed: float) -> torch.Tensor:
    """Numbers of one view that crops nothing, does not mirror, does not turn grey and leaves colours."""
    values = [1.0, 0.5, 0.5, 0.5, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5, 1.0]
    names = ["area", "aspect", "x", "y", "flip", "jitter", "brightness", "contrast", "saturation", "hue", "grey"]
    for name, value in changed.items():
        values[names.index(name)] = value
    return torch.tensor([values])


def test_a_view_that_changes_nothing_is_the_image() -> None:
    images = noise(1, 8)
    assert still().shape == (1, NUMBERS)
    assert torch.allclose(pixels_of(Views().make(images, still())), images.float(), atol=0.01)


def test_a_crop_is_what_bilinear_sampling_of_that_window_gives() -> None:
    images = noise(1, 9)
    numbers = still(area=0.3, aspect=0.8, x=0.2, y=0.9)
    area = 0.2 + 0.3 * 0.8
    aspect = (4 / 3) ** (2 * 0.8 - 1)
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    left, top = 9 * 0.2 * (1 - width), 9 * 0.9 * (1 - height)
    expected = np.zeros((3, 9, 9))
    for row in range(9):
        for column in range(9):
            x, y = left + (column + 0.5) * width - 0.5, top + (row + 0.5) * height - 0.5
            expected[:, row, column] = bilinear(images[0].numpy(), x, y)
    made = pixels_of(Views().make(images, numbers))[0].numpy()
    assert np.allclose(made, expected, atol=0.05)
    mirrored = pixels_of(Views().make(images, still(area=0.3, aspect=0.8, x=0.2, y=0.9, flip=0.0)))[0].numpy()
    assert np.allclose(mirrored, expected[:, :, ::-1], atol=0.05)


def bilinear(image: npt.NDArray[np.uint8], x: float, y: float) -> npt.NDArray[np.float64]:
    size = image.shape[1]
    total = np.zeros(3)
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            share = (1 - abs(y - i)) * (1 - abs(x - j))
            total += share * image[:, min(max(i, 0), size - 1), min(max(j, 0), size - 1)]
    return total


def test_crops_keep_their_area_and_stay_inside() -> None:
    # A ramp shows where a view looked: its mean and range are those of the window.
    ramp = torch.arange(64).expand(64, 64)
    images = torch.stack([ramp, ramp.T, ramp]).to(torch.uint8).expand(400, 3, 64, 64)
    made = pixels_of(Views(min_crop=0.25, flip=False, colour=0).make(images, view_numbers(np.arange(400), 0, 0, 0)))
    across, down = made[:, 0, 0, -1] - made[:, 0, 0, 0], made[:, 1, -1, 0] - made[:, 1, 0, 0]
    area = (across / 63) * (down / 63)
    assert area.min() > 0.22
    assert area.max() < 1.01
    assert made.min() >= -0.01
    assert made.max() <= 63.01
    assert area.std() > 0.1


def test_colours_match_torchvision() -> None:
    from torchvision.transforms import functional

    images = noise(1, 8)

    def views(**changed: float) -> torch.Tensor:
        return pixels_of(Views().make(images, still(**changed)))[0]

    # torchvision clamps after each step and rounds grey; a mild change of mid-grey noise shows neither.
    images = images // 2 + 64
    real = images.float()[0] / 255
    assert torch.allclose(views(brightness=0.75), functional.adjust_brightness(real, 1.2) * 255, atol=0.1)
    assert torch.allclose(views(contrast=0.25), functional.adjust_contrast(real, 0.8) * 255, atol=0.2)
    assert torch.allclose(views(saturation=0.0), functional.adjust_saturation(real, 0.8) * 255, atol=0.1)
    assert torch.allclose(views(grey=0.0), functional.rgb_to_grayscale(real, 3) * 255, atol=0.2)
    assert torch.equal(views(brightness=0.75, jitter=0.9), views())


def test_hue_turns_colours_about_grey() -> None:
    red = torch.tensor([180, 60, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    turned = pixels_of(Views().make(red, still(hue=1.0)))[0, :, 0, 0]
    # colorsys has its own coefficients of YIQ, rounded to two digits.
    before, after = (colorsys.rgb_to_yiq(*(c / 255).tolist()) for c in (red[0, :, 0, 0], turned))
    assert abs(before[0] - after[0]) < 0.01
    assert abs(math.hypot(*before[1:]) - math.hypot(*after[1:])) < 0.01
    angle = math.atan2(after[2], after[1]) - math.atan2(before[2], before[1])
    assert abs(angle - 2 * math.pi * 0.1) < 0.03
    grey = torch.full((1, 3, 4, 4), 90, dtype=torch.uint8)
    assert torch.allclose(pixels_of(Views().make(grey, still(hue=1.0))), torch.tensor(90.0), atol=0.1)


def test_without_colour_no_view_is_grey() -> None:
    images = noise(len(ROWS), 8)
    made = pixels_of(Views(min_crop=1, flip=False, colour=0).make(images, view_numbers(ROWS, 0, 0, 0)))
    assert torch.allclose(made, images.float(), atol=0.01)


def test_numbers_follow_from_seed_epoch_row_and_view() -> None:
    numbers = view_numbers(ROWS, 3, 5, 1)
    order = np.random.default_rng(0).permutation(len(ROWS))
    assert torch.equal(numbers[order], view_numbers(ROWS[order], 3, 5, 1))
    others = [view_numbers(ROWS, 4, 5, 1), view_numbers(ROWS, 3, 6, 1), view_numbers(ROWS, 3, 5, 0)]
    assert all(not (numbers == other).any() for other in others)


def test_numbers_are_uniform_and_independent() -> None:
    numbers = np.concatenate([view_numbers(np.arange(20_000), 0, 0, view).numpy() for view in (0, 1)], axis=1)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(numbers.var(axis=0) - 1 / 12).max() < 0.003
    correlation = np.corrcoef(numbers.T) - np.eye(2 * NUMBERS)
    assert np.abs(correlation).max() < 0.03


@pytest.mark.parametrize("size", [8, 12])
def test_rows_are_decoded_as_they_are(size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    tensors = Decode(size)(pa.table({"image": [png(image)]}), np.zeros(1, np.uint64))
    assert tensors.keys() == {"image"}
    assert tensors["image"].shape == (1, 3, size, size)
    if size == 8:
        assert np.array_equal(tensors["image"][0].permute(1, 2, 0).numpy(), image)
