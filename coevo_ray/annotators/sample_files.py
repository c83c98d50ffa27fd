"""Samples as annotators see them: the table of modalities, image formats, and data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from coevo_ray.pool.image_formats import ImageError, open_image
from coevo_ray.pool.images import decode_image
from coevo_ray.pool.modality import Sample

_ENDINGS = {"JPEG": "jpg", "TIFF": "tif", "MPO": "jpg", "JPEG2000": "jp2"}
_BROWSERS_SHOW = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}


@dataclass(frozen=True)
class Shown:
    """The way annotators see samples of a modality.

    Attributes:
        tag: Label Studio's object tag.
        value: sample -> its value in a Label Studio task: a data URI or a text.
        file_ending: sample -> ending of its file in a file drop, without the dot; None for samples that stand in the
            request table itself.
        by_key: people see the key alone, for samples that say nothing to them.
    """

    tag: str
    value: Callable[[Sample], str]
    file_ending: Callable[[Sample], str] | None = None
    by_key: bool = False


def image_format(data: bytes) -> str:
    """Pillow's name of an encoded image's format; empty where Pillow does not know it."""
    try:
        with open_image(data) as image:
            return image.format or ""
    except ImageError:
        return ""


def file_ending(data: bytes) -> str:
    """The usual ending of an image file with these bytes, without the dot; `bin` where Pillow does not know it."""
    name = image_format(data)
    return _ENDINGS.get(name, name.lower()) or "bin"


def data_uri(data: bytes) -> str:
    """An image as a data URI for browsers; formats that browsers do not know are converted to PNG.

    Raises:
        ImageError: the image cannot be decoded.
    """
    mime = _BROWSERS_SHOW.get(image_format(data))
    if mime is None:
        buffer = io.BytesIO()
        decode_image(data).save(buffer, "PNG")
        data, mime = buffer.getvalue(), "image/png"
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _image_ending(sample: Sample) -> str:
    assert isinstance(sample, bytes)
    return file_ending(sample)


def _image_value(sample: Sample) -> str:
    assert isinstance(sample, bytes)
    return data_uri(sample)


# Modality -> how annotators see its samples.
SHOWN = {
    "image": Shown("Image", _image_value, _image_ending),
    "text": Shown("Text", str),
    "vector": Shown("Text", str, by_key=True),
}
