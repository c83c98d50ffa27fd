"""`max_side`: larger images are scaled down once, at ingest; all others stay byte for byte as they came."""

from __future__ import annotations

import io
import math

from PIL import Image

from coevo_ray.pool.images import ImageError, decode_image

JPEG_QUALITY = 90
# What was stored with losses is stored so again; PNG would be many times as large without being any truer.
_LOSSY = {"JPEG", "MPO", "WEBP"}


def limit_side(data: bytes, max_side: int) -> bytes:
    """Scales an image whose longer side is above `max_side` down to it, and encodes it again.

    It is decoded as everywhere (`decode_image`: EXIF orientation applied, 8 bit, first frame, over white), scaled with
    Lanczos, and written without metadata: JPEG of quality 90 where the source was JPEG or WebP, else PNG. The same
    bytes give the same result with the same versions of Pillow and its libraries.

    Args:
        data: encoded bytes.
        max_side: pixels of the longer side.

    Returns:
        The bytes as they came where the image is small enough, or its header cannot be read.

    Raises:
        ImageError: it is larger and cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as header:
            size, kind, grey = header.size, header.format, header.mode in ("1", "L")
    except Exception:  # noqa: BLE001 - damaged bytes make Pillow raise almost anything; decoding will say what it is
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
    """As `limit_side`, but bytes that cannot be decoded stay: without `verify` it is encode that rejects them."""
    try:
        return limit_side(data, max_side)
    except ImageError:
        return data
