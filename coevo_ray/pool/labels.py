"""Labels as sources write them: whole numbers of any type, texts (names of classes), and the ways to say "none".

Whether texts are numbers or names shows only when all of a source have been seen: `"3"` is class 3 among numbers and a
name beside `"cat"`. The first pass of ingest therefore reads with `names` empty and collects texts; the second knows.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from typing import NamedTuple

UNLABELLED = -1  # the custom of scikit-learn and Hugging Face
_NO_LABEL = {"", "nan", "<na>", "null"}
_WHOLE = re.compile(r"[+-]?[0-9]+([.]0*)?")
_SHOWN = 40
_BITS = "need 64 bits or fewer"


class Label(NamedTuple):
    """One label.

    Attributes:
        number: of its class; None without one, and for a text whose number is not known yet.
        text: as the source has it, where it is a text.
        error: why it cannot be used, or "".
    """

    number: int | None
    text: str = ""
    error: str = ""


class LabelReader:
    """Reads the labels of one source.

    Args:
        names: names of its classes in its own numbering, or empty.
        recode: its label -> the pool's, if classes are numbered differently; else empty.
        by_name: whether texts are names even where they look like numbers.
    """

    def __init__(self, names: tuple[str, ...] = (), recode: tuple[int, ...] = (), by_name: bool = False) -> None:
        self._names, self._recode, self._by_name = names, recode, by_name
        self._numbers = {name: i for i, name in enumerate(names)}

    def read(self, value: object) -> Label:
        """A label as the pool numbers it.

        Args:
            value: whole number (also as float, decimal, bool or text), name, a list of one of these, or None.
        """
        value = _unwrapped(value)
        if isinstance(value, bytes):
            return Label(None, error=f"label is {len(value)} bytes that are no text")
        if not isinstance(value, str):
            number, error = whole_number(value)
            return self._known(number, "", error)
        text = unicodedata.normalize("NFC", value.strip())
        if text in self._numbers:
            return self._known(self._numbers[text], text, "")
        if text.lower() in _NO_LABEL:
            return Label(None)
        if self._by_name or not is_whole(text):
            error = f"label is no class of the source: {text[:_SHOWN]!r}" if self._names else ""
            return Label(None, text, error)
        number, error = whole_number(int(text.partition(".")[0]))
        return self._known(number, text, error)

    def _known(self, number: int | None, text: str, error: str) -> Label:
        if number is None or error or number == UNLABELLED:
            return Label(None, text, error)
        if not self._names:
            return Label(number, text)
        if not 0 <= number < len(self._names):
            return Label(None, text, f"label outside the range: {number}, need 0..{len(self._names) - 1}")
        return Label(self._recode[number] if self._recode else number, text)


def is_whole(text: str) -> bool:
    """Tests whether a text is a whole number, such as `3`, `-1` or `3.0`."""
    return _WHOLE.fullmatch(text) is not None and len(text) < _SHOWN


def whole_number(value: object) -> tuple[int | None, str]:
    """A number as int64, or None, and what is wrong with it, or ""."""
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return None, ""
    if not isinstance(value, int | float | Decimal) or value in (math.inf, -math.inf) or value != int(value):
        return None, f"label is not a whole number: {_shown(value)}"
    if not -(2**63) <= value < 2**63:
        return None, f"label outside the range: {_shown(value)}, {_BITS}"
    return int(value), ""


def _unwrapped(value: object) -> object:
    """The one element of a list of one; bytes of a text as that."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
