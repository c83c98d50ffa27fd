from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coevo_ray.pool.images import ImageError, decode_image
from coevo_ray.pool.max_side import JPEG_QUALITY, limit_side, limit_side_or_keep
from tests.pool.pictures import encoded, picture


def smooth(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("size", "limited"), [((100, 50), (40, 20)), ((50, 100), (20, 40)), ((41, 41), (40, 40)), ((1000, 3), (40, 1))]
)
def test_the_longer_side_becomes_the_limit_and_the_shape_stays(size: tuple[int, int], limited: tuple[int, int]) -> None:
    result = opened(limit_side(encoded(smooth(*size)), 40))
    assert result.size == limited


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_images_up_to_the_limit_stay_byte_for_byte(kind: str) -> None:
    data = encoded(smooth(40, 30), kind)
    assert limit_side(data, 40) == data
    assert limit_side(data, 39) != data


@pytest.mark.parametrize(
    ("kind", "becomes"), [("PNG", "PNG"), ("BMP", "PNG"), ("TIFF", "PNG"), ("JPEG", "JPEG"), ("WEBP", "JPEG")]
)
def test_lossy_sources_become_jpeg_and_others_png(kind: str, becomes: str) -> None:
    data = encoded(smooth(80, 60), kind)
    result = limit_side(data, 40)
    assert opened(result).format == becomes
    assert result == limit_side(data, 40)
    expected = decode_image(data).resize((40, 30), Image.Resampling.LANCZOS)
    if becomes == "PNG":
        assert np.array_equal(np.asarray(decode_image(result)), np.asarray(expected))
    else:
        assert result == encoded(expected, "JPEG", quality=JPEG_QUALITY)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_applied_once(kind: str) -> None:
    image = smooth(80, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    result = limit_side(encoded(image, kind, exif=exif), 20)
    assert opened(result).size == (10, 20)
    assert opened(result).getexif().get(0x0112, 1) == 1
    expected = decode_image(encoded(image, kind, exif=exif)).resize((10, 20), Image.Resampling.LANCZOS)
    difference = np.asarray(decode_image(result), int) - np.asarray(expected, int)
    assert abs(difference).mean() < 6


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("L", "JPEG")])
def test_grey_stays_grey(mode: str, kind: str) -> None:
    assert opened(limit_side(encoded(smooth(80, 60).convert(mode), kind), 40)).mode == "L"


@pytest.mark.parametrize("options", [{"mode": "RGBA"}, {"mode": "P"}, {"mode": "LA"}])
def test_other_modes_become_rgb_as_they_are_decoded(options: dict[str, Any]) -> None:
    assert opened(limit_side(encoded(smooth(80, 60).convert(options["mode"])), 40)).mode == "RGB"


def test_what_cannot_be_decoded_says_so_or_stays() -> None:
    data = encoded(picture(1, 80))[:3000]
    with pytest.raises(ImageError, match="truncated"):
        limit_side(data, 40)
    assert limit_side_or_keep(data, 40) == data
    assert limit_side(b"no image", 40) == b"no image"  # decoding says what it is
