"""Encoded images as people's programs and browsers take them: which format they are, and data URIs."""

from __future__ import annotations

import base64
import io

from PIL import Image

from coevo_ray.pool.images import decode_image

_ENDINGS = {"JPEG": "jpg", "TIFF": "tif", "MPO": "jpg", "JPEG2000": "jp2"}
_BROWSERS_SHOW = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}


def image_format(data: bytes) -> str:
    """Pillow's name of the format of an encoded image; empty where Pillow does not know it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format or ""
    except Exception:  # noqa: BLE001 - damaged bytes make Pillow raise almost anything; they are kept as they are
        return ""


def file_ending(data: bytes) -> str:
    """The usual ending of a file with these bytes, without the point."""
    name = image_format(data)
    return _ENDINGS.get(name, name.lower()) or "bin"


def data_uri(data: bytes) -> str:
    """An image as a data URI that every browser shows; formats that browsers do not know become PNG.

    Raises:
        ImageError: the image cannot be decoded.
    """
    mime = _BROWSERS_SHOW.get(image_format(data))
    if mime is None:
        buffer = io.BytesIO()
        decode_image(data).save(buffer, "PNG")
        data, mime = buffer.getvalue(), "image/png"
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
