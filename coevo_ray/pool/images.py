"""Decoding of encoded images to 8-bit RGB.

Colour profiles are ignored, as in the training code of the public priors.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from coevo_ray.core.arrays import Int64Array, UInt8Array
from coevo_ray.errors import InputError

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
_LONGEST_REASON = 160


class ImageError(InputError):
    """An image that cannot be used.

    Args:
        reason: one line, as it appears in the rejects table.
        remedy: what to do about it.
    """

    def __init__(self, reason: str, remedy: str = "replace the image, or leave it in the rejects") -> None:
        super().__init__(reason, remedy)
        self.reason = reason


def decode_image(data: bytes) -> Image.Image:
    """Decodes an image to 8-bit RGB.

    Converts grey, palette and CMYK, scales 16-bit grey to 8 bit, composes transparency over white, takes an animation's
    first frame, and applies the EXIF orientation.

    Args:
        data: the encoded bytes.

    Raises:
        ImageError: there is no image, or it is truncated, damaged, of no size, or too large (Pillow's limit against
            decompression bombs, about 179 million pixels).
    """
    if not data:
        raise ImageError("empty: 0 bytes")
    try:
        image = Image.open(io.BytesIO(data))
        if 0 in image.size:
            raise ImageError(f"zero size: {image.width} x {image.height}")
        image.load()
        return upright_rgb(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(_reason("too large", error)) from error
    except UnidentifiedImageError as error:  # its text holds a memory address
        raise ImageError(f"not an image that Pillow can read ({len(data)} bytes)") from error
    except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything
        raise ImageError(_reason("truncated or damaged", error)) from error


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
        return _from_16_bit(np.asarray(image).astype(np.int64))
    if image.mode == "F":
        raise ImageError("floating-point pixels, whose range is not known", "convert it to 8 or 16 bit")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(grey: Int64Array) -> Image.Image:
    """Scales 0..65535 to 0..255, rounded; older versions of Pillow return 16-bit grey as 32 bit."""
    lowest, highest = int(grey.min()), int(grey.max())
    if lowest < 0 or highest > 65535:
        raise ImageError(f"32-bit pixels from {lowest} to {highest}, need 0..65535", "convert it to 8 or 16 bit")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, after loading, which rotates TIFF images already; 1 if EXIF is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything and says nothing about the pixels
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _reason(what: str, error: Exception) -> str:
    return f"{what}: {' '.join(str(error).split()) or type(error).__name__}"[:_LONGEST_REASON]
