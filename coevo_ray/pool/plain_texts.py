"""Texts of a pool as people see them: without characters that do harm on a screen, and of bounded length."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Overrides of direction show text in another order than it has ("exe.txt" for "txt.exe"); other marks of direction are
# what Hebrew and Arabic need.
_OVERRIDES = "\u202d\u202e"
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_SHOWN_AS: dict[int, str | int | None] = {
    **_PICTURES,
    **dict.fromkeys([*range(0x80, 0xA0), *map(ord, _OVERRIDES), *range(0xD800, 0xE000)], _REPLACEMENT),
    **dict.fromkeys([0x2028, 0x2029], "\n"),
}
_LINE_ENDS = re.compile("\r\n|\r|\x85")
_LAST_WORD = re.compile(r"\s+\S*\Z")
_LONGEST_WORD = 40  # characters; of a longer one a part stays
# Characters that belong to the one before them, beside combining marks.
_JOINER = "\N{ZERO WIDTH JOINER}"
_WITH_FORMER = {_JOINER, *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0x1F3FB, 0x1F400))}


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a text.

    Attributes:
        text: what is shown; ends with an ellipsis where it was cut.
        cut: whether there is more.
        length: characters of the whole text.
    """

    text: str
    cut: bool
    length: int


def harmless(text: str) -> str:
    """A text that shows what it has: control characters as pictures, any line end as a line feed.

    C0 characters become Unicode's control pictures; C1 characters, overrides of direction and lone surrogates U+FFFD.
    Tabs stay, and so does everything that a script needs. A NUL would end a text for databases and spreadsheets.
    """
    return _LINE_ENDS.sub("\n", text).translate(_SHOWN_AS)


def is_blank(text: str) -> bool:
    """True for a text without a visible character: of spaces and marks without width alone."""
    return not any(unicodedata.category(character)[0] in "LMNPS" for character in text)


def excerpt(text: str, length: int) -> Excerpt:
    """The beginning of a harmless text, at most `length` characters and an ellipsis.

    It ends behind a word, or within one that is longer than 40 characters (or of a script that has no spaces); never
    between a letter and its marks.
    """
    if len(text) <= length:
        return Excerpt(text, False, len(text))
    head = text[:length]
    if not text[length].isspace():
        last = _LAST_WORD.search(head, max(0, length - _LONGEST_WORD - 1))
        head = text[: last.start()] if last is not None and last.start() else text[: _between(text, length)]
    return Excerpt(head.rstrip() + ELLIPSIS, True, len(text))


def _between(text: str, place: int) -> int:
    """The last place up to `place` that is not within a letter with its marks, or an emoji with its parts."""
    for cut in range(place, max(0, place - _LONGEST_WORD), -1):
        before, behind = text[cut - 1], text[cut]
        if not (unicodedata.combining(behind) or behind in _WITH_FORMER or before == _JOINER):
            return cut
    return place


def utf_16_length(text: str) -> int:
    """Characters as spreadsheets and browsers count them: those beyond the first plane are two."""
    return len(text) + sum(character > "\uffff" for character in text)
