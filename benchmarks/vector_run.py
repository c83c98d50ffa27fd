"""A whole run of vectors alone: seconds of `coevo-ray run` on `.npy` files, by stage.

    python -m benchmarks.vector_run --json [--quick] [--rows N] [--dim D]

Vectors of 20 classes in 32 dimensions, turned into D, are written as a user's export would be: `vectors.npy`,
`keys.txt`, `labels.npy`. The run has the stages of `examples/texts.yaml`, with its settings where they concern vectors.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import yaml

from benchmarks.common import busiest, finish, in_child, note, parser, positive, rows_of
from benchmarks.text_run import EXAMPLE, run

_CLASSES, _LATENT = 20, 32


def main() -> None:
    """Runs the benchmark."""
    made = parser(__doc__.split("\n")[0], 50_000, 1_500)
    made.add_argument("--dim", type=positive, default=256, help="of the vectors")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory(prefix="coevo-vector-run-") as work:
        write_inputs(rows_of(arguments), arguments.dim, Path(work))
        note(f"{rows_of(arguments):,} vectors of {arguments.dim}")
        child = in_child(run, work)
    result = {"dim": arguments.dim, "seconds": round(child.seconds, 2), **child.result}
    finish("vector_run", {**result, "repeats": 1, "busy_before": busiest([child])}, arguments.json)


def write_inputs(rows: int, dim: int, work: Path) -> None:
    """Writes vectors with keys and labels, and `run.yaml`."""
    random = np.random.default_rng(0)
    labels = random.integers(0, _CLASSES, rows)
    latent = random.standard_normal((_CLASSES, _LATENT))[labels] + 1.2 * random.standard_normal((rows, _LATENT))
    vectors = np.tanh(latent @ random.standard_normal((_LATENT, dim)) / _LATENT**0.5)
    np.save(work / "vectors.npy", (vectors + 0.1 * random.standard_normal((rows, dim))).astype(np.float32))
    np.save(work / "labels.npy", labels)
    (work / "keys.txt").write_text("".join(f"row-{row}\n" for row in range(rows)), encoding="utf-8")
    settings = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    settings["pool"] = {"sources": [{"uri": str(work / "vectors.npy")}], "test_fraction": 0.2}
    settings["encode"] = {"priors": [{"name": "column:vector"}], "dim": dim}
    (work / "run.yaml").write_text(yaml.safe_dump({**settings, "out": str(work / "run")}), encoding="utf-8")


if __name__ == "__main__":
    main()
