"""Rows of a pool as small pictures or texts that live inside an HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from coevo_ray.core.arrays import Int64Array
from coevo_ray.pool.images import ImageError, decode_image
from coevo_ray.pool.modality import Sample, by_modality
from coevo_ray.pool.plain_texts import excerpt, harmless, is_blank
from coevo_ray.pool.pool import Pool

_SIDE = 144  # pixels of a picture's longer side; a tile is half as wide, for screens of double density
_LOSSLESS = 48  # pictures up to this size stay as they are: JPEG would blur them
_TEXT_LENGTH, _WHOLE_LENGTH = 320, 4_000  # characters of a text, and of what unfolds below it
_READ_ROWS = 256


@dataclass(frozen=True)
class Tile:
    """A row as it is shown: a picture, or a text (also where a picture cannot be read).

    Attributes:
        key: the user's own id.
        text: a text or its beginning, or None.
        picture: a data URI, or empty.
        size: its width and height in pixels.
        whole: the text of which only the beginning is shown, as far as pages have it; else empty.
        left_out: its characters that not even `whole` has.
        said: whether the text is not the row's own, but said of it.
    """

    key: str
    text: str | None = None
    picture: str = ""
    size: tuple[int, int] = (0, 0)
    whole: str = ""
    left_out: int = 0
    said: bool = False


def tiles_of(pool: Pool, row_ids: Int64Array) -> Iterator[tuple[int, Tile]]:
    """The tile of each row; a few hundred are read at a time.

    Args:
        pool: has the rows.
        row_ids: int64[n], increasing.

    Raises:
        UsageError: the report does not support the pool's modality.
    """
    make = showing_of(pool.modality).tile
    for first in range(0, len(row_ids), _READ_ROWS):
        table = pool.read(row_ids[first : first + _READ_ROWS], [pool.modality, "key"])
        samples, keys = table.column(pool.modality), table.column("key").to_pylist()
        for row, key, sample in zip(table.column("row_id").to_pylist(), keys, samples, strict=True):
            yield row, make(key, sample.as_py())


def _text_tile(key: str, sample: Sample) -> Tile:
    assert isinstance(sample, str)
    return trimmed_text(key, sample)


def trimmed_text(key: str, text: str) -> Tile:
    """A text as pages show it: its beginning, and of a long one up to 4,000 characters to unfold."""
    if is_blank(text):
        return Tile(key, text="empty text" if not text.strip() else "no visible characters", said=True)
    text = harmless(text)
    begin, whole = excerpt(text, _TEXT_LENGTH), excerpt(text, _WHOLE_LENGTH)
    if not begin.cut:
        return Tile(key, text=text)
    left_out = len(text) - len(whole.text) + 1 if whole.cut else 0
    return Tile(key, text=begin.text, whole=whole.text, left_out=left_out)


def _vector_tile(key: str, sample: Sample) -> Tile:
    return trimmed_text(key, key)  # its numbers say nothing to people


def _image_tile(key: str, sample: Sample) -> Tile:
    assert isinstance(sample, bytes)
    try:
        return small_picture(key, sample)
    except ImageError as error:
        return Tile(key, text=f"not readable: {error.reason}", said=True)


def small_picture(key: str, data: bytes) -> Tile:
    """An image, made small and encoded again as a data URI.

    Raises:
        ImageError: it cannot be decoded.
    """
    image = decode_image(data)
    image.thumbnail((_SIDE, _SIDE))
    kind = "PNG" if max(image.size) <= _LOSSLESS else "JPEG"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 82}))
    content = base64.b64encode(buffer.getvalue()).decode()
    return Tile(key, picture=f"data:image/{kind.lower()};base64,{content}", size=image.size)


@dataclass(frozen=True)
class Showing:
    """The way pages show samples of a modality.

    Attributes:
        tile: (key, sample) -> tile.
        as_grid: a grid of pictures, or a list of texts.
        value_place: where the factor sheet puts a factor's value.
        hint: how to see more of a row.
    """

    tile: Callable[[str, Sample], Tile]
    as_grid: bool
    value_place: str
    hint: str


_POINT = "Hover over a row to see its key."
_SHOWINGS = {
    "image": Showing(_image_tile, as_grid=True, value_place="Below each image", hint=_POINT),
    "text": Showing(
        _text_tile, as_grid=False, value_place="Before each text", hint=f"{_POINT} Long texts unfold where they end."
    ),
    "vector": Showing(
        _vector_tile, as_grid=False, value_place="Before each key", hint="Rows of vectors are shown by their keys."
    ),
}


def showing_of(modality: str) -> Showing:
    """The way pages show samples of a modality.

    Raises:
        UsageError: they do not support it.
    """
    return by_modality(_SHOWINGS, modality, "the report")
