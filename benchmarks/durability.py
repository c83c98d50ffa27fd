"""Durability: what leases, checksums and a look at every sample cost, beside other checkouts.

    python -m benchmarks.durability --json [--quick] [--rows N] [--tree CHECKOUT]...

Runs `coevo-ray ingest` on a folder of N small JPEG images, and appends records to a journal on the local disk; each
checkout (`--tree`; otherwise this one) in processes of its own, in turns.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import finish, note, parser, rows_of, spread, timed

_HERE = Path(__file__).resolve().parents[1]
FOLDER_FILES, SIDE, CLASSES = 1000, 32, 10
# Records and bytes of an array in each: labels of a round, and an epoch's subset of a million rows.
APPENDS = {"small": (2000, 1 << 10), "large": (100, 1 << 20)}
_QUICK_APPENDS = {"small": (50, 1 << 10), "large": (5, 1 << 20)}
_REPEATS = 3


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 100_000, 200)
    made.add_argument("--tree", action="append", type=Path, help="a checkout; may be given several times")
    arguments = made.parse_args()
    rows, trees = rows_of(arguments), [tree.resolve() for tree in arguments.tree or [_HERE]]
    repeats = 1 if arguments.quick else _REPEATS
    with tempfile.TemporaryDirectory(prefix="coevo-durability-") as folder:
        images = Path(folder) / "images"
        make_images(images, rows)
        work: dict[str, Callable[[Path, Path], float]] = {"ingest": partial(_ingest, images, rows)}
        for name, (count, size) in (_QUICK_APPENDS if arguments.quick else APPENDS).items():
            work[f"journal_{name}"] = partial(_append, count, size)
        found = {name: take_turns(trees, each, repeats, Path(folder) / name, name) for name, each in work.items()}
    tables = {str(i): {name: found[name][i] for name in found} for i in range(len(trees))}
    result: dict[str, Any] = {"rows": rows, "repeats": repeats, "trees": tables}
    if len(trees) == 2:
        result["ratio"] = {
            name: round(each[1]["seconds"]["median"] / each[0]["seconds"]["median"], 3) for name, each in found.items()
        }
    finish("durability", result, arguments.json)


def make_images(folder: Path, count: int) -> None:
    """JPEG images of noise, in folders of a thousand, which are their classes."""
    random = np.random.default_rng(0)
    for i in range(count):
        if i % FOLDER_FILES == 0:
            place = folder / f"class{i // FOLDER_FILES % CLASSES}" / f"{i // FOLDER_FILES:05d}"
            place.mkdir(parents=True)
        data = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(data, "JPEG")
        (place / f"{i:07d}.jpg").write_bytes(data.getvalue())


def take_turns(
    trees: list[Path], work: Callable[[Path, Path], float], repeats: int, out: Path, name: str
) -> list[dict[str, Any]]:
    """Seconds of some work on each checkout, in turns; the work gets a checkout and a new folder."""
    seconds: list[list[float]] = [[] for _ in trees]
    for turn in range(repeats):
        for i, tree in enumerate(trees):
            seconds[i].append(work(tree, out / f"{turn}-{i}"))
            note(f"{name}, turn {turn + 1} of {repeats}, {tree.name}: {seconds[i][-1]:.2f} s")
    return [{"seconds": spread(each)} for each in seconds]


def _ingest(images: Path, rows: int, tree: Path, out: Path) -> float:
    words = ["-m", "coevo_ray", "ingest", str(images), "--out", str(out), "--json"]
    done, seconds = timed(lambda: _run(tree, words))
    if f'"rows": {rows}' not in done:
        raise SystemExit(f"ingest of {tree} did not take all {rows} rows")
    return seconds


def _append(count: int, size: int, tree: Path, out: Path) -> float:
    script = Path(__file__).with_name("journal_appends.py")
    return float(_run(tree, [str(script), str(out), str(count), str(size)]))


def _run(tree: Path, words: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{words} of {tree} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
