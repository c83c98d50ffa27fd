"""From a folder to the first requests for labels: seconds of `coevo-ray start DATA --go` in a process of its own.

    python -m benchmarks.start --json --data FOLDER [--quick]

Three pools, written as people have them: 2 000 and 10 000 images of 64 pixels in one folder without labels (from
Tiny-ImageNet's Parquet below FOLDER), and 10 000 texts as Parquet (from banking77's, repeated with a number each where
they are too few). What a stage says of its own time is its seconds; `other` is the rest: starts, imports, the look.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import busiest, finish, in_child, note, parser

_STAGE = re.compile(r"^(?P<stage>.+): [\d,]+ \w+ in (?P<seconds>[\d.]+) s$")
# Pool -> rows, and the target in seconds on two cores; None where none was set.
_POOLS: dict[str, tuple[int, float | None]] = {
    "images_2000": (2_000, 120.0),
    "images_10000": (10_000, 300.0),
    "texts_10000": (10_000, None),
}
_QUICK_ROWS = 300


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 0, 0)
    made.add_argument("--data", required=True, help="folder of the battery's pools")
    arguments = made.parse_args()
    found, children = {}, []
    for name, (rows, target) in _POOLS.items():
        rows = _QUICK_ROWS if arguments.quick else rows
        with tempfile.TemporaryDirectory(prefix="coevo-start-") as work:
            write_data(name, Path(arguments.data), rows, Path(work))
            note(f"{name}: {rows:,} rows")
            child = in_child(run, work)
        children.append(child)
        found[name] = {"rows": rows, "target_s": target, **child.result}
    finish("start", {"commands": 1, "pools": found, "repeats": 1, "busy_before": busiest(children)}, arguments.json)


def write_data(name: str, data: Path, rows: int, work: Path) -> None:
    """Writes a pool below `work`: `data/`."""
    (work / "data").mkdir()
    if name.startswith("images"):
        for index, cell in enumerate(_cells(data / "tiny_imagenet", "image", rows)):
            (work / "data" / f"{index:06d}.jpg").write_bytes(cell["bytes"] if isinstance(cell, dict) else cell)
        return
    texts = [f"{index}: {text}" for index, text in enumerate(_cells(data / "banking77", "text", rows))]
    pq.write_table(pa.table({"text": texts}), work / "data" / "texts.parquet")


def _cells(pool: Path, column: str, rows: int) -> Iterator[Any]:
    """So many cells of a pool's training files, from the first again where they are too few."""
    files, left = sorted(pool.glob("train*.parquet")), rows
    while left:
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(1024, columns=[column]):
                cells = batch.column(0).to_pylist()[:left]
                yield from cells
                left -= len(cells)


def run(work: str) -> dict[str, Any]:
    """Runs the command in `work`; returns its seconds, by stage, and what it found."""
    command = [sys.executable, "-m", "coevo_ray", "start", "data", "--classes", "yes,no,other", "--go", "--json"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout)
    stages = {
        match["stage"]: float(match["seconds"]) for line in done.stderr.splitlines() if (match := _STAGE.match(line))
    }
    return {
        "seconds": round(seconds, 1),
        "estimate_s": told["estimate_s"],
        "requested": told["requests"]["requested"],
        "stages": stages,
        "other": round(seconds - sum(stages.values()), 1),
    }


if __name__ == "__main__":
    main()
