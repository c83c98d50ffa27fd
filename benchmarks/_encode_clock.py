"""Clocks inside the encode stage: when each part of it ran, in whichever process it did.

Importing this module puts a clock around some functions of the package. Ray's workers import it because the driver
hands them the classes below instead of the package's own; those do the same work. A clock costs one line in a file
for each call, a few per shard and batch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coevo_ray.pipelines import encode as encode_module
from coevo_ray.pipelines import merge as merge_module
from coevo_ray.pipelines.encode import Decode, EncodeShard
from coevo_ray.store.artifact import FileEntry

# Ray's workers inherit the environment of the driver that starts the session.
_FOLDER = "COEVO_BENCHMARK_TIMES"
# Part -> where the package looks the function up.
_CLOCKED = (
    ("forward", encode_module, "encode_batch"),
    ("project", encode_module, "project"),
    ("write", encode_module, "write_table"),
    # The shared rows of the contribution are read back for it.
    ("uniformity", merge_module, "_participants"),
)


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


class ClockedDecode(Decode):
    """`Decode` with a clock."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """See `Decode`."""
        with clock("read_decode"):
            return super().__call__(batch)


class ClockedEncodeShard(EncodeShard):
    """`EncodeShard` with a clock."""

    def __init__(self, *arguments: Any) -> None:
        with clock("load_model"):
            super().__init__(*arguments)


_write_shard = merge_module._write_shard


def clocked_write_shard(*arguments: Any) -> FileEntry:
    """The merge of one shard, with a clock: contributions are read back, aligned and written as targets."""
    with clock("align_write"):
        return _write_shard(*arguments)


def record(folder: Path) -> None:
    """Lets the next encode of this process, and the workers it starts, note their events under `folder`."""
    folder.mkdir()
    os.environ[_FOLDER] = str(folder)


def events(folder: Path) -> list[Event]:
    """What was noted under `folder`."""
    return [Event(**json.loads(line)) for file in folder.iterdir() for line in file.read_text("utf-8").splitlines()]


def _clocked(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        with clock(part):
            return function(*arguments, **options)

    return call


def _install() -> None:
    for part, module, name in _CLOCKED:
        setattr(module, name, _clocked(part, getattr(module, name)))
    for module, name, clocked in (
        (encode_module, "Decode", ClockedDecode),
        (encode_module, "EncodeShard", ClockedEncodeShard),
        (merge_module, "_write_shard", clocked_write_shard),
    ):
        setattr(module, name, clocked)


_install()
