"""Decoding of encoded images to 8-bit RGB.

Colour profiles are ignored, as in the training code of the public priors.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from coevo_ray.core.arrays import UInt8Array
from coevo_ray.pool.image_formats import ImageError, one_line, open_image

__all__ = ["ImageError", "decode_image", "decode_resized", "resized", "upright_rgb", "verify_image"]

_ORIENTATION_TAG = 0x0112
# EXIF orientation -> its inverse (EXIF 2.32, table of tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STRIP_PIXELS = 1 << 22


def decode_image(data: bytes) -> Image.Image:
    """Decodes an image to 8-bit RGB.

    Converts grey, palette and CMYK, scales 16-bit grey to 8 bit, composes transparency over white, takes an animation's
    first frame, and applies the EXIF orientation.

    Args:
        data: the encoded bytes.

    Raises:
        ImageError: there is no image of a known format, or it is truncated, damaged, of no size, or too large
            (`image_formats.MAX_BYTES`, and Pillow's limit against decompression bombs, about 179 million pixels).
    """
    image = open_image(data)
    try:
        image.load()
        return upright_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything
        raise ImageError(one_line("truncated or damaged", error)) from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to 8-bit RGB, as `decode_image` does, and applies its EXIF orientation.

    Raises:
        ImageError: its pixels are floating-point numbers, or 32-bit ones beyond 0..65535.
    """
    return _upright(_to_rgb(image), _orientation(image))


def verify_image(data: bytes) -> tuple[int, int]:
    """Decodes an image in full, the only way to detect truncation.

    Args:
        data: the encoded bytes.

    Returns:
        Width and height in pixels, upright.

    Raises:
        ImageError: the image cannot be decoded.
    """
    return decode_image(data).size


def decode_resized(data: bytes, size: int, crop: Literal["center", "squash"] = "center") -> UInt8Array:
    """Decodes an image and makes it square, see `resized`: uint8[size, size, 3].

    Raises:
        ImageError: the image cannot be decoded.
    """
    return resized(decode_image(data), size, crop)


def resized(image: Image.Image, size: int, crop: Literal["center", "squash"] = "center") -> UInt8Array:
    """Scales the shorter side to `size` (bicubic, antialiased when shrinking) and crops the centre.

    Args:
        image: 8-bit RGB.
        size: pixels of the square output.
        crop: `squash` scales both sides to `size` instead, without cropping.

    Returns:
        uint8[size, size, 3], writable.
    """
    width, height = image.size
    if crop == "squash" or width == height:
        box = (0.0, 0.0, float(width), float(height))
    else:
        # Only the centre square is resampled: a very long image would otherwise need unbounded memory.
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.array(image, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels, whose range is not known", "convert it to 8 or 16 bit")
    return _over_white(image) if image.has_transparency_data else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Scales 0..65535 to 0..255, rounded; older versions of Pillow return 16-bit grey as 32 bit."""
    grey = np.asarray(image)
    lowest, highest = int(grey.min()), int(grey.max())
    if lowest < 0 or highest > 65535:
        raise ImageError(f"32-bit pixels from {lowest} to {highest}, need 0..65535", "convert it to 8 or 16 bit")
    scaled = np.empty(grey.shape, np.uint8)
    for rows in _strips(image):
        scaled[rows] = (grey[rows].astype(np.uint32) + 128) // 257
    return Image.fromarray(scaled).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Lays an image with transparency over white, a few rows at a time: whole copies would take 16 bytes a pixel."""
    result = Image.new("RGB", image.size)
    for rows in _strips(image):
        clear = image.crop((0, rows.start, image.width, rows.stop)).convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        result.paste(Image.alpha_composite(white, clear).convert("RGB"), (0, rows.start))
    return result


def _strips(image: Image.Image) -> list[slice]:
    """Rows of an image in runs of some million pixels."""
    step = max(1, _STRIP_PIXELS // image.width)
    return [slice(start, min(start + step, image.height)) for start in range(0, image.height, step)]


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, after loading, which rotates TIFF images already; 1 if EXIF is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything and says nothing about the pixels
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)
