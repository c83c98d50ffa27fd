"""A whole run of texts: seconds of `coevo-ray run examples/texts.yaml`, by stage.

    python -m benchmarks.text_run --json [--quick] [--rows N] [--data FOLDER]

The file is run as it stands, but for its source: the first rows of `train*.parquet` in a folder (columns `id`, `text`,
`label`), or without one of its own sample. The command is a process of its own, so its imports and Ray's start count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.common import busiest, finish, in_child, note, parser, rows_of

EXAMPLE = Path(__file__).parents[1] / "examples" / "texts.yaml"
_STAGES = ("pool", "encode", "sae", "gate")


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 10_000, 1_500)
    made.add_argument(
        "--data", type=folder_of_texts, help="folder with train*.parquet; otherwise the file's own sample"
    )
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory(prefix="coevo-text-run-") as work:
        texts = first_texts(arguments.data, rows_of(arguments), Path(work))
        note(f"{texts.num_rows:,} texts")
        write_inputs(texts, Path(work))
        child = in_child(run, work)
    result = {
        "data": arguments.data.name if arguments.data else "sample:docstrings",
        "characters": sum(len(text.as_py()) for text in texts.column("text")),
        "seconds": round(child.seconds, 2),
        **child.result,
    }
    finish("text_run", {**result, "repeats": 1, "busy_before": busiest([child])}, arguments.json)


def folder_of_texts(text: str) -> Path:
    """A folder with `train*.parquet`, for argparse."""
    folder = Path(text).resolve()
    if not [*folder.glob("train*.parquet")]:
        raise argparse.ArgumentTypeError(f"{text} has no train*.parquet")
    return folder


def first_texts(data: Path | None, rows: int, work: Path) -> pa.Table:
    """The first rows of a folder's training texts, or of the sample."""
    from coevo_ray.config import Source
    from coevo_ray.pool.samples import materialise_sample
    from coevo_ray.store.location import Location

    if data is None:
        sample = Source(uri="sample:docstrings", text_column="text")
        files = [Path(materialise_sample(sample, Location.parse(str(work))).path)]
    else:
        files = sorted(data.glob("train*.parquet"))
    tables = [pq.read_table(file, columns=["id", "text", "label"]) for file in files]
    return pa.concat_tables(tables).slice(0, rows)


def write_inputs(texts: pa.Table, work: Path) -> None:
    """Writes `texts.parquet`, and `run.yaml`: the example with that source."""
    pq.write_table(texts, work / "texts.parquet")
    settings = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    [source] = settings["pool"]["sources"]
    settings["pool"]["sources"] = [{**source, "uri": str(work / "texts.parquet")}]
    (work / "run.yaml").write_text(yaml.safe_dump({**settings, "out": str(work / "run")}), encoding="utf-8")


def run(work: str) -> dict[str, Any]:
    """Runs the command.

    Returns:
        `rows`, `by_stage`, `in_stages`, `bytes_per_row` on disk by folder, and what came out.
    """
    command = [sys.executable, "-m", "coevo_ray", "run", f"{work}/run.yaml", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    summary = json.loads(done.stdout)
    return {
        "rows": summary["pool"]["rows"],
        "by_stage": {
            **{stage: summary[stage]["seconds"] for stage in _STAGES},
            "train": sum(part["wall_seconds"] for part in summary["train"].values()),
        },
        "in_stages": summary["seconds"],
        "bytes_per_row": bytes_per_row(Path(work) / "run", summary["pool"]["rows"]),
        "verdict": summary["encode"]["verdict"]["kind"],
        "explained_variance": round(summary["sae"]["explained_variance"], 4),
        "label_share": summary["gate"]["label_fraction"],
        "accuracy": round(summary["gate"]["accuracy"], 4),
        "random_accuracy": round(summary["gate"]["random_accuracy"], 4),
        "full_accuracy": round(summary["gate"]["full_accuracy"], 4),
        "trained": {policy: round(part["accuracy"], 4) for policy, part in summary["train"].items()},
    }


def bytes_per_row(folder: Path, rows: int) -> dict[str, float]:
    """Bytes on disk of each artifact, one of another's folder apart, by its path below a run, over the pool's rows."""
    found: Counter[str] = Counter()
    artifacts = sorted((path.parent for path in folder.rglob("manifest.json")), key=lambda path: -len(path.parts))
    for path in (path for path in folder.rglob("*") if path.is_file()):
        owner = next((artifact for artifact in artifacts if artifact in path.parents), folder)
        found[owner.relative_to(folder).as_posix()] += path.stat().st_size
    return {name: round(size / rows, 2) for name, size in sorted(found.items())}


if __name__ == "__main__":
    main()
