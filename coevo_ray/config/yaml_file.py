"""YAML of settings: bounded in depth and number of values, whatever a file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_MOST_BYTES = 10_000_000
_MOST_DEPTH = 64
_MOST_VALUES = 1_000_000  # with aliases written out, by which a few lines may stand for billions


def load_yaml(path: Path) -> object:
    """Reads a YAML file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8 or not YAML, or it is nested too deeply or too large.
        yaml.YAMLError: it is not YAML; with the line.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes, need {_MOST_BYTES} or fewer")
    # The loader makes plain values alone, as SafeLoader does.
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    if _count(content, 0) > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES} values, aliases written out")
    return content


class _Loader(yaml.SafeLoader):
    """Refuses deep nesting before it costs anything, and values that contain themselves."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._open: set[str] = set()

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As in PyYAML, with both checks."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs
        anchor: str | None = getattr(event, "anchor", None)
        alias = isinstance(event, yaml.AliasEvent)
        mark: yaml.error.Mark = event.start_mark
        if alias:
            if anchor in self._open:
                raise yaml.composer.ComposerError(None, None, f"{anchor!r} contains itself", mark)
            return super().compose_node(parent, index)
        if self._depth >= _MOST_DEPTH:
            problem = f"nested more than {_MOST_DEPTH} levels deep"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        self._depth += 1
        opened = {anchor} - self._open if anchor is not None else set[str]()
        self._open |= opened
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1
            self._open -= opened


def _count(value: object, seen: int) -> int:
    """Number of values, with aliases written out; stops a little above the limit."""
    seen += 1
    if seen > _MOST_VALUES or not isinstance(value, dict | list):
        return seen
    for item in value.values() if isinstance(value, dict) else value:
        seen = _count(item, seen)
        if seen > _MOST_VALUES:
            break
    return seen
