"""Text for cells of tables."""

from __future__ import annotations


def cell(text: str) -> str:
    """Prepares a text for a cell: on one line, without the marks that end one or begin a tag."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
