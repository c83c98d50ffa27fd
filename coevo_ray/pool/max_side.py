"""`max_side`: scales larger images down once, at ingest; other images keep their bytes."""

from __future__ import annotations

import io
import math

from PIL import Image

from coevo_ray.pool.image_formats import ImageError, open_image
from coevo_ray.pool.images import decode_image

JPEG_QUALITY = 90
# Lossy sources stay lossy: PNG would be many times as large without restoring anything.
_LOSSY = {"JPEG", "MPO", "WEBP", "AVIF", "HEIF"}


def limit_side(data: bytes, max_side: int) -> bytes:
    """Scales an image down to a longer side of `max_side` and encodes it again; smaller ones are returned as they are.

    Decodes it by `decode_image` (EXIF orientation applied, 8 bit, first frame, over white), scales it with Lanczos, and
    writes it without metadata: JPEG of quality 90 if the source was JPEG or WebP, else PNG. The same bytes give the
    same result with the same versions of Pillow and its libraries.

    Args:
        data: encoded bytes.
        max_side: pixels of the longer side.

    Returns:
        The encoded image; `data` itself if the image is small enough or its header cannot be read.

    Raises:
        ImageError: the image is larger and cannot be decoded.
    """
    try:
        with open_image(data) as header:
            size, kind, grey = header.size, header.format, header.mode in ("1", "L")
    except ImageError:
        return data
    if max(size) <= max_side:
        return data
    image = decode_image(data)
    if grey:
        image = image.convert("L")
    shrink = max_side / max(image.size)
    width, height = (max(1, math.floor(side * shrink + 0.5)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if kind in _LOSSY:
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def limit_side_or_keep(data: bytes, max_side: int) -> bytes:
    """Runs `limit_side`, but keeps bytes that cannot be decoded; without `verify`, encode rejects them."""
    try:
        return limit_side(data, max_side)
    except ImageError:
        return data
