"""Texts of people's files in messages: printable, and of bounded length."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST, _MOST = 80, 12


def quoted(text: str) -> str:
    """A text in quotes for a message: control characters are escaped, long ones cut with their length told."""
    if len(text) <= _LONGEST:
        return repr(text)
    return f"{text[:_LONGEST]!r}... ({len(text):,} characters)"


def listed(texts: Sequence[str]) -> str:
    """Texts in brackets, as Python writes a list; of many the first, and how many more there are."""
    more = len(texts) - _MOST
    return f"[{', '.join(map(quoted, texts[:_MOST]))}]{f' and {more:,} more' if more > 0 else ''}"


def printable(text: str) -> str:
    """A text without quotes for a message; control characters are escaped, long ones cut."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text[:_LONGEST])
    return shown if len(text) <= _LONGEST else f"{shown}..."
