"""Prints the result of a command."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def show(result: dict[str, Any], as_json: bool) -> None:
    """Prints one JSON object, or a table of dotted keys."""
    if as_json:
        out = sys.__stdout__ or sys.stdout  # `main` keeps `sys.stdout` from what others print
        out.write(json.dumps(result) + "\n")
        out.flush()
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in _lines(result):
        table.add_row(key, value)
    Console().print(table)


def _lines(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested summary as lines of dotted keys; long lists (curves) are left to `--json` and the report."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _lines(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        if any(isinstance(item, dict) for item in value) and len(value) <= 8:
            return [line for i, item in enumerate(value) for line in _lines(item, f"{prefix}[{i}]")]
        return [(prefix, ", ".join(str(v) for v in value[:8]))] if len(value) <= 8 else []
    return [(prefix, f"{value:.4g}" if isinstance(value, float) else str(value))]
