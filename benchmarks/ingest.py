"""Ingest: what the driver holds per row, and how fast it lists and compares.

    python -m benchmarks.ingest --json [--quick] [--rows N]

A listing of N empty files in folders of a thousand is made and gone through by the code that runs on the driver
between the passes: listing, the parts that travel to tasks, duplicates by key (or also by content), splits. What tasks
do (reading, decoding, writing) is left out; they send hashes, which are made here.
"""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.common import busiest, finish, in_child, note, parser, peak_bytes, rows_of, timed

FOLDER_FILES = 1000
SHARD_ROWS = 4096


def main() -> None:
    """Runs the benchmark."""
    arguments = parser(__doc__.split("\n")[0], 2_000_000, 100_000).parse_args()
    rows = rows_of(arguments)
    by_mode = {}
    with tempfile.TemporaryDirectory(prefix="coevo-ingest-") as folder:
        _, seconds = timed(lambda: _make(Path(folder), rows))
        note(f"{rows:,} files made in {seconds:.1f} s")
        children = {mode: in_child(measure, folder, rows, mode) for mode in ("key", "content")}
    for mode, child in children.items():
        by_mode[mode] = child.result
        note(f"reject_duplicates {mode}: {child.result['peak_bytes_per_row']} bytes per row at most")
    result = {
        "rows": rows,
        "repeats": 1,
        "folder_files": FOLDER_FILES,
        "peak_bytes_per_row": by_mode["key"]["peak_bytes_per_row"],
        "by_mode": by_mode,
        "busy_before": busiest(children.values()),
    }
    finish("ingest", result, arguments.json)


def _make(folder: Path, rows: int) -> None:
    for start in range(0, rows, FOLDER_FILES):
        place = folder / f"n{start:08d}"
        place.mkdir()
        for i in range(start, min(rows, start + FOLDER_FILES)):
            (place / f"n{start:08d}_{i:010d}.JPEG").touch()


def measure(folder: str, rows: int, mode: Literal["key", "content"]) -> dict[str, Any]:
    """Goes through the driver's part in this process.

    Returns:
        Seconds of each step; `peak_bytes_per_row` in all and up to the end of each step, over the process with its
        libraries loaded; `names_bytes_per_row`: the packed listing.
    """
    from coevo_ray.config import PoolConfig, Source
    from coevo_ray.pipelines.ingest.append import Earlier
    from coevo_ray.pipelines.ingest.duplicates import reject_duplicates
    from coevo_ray.pipelines.ingest.ingest import _rows
    from coevo_ray.pipelines.ingest.passes import Checked, EarlierHashes
    from coevo_ray.pool.duplicates import hash_all
    from coevo_ray.pool.sources import list_source, read_keys
    from coevo_ray.store.location import Location

    config = PoolConfig(sources=(Source(uri=folder),), shard_rows=SHARD_ROWS, reject_duplicates=mode)
    idle = peak_bytes()
    peaks, seconds = {}, {}

    def step(name: str, work: Any) -> Any:
        result, taken = timed(work)
        seconds[name] = round(taken, 3)
        peaks[name] = round((peak_bytes() - idle) / rows, 1)
        return result

    shards = step("list", lambda: list_source(config.sources[0], SHARD_ROWS).shards)
    step("parts", lambda: [pickle.dumps(shard) for shard in shards])
    names = sum(len(shard.names) for shard in shards)

    def receive() -> list[Checked]:
        found = []
        for i, shard in enumerate(shards):
            keys = hash_all(key.encode() for key in read_keys(shard))
            contents = keys[:, ::-1].copy() if mode == "content" else keys[:0].copy()
            found.append(Checked(i, np.ones(len(keys), dtype=bool), keys, contents, []))
        return found

    checked = step("receive_hashes", receive)
    if step("duplicates", lambda: reject_duplicates(config, Location(folder), EarlierHashes([], []), shards, checked)):
        raise RuntimeError("duplicates were found among distinct names")
    parts = step("splits", lambda: _rows(config, shards, checked, Earlier()))
    step("write_parts", lambda: [pickle.dumps((shards[i], part)) for i, part in parts.items()])
    if sum(len(part.splits) for part in parts.values()) != rows:
        raise RuntimeError("rows were lost")
    return {
        "seconds": seconds,
        "peak_bytes_per_row": max(peaks.values()),
        "peak_bytes_per_row_up_to": peaks,
        "names_bytes_per_row": round(names / rows, 2),
    }


if __name__ == "__main__":
    main()
