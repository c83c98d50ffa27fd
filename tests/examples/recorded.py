"""Runs an example and notes the rows of each batch that its loader hands out; can die at one of them.

python -m tests.examples.recorded LOG DIES_AT SCRIPT ARGUMENTS...: DIES_AT batches are handed out; 0 for all.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from coevo_ray.training.feed.batch import Batch
from coevo_ray.training.feed.exchange import place_among_processes
from coevo_ray.training.feed.loader import FeedLoader


def main(log: str, dies_at: int, script: str, *arguments: str) -> None:
    """Runs the script as `python SCRIPT` would."""
    formed, handed_out = FeedLoader._formed, 0

    def noted(loader: FeedLoader, batch: Batch) -> Any:
        nonlocal handed_out
        rank, world = place_among_processes()
        handed_out += 1
        if handed_out == dies_at:
            os._exit(9)
        rows = batch.row_ids[batch.weights.numpy() > 0].tolist()
        record = {"epoch": loader.position[0], "offset": batch.offset, "world": world, "rows": rows}
        with Path(f"{log}.{rank}").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return formed(loader, batch)

    FeedLoader._formed = noted  # type: ignore[assignment,method-assign]  # the example is to run as it is
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
