"""Numbers as a reader sees them: formats, comparisons, and what is said when a number is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "not measured"
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"


def finite(value: object) -> float | None:
    """The value as a float, or None where it is no finite number (None, NaN, infinity, text, a bool)."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value) if not isinstance(value, str) and hasattr(value, "__float__") else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def lookup(summary: Mapping[str, Any], *path: str) -> Any:
    """The entry at a path of keys, or None where any of them is missing."""
    entry: Any = summary
    for key in path:
        if not isinstance(entry, Mapping):
            return None
        entry = entry.get(key)
    return entry


def number(summary: Mapping[str, Any], *path: str) -> float | None:
    """The finite number at a path of keys, or None."""
    return finite(lookup(summary, *path))


def integer(value: float | None) -> str:
    """1797 -> "1,797"."""
    return MISSING if value is None else f"{round(value):,}".replace("-", _MINUS)


def decimal(value: float | None, digits: int = 2) -> str:
    """-2.314 -> "-2.31" with a real minus sign; never a negative zero."""
    if value is None:
        return MISSING
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", _MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """0.912 -> "91.2 %"."""
    return MISSING if value is None else f"{decimal(value * 100, digits)}{_SPACE}%"


def duration(seconds: float | None) -> str:
    """4.21 -> "4.2 s", 192 -> "3 min 12 s", 3900 -> "1 h 5 min"."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{decimal(seconds, 1)}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    return f"{minutes // 60:,}{_SPACE}h {minutes % 60}{_SPACE}min"


def count(value: float | None, noun: str) -> str:
    """1 -> "1 row", 2 -> "2 rows"; the plural is formed with s."""
    return f"{integer(value)} {noun}" if value is not None and round(value) == 1 else f"{integer(value)} {noun}s"


def points(value: float, digits: int = 1) -> str:
    """A difference of two shares, without sign: 0.012 -> "1.2 points"."""
    text = decimal(abs(value) * 100, digits)
    return f"{text} point" if text == "1.0" else f"{text} points"


def against(value: float, other: float) -> str:
    """Compares a share with another: "1.2 points higher than", "0.8 points lower than" or "the same as"."""
    difference = value - other
    if decimal(difference * 100, 1) == "0.0":
        return "the same as"
    return f"{points(difference)} {'higher' if difference > 0 else 'lower'} than"


def chance(rows: float | None, accuracy: float | None) -> str | None:
    """The difference of two accuracies on `rows` test rows that chance alone may make, as a sentence.

    Two standard errors of the difference of two binomial shares, taken as independent (a little too wide where both
    models are measured on the same rows).
    """
    if rows is None or rows < 1 or accuracy is None or not 0 <= accuracy <= 1:
        return None
    share = min(max(accuracy, 1 / (rows + 2)), 1 - 1 / (rows + 2))
    width = 2 * math.sqrt(2 * share * (1 - share) / rows)
    return f"On {count(rows, 'test row')}, differences below about {points(width)} may be chance."


def listing(parts: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def shorten(text: str, length: int) -> str:
    """The text, its middle left out where it is longer than `length` characters."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (length - 1 - head) :]}"
