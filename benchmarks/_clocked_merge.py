"""The merge with clocks.

Apart from `_clocked_encode`, so that the merge's workers import no PyTorch: without clocks they do not either.
"""

from __future__ import annotations

from typing import Any

from benchmarks._clock import clock
from coevo_ray.pipelines import merge as merge_module
from coevo_ray.store.artifact import FileEntry

_participants, _write_shard = merge_module._participants, merge_module._write_shard


def clocked_participants(*arguments: Any) -> Any:
    """Reads the shared rows of the contributions back and measures their uniformity."""
    with clock("uniformity"):
        return _participants(*arguments)


def clocked_write_shard(*arguments: Any) -> FileEntry:
    """The merge of one shard: contributions are read back, aligned and written as targets."""
    with clock("align_write"):
        return _write_shard(*arguments)


def install() -> None:
    """Puts them in place, in the driver; the workers are handed these functions."""
    for clocked in (clocked_participants, clocked_write_shard):
        setattr(merge_module, clocked.__name__.removeprefix("clocked"), clocked)
