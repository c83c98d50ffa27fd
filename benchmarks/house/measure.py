"""Layout of the package, and start-up of its light commands.

    python -m benchmarks.house --json [--quick] [--tree CHECKOUT]...

With several checkouts (`--tree` once for each; the first default is this one) their figures stand side by side, and
their commands take turns. The gate whose status is asked for was made by version 0.1.0 (`tests/former`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import finish, note, parser, spread
from benchmarks.house.imports import circles, floor_plan, read_imports, with_one_importer
from benchmarks.house.sizes import measure_sizes

_HERE = Path(__file__).parents[2]
_FOLDERS = ("core", "pipelines", "training", "actors")
_REPEATS, _QUICK_REPEATS = 7, 1


def main() -> None:
    """Prints the result."""
    made = parser(__doc__.splitlines()[0], rows=1, quick_rows=1)
    made.add_argument("--tree", action="append", type=Path, help="a checkout; may be given several times")
    arguments = made.parse_args()
    trees = [tree.resolve() for tree in arguments.tree or [_HERE]]
    repeats = _QUICK_REPEATS if arguments.quick else _REPEATS
    with tempfile.TemporaryDirectory() as folder:
        starts = _measure_starts(trees, _unpacked_gate(Path(folder)), repeats)
    result = {str(i): {**_layout(tree), "start": starts[i]} for i, tree in enumerate(trees)}
    finish("house", {"repeats": repeats, "trees": result}, arguments.json)


def _layout(tree: Path) -> dict[str, Any]:
    graph = read_imports(tree)
    single = with_one_importer(graph)
    return {
        "floor_plans": {name: floor_plan(graph, f"coevo_ray.{name}") for name in _FOLDERS},
        "circles": circles(graph),
        "files_with_one_importer": len(single),
        "sizes": measure_sizes(tree),
    }


def _unpacked_gate(folder: Path) -> Path:
    with tarfile.open(_HERE / "tests/former/0.1.0.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    file = folder / "gate" / "gate.json"
    file.write_text(file.read_text().replace("/tmp/former", str(folder)))
    return folder / "gate"


def _measure_starts(trees: list[Path], gate: Path, repeats: int) -> list[dict[str, Any]]:
    commands = {
        "help": ["--help"],
        "gate_status": ["gate", "status", "--gate", str(gate), "--json"],
        "plan": ["plan", "--rows", "1000", "--policy", "rotation", "--json"],
    }
    found: list[dict[str, Any]] = [{} for _ in trees]
    for name, words in commands.items():
        measured: list[list[tuple[float, int]]] = [[] for _ in trees]
        for turn in range(repeats + 1):
            for i, tree in enumerate(trees):
                figures = _start(tree, words)
                if turn:  # the first one fills the caches
                    measured[i].append(figures)
            note(f"{name}: turn {turn} of {repeats}")
        for i, figures_of_tree in enumerate(measured):
            seconds, peaks = zip(*figures_of_tree, strict=True)
            found[i][name] = {"seconds": spread(seconds), "peak_megabytes": round(max(peaks) / 1e6, 1)}
    return found


def _start(tree: Path, words: list[str]) -> tuple[float, int]:
    """Wall-clock seconds and peak resident bytes of a command, interpreter and all."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "coevo_ray", *words], cwd=tree, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{words} of {tree} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024
