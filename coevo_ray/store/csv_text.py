"""Rows as CSV text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_END = "\r\n"


class _LineFeeds(io.StringIO):
    """Takes whole rows, and ends them with a line feed alone."""

    def write(self, row: str) -> int:
        return super().write(row.removesuffix(_END) + "\n")


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV, the first usually of names; lines end with a line feed.

    Args:
        rows: their values are written as text, None as nothing; a NUL as U+FFFD, for Python 3.10 writes none.
    """
    text = _LineFeeds(newline="")
    # The writer quotes a value for the characters of its own line end alone: a carriage return would cut a row in two.
    csv.writer(text, lineterminator=_END).writerows(map(_without_nul, rows))
    return text.getvalue()


def _without_nul(row: Sequence[object]) -> list[object]:
    return [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row]
