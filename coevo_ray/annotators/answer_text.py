"""The text of a label file: encodings."""

from __future__ import annotations

import codecs

from coevo_ray.annotators.answer_columns import SAVE_AS
from coevo_ray.errors import InputError
from coevo_ray.store.location import Location

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def as_utf_8(location: Location, data: bytes) -> bytes:
    """A text's bytes as UTF-8, without a byte order mark.

    No encoding is guessed: a wrong guess would make wrong names of them.

    Args:
        location: names the file in messages.
        data: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Raises:
        InputError: the text is in another encoding.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decoded(location, data, encoding).encode()
    if b"\0" in data[:2]:
        raise InputError(f"{location} is not UTF-8 text: UTF-16 or UTF-32 without a byte order mark", SAVE_AS)
    if data.startswith(codecs.BOM_UTF8):
        data = data[len(codecs.BOM_UTF8) :]
    _decoded(location, data, "UTF-8")
    return data


def _decoded(location: Location, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = 1 + before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n")
        place = f"line {line} has" if encoding == "UTF-8" else "it has"
        found = f"{place} the byte 0x{data[error.start]:02x}, {error.reason}"
        other = "; it may be Latin-1 or Windows-1252" if encoding == "UTF-8" else ""
        raise InputError(f"{location} is not {encoding} text: {found}{other}", SAVE_AS) from error
