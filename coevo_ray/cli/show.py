"""Prints the result of a command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

_ALONE: list[TextIO] = []  # stdout, while it is kept for the result


@contextmanager
def stdout_for_the_result() -> Iterator[None]:
    """Sends to stderr what others print within the block: Ray tells of workers that died on stdout."""
    _ALONE.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _ALONE.pop()


def show(result: dict[str, Any], as_json: bool) -> None:
    """Prints one JSON object, or a table of dotted keys."""
    if as_json:
        out = _ALONE[-1] if _ALONE else sys.stdout
        out.write(json.dumps(result) + "\n")
        out.flush()
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in _lines(result):
        table.add_row(key, value)
    Console().print(table)


def show_lines(result: dict[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """Prints one JSON object, or a few lines for people."""
    if as_json:
        show(result, True)
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False)


def show_status(result: dict[str, Any]) -> None:
    """Prints what `status` tells: a line for each artifact, then writers and the error."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{result['folder']}: {result['state']}", markup=False)
    table = Table(box=None, pad_edge=False)
    for title in ("artifact", "state", "rows", "done", "rows/s", "last change, UTC"):
        table.add_column(title, no_wrap=True)
    for each in result["artifacts"]:
        share, rate = each.get("share"), each.get("rows_per_s")
        table.add_row(
            Text(each["artifact"]),
            each["state"],
            f"{each['rows']:,}" if each["rows"] else "",
            "" if share is None else f"{share:.0%}",
            "" if rate is None else f"{rate:,.0f}",
            (each.get("last_change") or each.get("created", ""))[:19].replace("T", " "),
        )
    console.print(table)
    for writer in sorted({each["writer"] for each in result["artifacts"] if each.get("writer")}):
        console.print(writer, markup=False)
    if result["error"] is not None:
        error = result["error"]
        console.print(f"last error, {error['time']}: {error['cause']}\nremedy: {error['remedy']}", markup=False)


def _lines(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested summary as lines of dotted keys; long lists (curves) are left to `--json` and the report."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _lines(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        if any(isinstance(item, dict) for item in value) and len(value) <= 8:
            return [line for i, item in enumerate(value) for line in _lines(item, f"{prefix}[{i}]")]
        return [(prefix, ", ".join(str(v) for v in value[:8]))] if len(value) <= 8 else []
    return [(prefix, f"{value:.4g}" if isinstance(value, float) else str(value))]
