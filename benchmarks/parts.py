"""Finished parts of a long benchmark, so that the same command goes on where it was stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import in_child, note


class Parts:
    """Finished parts of a run, kept as JSON.

    Args:
        folder: where.
        deadline: `time.monotonic()` after which no part is begun, or None.
    """

    def __init__(self, folder: Path, deadline: float | None) -> None:
        self._folder, self._deadline = folder, deadline
        self.busy: list[float] = []
        self.left_out: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, settings: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a part, from its file or from a child process; None when time is up.

        Args:
            name: of the part and its file.
            settings: what it depends on; a file of other settings is not used.
            function, arguments: see `in_child`.
        """
        file, settings = self._folder / f"{name}.json", json.loads(json.dumps(settings))
        kept = json.loads(file.read_text()) if file.is_file() else {}
        if kept.get("settings") != settings:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self.left_out.append(name)
                return None
            note(f"{name} ...")
            child = in_child(function, *arguments)
            kept = {"settings": settings, "result": child.result, "busy_before": child.busy_before}
            file.write_text(json.dumps(kept))
        self.busy.append(kept["busy_before"])
        return kept["result"]
