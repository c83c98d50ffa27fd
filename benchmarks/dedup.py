"""Dedup: seconds and memory of the whole command, and the planted copies that it finds.

    python -m benchmarks.dedup --json [--quick] [--rows N]

Rows are points of moderate dimension behind a random network, as for the gate's benchmark, with a short text each. One
in twenty is a near-copy of another row, one in ten of all rows is held out, so that copies leak between the splits.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import busiest, finish, in_child, note, parser, rows_of
from benchmarks.gate.data import make, read
from benchmarks.memory import Sampler

COPIED, HELD_OUT, JITTER = 0.05, 0.1, 0.02
_FILE_ROWS = 65_536


def main() -> None:
    """Runs the benchmark."""
    arguments = parser(__doc__.split("\n")[0], 1_000_000, 5_000).parse_args()
    rows = rows_of(arguments)
    with tempfile.TemporaryDirectory(prefix="coevo-dedup-") as folder:
        in_child(make_inputs, folder, rows)
        note(f"pool of {rows:,} rows")
        child = in_child(measure, folder)
    finish("dedup", {"rows": rows, "repeats": 1, **child.result, "busy_before": busiest([child])}, arguments.json)


def make_inputs(folder: str, rows: int) -> None:
    """Writes a pool, its targets and `of.npy`: the row that each row is a copy of, or itself."""
    from coevo_ray.store.artifact import finish as finish_artifact
    from coevo_ray.store.data_files import write_table
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import vector_column

    make(folder, rows)
    data, random = read(folder), np.random.default_rng(1)
    copies = round(COPIED * rows)
    of = np.arange(rows)
    order = random.permutation(rows)
    of[order[:copies]] = order[copies : 2 * copies]
    features, length = data.features, float(np.sqrt((data.features[:1000].astype(np.float32) ** 2).mean()))
    noise = JITTER * length * random.standard_normal((copies, features.shape[1]))
    features[order[:copies]] = features[of[order[:copies]]].astype(np.float32) + noise
    split = (random.random(rows) < HELD_OUT).astype(np.int8)
    np.save(Path(folder) / "of.npy", of)
    np.save(Path(folder) / "split.npy", split)
    pool, targets = (Location.parse(Path(folder) / name) for name in ("pool", "targets"))
    entries: tuple[list[Any], list[Any]] = ([], [])
    for start in range(0, rows, _FILE_ROWS):
        part = slice(start, min(rows, start + _FILE_ROWS))
        ids = np.arange(part.start, part.stop)
        texts = [f"row {row}" for row in ids]
        columns = {"row_id": ids, "key": texts, "text": texts, "label": data.labels[part], "split": split[part]}
        entries[0].append(write_table(pool, f"pool-{start:09d}.parquet", pa.table(columns)))
        vectors = pa.table({"row_id": ids, "target": vector_column(features[part])})
        entries[1].append(write_table(targets, f"targets-{start:09d}.parquet", vectors))
    finish_artifact(pool, "pool", {}, {}, entries[0], {"classes": 10, "modality": "text"})
    finish_artifact(targets, "targets", {}, {}, entries[1], {})


def measure(folder: str) -> dict[str, Any]:
    """Runs dedup.

    Returns:
        `seconds` of the command and `graph_seconds` of its graph, `peak_bytes` of all its processes together, Ray's
        included; `recall` of planted pairs, `precision` of pairs (a row and its group's leader) against them, `leaks`,
        and `planted_leaks`.
    """
    import coevo_ray
    from coevo_ray.store.location import Location
    from coevo_ray.store.manifest import load_manifest

    of, split = np.load(Path(folder) / "of.npy"), np.load(Path(folder) / "split.npy")
    began = time.perf_counter()
    with Sampler() as memory:
        found = coevo_ray.dedup(f"{folder}/pool", f"{folder}/targets", f"{folder}/out", {"compute": {"cpus": 1}})
    seconds = time.perf_counter() - began
    table = found.scan(["row_id", "group"])
    group = np.arange(len(of))
    group[table.column("row_id").to_numpy()] = table.column("group").to_numpy()
    copies = np.flatnonzero(of != np.arange(len(of)))
    led = np.flatnonzero(group != np.arange(len(of)))
    leaking = split[copies] != split[of[copies]]
    return {
        "seconds": round(seconds, 2),
        "graph_seconds": load_manifest(Location.parse(f"{folder}/out/graph"), "graph").summary["seconds"],
        "peak_bytes": memory.peak_bytes,
        "recall": round(float((group[copies] == group[of[copies]]).mean()), 5),
        "precision": round(float((of[led] == of[group[led]]).mean()), 5) if len(led) else None,
        "leaks": found.summary["leaks"],
        "planted_leaks": int(leaking.sum()),
    }


if __name__ == "__main__":
    main()
