"""Artifacts, tables and open gates in a notebook: a small HTML table of their figures."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_SHORT = 120  # characters of a value that are shown at once
_CELL = "text-align:left;vertical-align:top"


def shown(title: str, about: str, figures: Mapping[str, Any]) -> str:
    """Makes HTML of figures, for `_repr_html_`.

    Plain figures are lines of a table. Nested ones and long texts are folded: a click opens them. Everything is
    escaped, since names and texts come from the data.

    Args:
        title: what it is.
        about: where it is, or how large.
        figures: name -> JSON-able value; None and empty values are left out.
    """
    there = {name: value for name, value in figures.items() if value not in (None, "", [], {}, ())}
    rows = "".join(f"<tr><th style='{_CELL}'>{escape(name)}</th>{_value(value)}</tr>" for name, value in there.items())
    return f"<div><b>{escape(title)}</b> {escape(about)}<table>{rows}</table></div>"


def _value(value: Any) -> str:
    text = escape(_text(value))
    if isinstance(value, Mapping | list | tuple) or len(text) > _SHORT:
        head = f"{len(value)} entries" if isinstance(value, Mapping | list | tuple) else text[:_SHORT] + "..."
        text = f"<details><summary>{head}</summary><pre style='white-space:pre-wrap'>{text}</pre></details>"
    return f"<td style='{_CELL}'>{text}</td>"


def _text(value: Any) -> str:
    """A value as people read it: grouped digits, few decimals."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(_text(inner) for inner in value)
    return str(value)
