"""Clocks: when each part of a run was worked on, in whichever process that was.

A clock costs one line in a file for each call, and its process an import of this small module.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

# Ray's workers inherit the environment of the driver that starts the session.
_FOLDER = "COEVO_BENCHMARK_TIMES"


@dataclass(frozen=True)
class Event:
    """One call.

    Attributes:
        part: which part of the work.
        start, end: seconds since 1970.
        cpu: CPU seconds of its process meanwhile, all threads.
    """

    part: str
    start: float
    end: float
    cpu: float


@contextmanager
def clock(part: str) -> Iterator[None]:
    """Notes when the block ran, if a run is being recorded."""
    start, cpu = time.time(), time.process_time()
    yield
    event = Event(part, start, time.time(), time.process_time() - cpu)
    folder = os.environ.get(_FOLDER)
    if folder:
        with (Path(folder) / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(event)) + "\n")


def record(folder: Path) -> None:
    """Lets the next Ray session of this process, and the workers it starts, note their events under `folder`."""
    folder.mkdir()
    os.environ[_FOLDER] = str(folder)


def events(folder: Path) -> list[Event]:
    """What was noted under `folder`."""
    return [Event(**json.loads(line)) for file in folder.iterdir() for line in file.read_text("utf-8").splitlines()]
