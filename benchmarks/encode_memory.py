"""Encode: peak memory of all processes together, for a pool and for one ten times as large.

    python -m benchmarks.encode_memory --json [--quick] [--rows N] [--apart]

Images repeat; the prior is a cheap one, so that the rows that are under way, not the model, make the difference. With
`--apart` reading and encoding run in processes of their own, as they do on a GPU, and the model is made slow: then
prepared inputs pile up as far as they are allowed to.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import busiest, finish, in_child, note, parser, rows_of
from benchmarks.encode.pool import PIXELS, write_digits
from benchmarks.memory import Sampler

TIMES = 10
_FILES_ROWS = 10_000
_SLOW_S = 0.02


class Means(nn.Module):
    """Means of 4 x 4 patches."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return nn.functional.avg_pool2d(images, 4).flatten(1)


class Cheap:
    """A prior that costs nearly nothing."""

    def __init__(self) -> None:
        self.module: nn.Module = Means()
        self.dim, self.input_size = 3 * (PIXELS // 4) ** 2, PIXELS


class _Slow(Means):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(_SLOW_S)
        return super().forward(images)


class Slow(Cheap):
    """The same, slower than decoding."""

    def __init__(self) -> None:
        super().__init__()
        self.module = _Slow()


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 50_000, 2_000)
    made.add_argument("--apart", action="store_true", help="reading and encoding in processes of their own")
    arguments = made.parse_args()
    rows = rows_of(arguments)
    with tempfile.TemporaryDirectory(prefix="coevo-memory-") as folder:
        sizes = (rows, TIMES * rows)
        pools = [in_child(make_pool, folder, rows, size) for size in sizes]
        runs = [in_child(encode_pool, pool.result, arguments.apart) for pool in pools]
    small, large = (run.result["peak_bytes"] for run in runs)
    result = {
        "rows": list(sizes),
        "apart": arguments.apart,
        "repeats": 1,
        "peak_bytes": [small, large],
        "peak_ratio": round(large / small, 4),
        "seconds": [run.result["seconds"] for run in runs],
        "busy_before": busiest(runs),
    }
    finish("encode_memory", result, arguments.json)


def make_pool(folder: str, rows: int, size: int) -> str:
    """A pool of `size` rows, from copies of one file; runs in a child process.

    Returns:
        Its folder.
    """
    from coevo_ray.pipelines.ingest.ingest import ingest

    source = Path(folder) / "images.parquet"
    if not source.is_file():
        write_digits(str(source), min(rows, _FILES_ROWS))
    copies = Path(folder) / f"source-{size}"
    copies.mkdir()
    for i in range(max(1, size // min(rows, _FILES_ROWS))):
        shutil.copy(source, copies / f"{i:03d}.parquet")
    pool = ingest({"sources": [str(copies)], "verify": False, "test_fraction": 0}, f"{folder}/pool-{size}")
    note(f"pool of {len(pool):,} rows")
    return pool.location.path


def encode_pool(pool: str, apart: bool) -> dict[str, Any]:
    """Encodes a pool in a session of its own; runs in a child process."""
    from coevo_ray.pipelines.make_targets import encode

    prior = f"callable:{__spec__.name if __spec__ else __name__}:{'Slow' if apart else 'Cheap'}"
    compute = {"actors": 1, "cpus": 0.75, "reader_cpus": 0.5} if apart else {}
    started = time.monotonic()
    with Sampler() as sampler:
        encode({"priors": [prior], "dim": 128, "shared": 1000, "compute": compute}, pool, f"{pool}-encoded")
    seconds = round(time.monotonic() - started, 1)
    note(f"{pool}: {sampler.peak_bytes >> 20} MiB, {seconds} s")
    return {"peak_bytes": sampler.peak_bytes, "seconds": seconds}


if __name__ == "__main__":
    main()
