"""Lines on stderr: for people, or with `COEVO_RAY_LOG_FORMAT=json` one JSON object each. stdout is left to results."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from coevo_ray.errors import UsageError
from coevo_ray.telemetry import run_name, stage_name

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler  # Python 3.10 knows no parameter of it

LOG_FORMAT = "COEVO_RAY_LOG_FORMAT"  # environment variable: text or json
_NAME = "coevo_ray"


def say(text: str, *, level: int = logging.INFO, **counters: object) -> None:
    """Writes a line.

    Args:
        text: for people.
        level: of Python's logging; a warning's text begins with it.
        counters: numbers and names beside the text, in JSON alone.
    """
    if not is_json():
        # A new console each time: stderr may have been replaced since (tests, notebooks).
        start = f"{logging.getLevelName(level).lower()}: " if level >= logging.WARNING else ""
        Console(file=sys.stderr, highlight=False, soft_wrap=True).print(start + text, markup=False)
        return
    logger = logging.getLogger(_NAME)
    if not logger.handlers:  # a worker, or a program that never called `json_lines`
        logger.addHandler(_handler())
        logger.setLevel(logging.INFO)
        logger.propagate = False
    logger.log(level, text, extra=counters)


def is_json() -> bool:
    """Tests whether lines are JSON objects."""
    return os.environ.get(LOG_FORMAT, "").strip().lower() == "json"


def check_log_format() -> None:
    """Refuses a format that is none.

    Raises:
        UsageError: it is neither text nor json.
    """
    given = os.environ.get(LOG_FORMAT, "").strip()
    if given.lower() not in ("", "text", "json"):
        raise UsageError(f"the log format is {given!r}", f"give text or json, by --log-format or {LOG_FORMAT}")


@contextmanager
def json_lines() -> Iterator[None]:
    """Makes JSON objects of the lines of all loggers, of warnings, and of an error that ends the process."""
    root, hook = logging.getLogger(), sys.excepthook
    before, level = list(root.handlers), root.level
    root.handlers[:] = [_handler()]
    root.setLevel(logging.WARNING)
    logging.getLogger(_NAME).setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, trace: root.critical(
        f"{kind.__name__}: {error}", exc_info=(kind, error, trace)
    )
    try:
        yield
    finally:
        sys.excepthook = hook
        logging.captureWarnings(False)
        root.handlers[:] = before
        root.setLevel(level)


def _handler() -> logging.Handler:
    from pythonjsonlogger.json import JsonFormatter

    handler = _Stderr()
    formatter = JsonFormatter(
        ["levelname", "run", "stage", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        json_ensure_ascii=False,
    )
    handler.setFormatter(formatter)
    handler.addFilter(_named)
    return handler


class _Stderr(_StreamHandler):
    """Writes to what stderr is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def _named(record: logging.LogRecord) -> bool:
    """Adds run and stage."""
    record.run, record.stage = run_name(), stage_name()
    return True
