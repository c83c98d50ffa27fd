"""Cells that spreadsheets would run: escaped in CSV files for people, and read back exactly.

Excel and LibreOffice run a cell that begins with = + - or @ (OWASP, CSV injection). An apostrophe before that character
stops them. It is also written behind a semicolon, tab or line break within a cell, with only spaces or quotes between:
a program that was set to another delimiter begins a new cell there. A cell that begins with a tab, a line break or a
NUL gets one in front. Where apostrophes stand there already, one more is written, so that one can be taken away again
from any cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# The full-width forms are run where the input language is Japanese or Chinese.
_RUN = "=+@\\-\uff1d\uff0b\uff20\uff0d"
_SIGN = re.compile(f"[{_RUN}]")
_BREAKS = "\t\r\n\0"
_TO_ESCAPE = f"[{_RUN}\\t\\r\\n\\x00]"
_CONTROL_FIRST = re.compile(f"'*[{_BREAKS}]")


def escaped(text: str) -> str:
    """A cell's text as it is written; `unescaped` gives the text back."""
    parts, last = [], 0
    for sign in _signs(text):
        parts += [text[last:sign], "'"]
        last = sign
    whole = "".join([*parts, text[last:]])
    return f"'{whole}" if _CONTROL_FIRST.match(whole) else whole


def unescaped(text: str) -> str:
    """The text of a cell that `escaped` wrote; cells without its apostrophes stay as they are."""
    if text.startswith("'") and _CONTROL_FIRST.match(text):
        text = text[1:]
    parts, last = [], 0
    for sign in _signs(text):
        if sign and text[sign - 1] == "'":
            parts.append(text[last : sign - 1])
            last = sign
    return "".join([*parts, text[last:]])


def _signs(text: str) -> list[int]:
    """Places of characters that begin a formula, wherever a program may begin a cell."""
    return [found.start() for found in _SIGN.finditer(text) if _begins_cell(text, found.start())]


def _begins_cell(text: str, place: int) -> bool:
    """True if only spaces, quotes and apostrophes are between a place and the beginning of a cell."""
    at = place
    while at and (text[at - 1] in "\"'" or text[at - 1].isspace()):
        at -= 1
        if text[at] in _BREAKS:
            return True
    return at == 0 or text[at - 1] in ";\0"


def escaped_table(table: pa.Table) -> pa.Table:
    """A table whose texts are escaped; other columns stay."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = pa.chunked_array(
                [_each(chunk, _TO_ESCAPE, escaped) for chunk in table.column(place).chunks], field.type
            )
            table = table.set_column(place, field, column)
    return table


def unescaped_texts(texts: pa.Array) -> pa.Array:
    """Texts as they were before they were escaped."""
    return _each(texts, "'", unescaped)


def _each(texts: pa.Array, pattern: str, change: Callable[[str], str]) -> pa.Array:
    """Changes the texts that match a pattern; null stays null."""
    places = np.flatnonzero(pc.fill_null(pc.match_substring_regex(texts, pattern), False))
    if not len(places):
        return texts
    mask = np.zeros(len(texts), dtype=bool)
    mask[places] = True
    changed = [change(text) for text in texts.take(pa.array(places)).to_pylist()]
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(changed, texts.type))
