"""Decoding: encoded bytes of any usual image -> 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from coevo_ray.errors import InputError


class ImageError(InputError):
    """An image cannot be used.

    Args:
        reason: one line, as it appears in the rejects table.
    """

    def __init__(self, reason: str, remedy: str = "replace the image, or leave it in the rejects") -> None:
        super().__init__(reason, remedy)
        self.reason = reason


def decode_image(data: bytes) -> Image.Image:
    """Decodes an image to 8-bit RGB.

    Grey and CMYK are converted, 16-bit grey is scaled, transparency is laid over white, of an animation the first frame
    is taken, and the EXIF orientation is applied.

    Args:
        data: the encoded bytes.

    Raises:
        ImageError: no image, a truncated one, or one with absurd dimensions.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"not an image ({len(data)} bytes)") from error
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
        # Pillow has no common error for damaged files: these are what its decoders raise.
        raise ImageError(f"unreadable: {' '.join(str(error).split())}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        wide = np.asarray(image, dtype=np.float64)
        scale = 1.0 if image.mode == "F" else 257.0  # 65535 / 255
        return Image.fromarray(np.clip(np.round(wide / scale), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def verify_image(data: bytes) -> tuple[int, int]:
    """Really decodes an image (a truncated one shows itself only then).

    Returns:
        Width and height in pixels.

    Raises:
        ImageError: it cannot be decoded.
    """
    return decode_image(data).size


def decode_resized(
    data: bytes, size: int, crop: Literal["center", "squash"] = "center"
) -> npt.NDArray[np.uint8]:
    """Decodes, brings the shorter side to `size` (antialiased bicubic) and cuts the centre.

    Args:
        data: the encoded bytes.
        size: pixels of the square output.
        crop: `squash` scales both sides to `size` instead and cuts nothing.

    Returns:
        uint8[size, size, 3].

    Raises:
        ImageError: it cannot be decoded.
    """
    image = decode_image(data)
    width, height = image.size
    if crop == "squash":
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    elif (width, height) != (size, size):
        # The centre square is resized alone: the cut-off sides need no work.
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image, dtype=np.uint8).copy()
