"""Samples as annotators see them: the table of modalities, image formats, and data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from coevo_ray.pool.image_formats import ImageError, open_image
from coevo_ray.pool.images import decode_image
from coevo_ray.pool.modality import Sample
from coevo_ray.pool.plain_texts import excerpt, harmless, utf_16_length

_ENDINGS = {"JPEG": "jpg", "TIFF": "tif", "MPO": "jpg", "JPEG2000": "jp2"}
_BROWSERS_SHOW = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}
# Characters of a text in a Label Studio task, and of one in a request table (as UTF-16, which spreadsheets count).
TASK_LENGTH, CELL_LENGTH = 20_000, 30_000


@dataclass(frozen=True)
class Shown:
    """The way annotators see samples of a modality.

    Attributes:
        tag: Label Studio's object tag.
        value: sample -> its value in a Label Studio task: a data URI, or a harmless text of at most `TASK_LENGTH`
            characters, which says how many it leaves out.
        file_ending: sample -> ending of its file in a file drop, without the dot; None for samples that stand in the
            request table itself.
        cell: sample -> what a request table of CSV has of it, and whether that is all; None for samples with files.
        by_key: people see the key alone, for samples that say nothing to them.
        explained: what Label Studio's page says above the sample, or "".
    """

    tag: str
    value: Callable[[Sample], str]
    file_ending: Callable[[Sample], str] | None = None
    cell: Callable[[Sample], tuple[str, bool]] | None = None
    by_key: bool = False
    explained: str = ""


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


def _text_value(sample: Sample) -> str:
    assert isinstance(sample, str)
    text = harmless(sample)
    begin = excerpt(text, TASK_LENGTH)
    return f"{begin.text}\n\n[the first {TASK_LENGTH:,} of {begin.length:,} characters]" if begin.cut else text


def _text_cell(sample: Sample) -> tuple[str, bool]:
    """A text as a cell that spreadsheets hold: Excel's ends after 32,767 characters, and the rest spoils other rows."""
    assert isinstance(sample, str)
    text = harmless(sample)
    if utf_16_length(text) <= CELL_LENGTH:
        return text, True
    return excerpt(text, CELL_LENGTH // 2).text, False  # a character is at most two of Excel's


# Modality -> how annotators see its samples.
SHOWN = {
    "image": Shown("Image", _image_value, _image_ending),
    "text": Shown("Text", _text_value, cell=_text_cell),
    "vector": Shown("Text", str, by_key=True, explained="A vector is known to you by its key:"),
}
