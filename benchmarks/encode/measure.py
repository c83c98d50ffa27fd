"""Encode: rows per second of the whole stage against a bare PyTorch loop over the same pool.

    python -m benchmarks.encode --json [--quick] [--rows N] [--source URI] [--form latent|random] [--dim N]

Both sides read the same Parquet files, decode with the same function and run the same network with as many threads as
there are cores. They take turns (A B C, A B C, ...), each in a process of its own, and Ray runs only during its turn.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Child, busiest, cores, finish, in_child, middle, note, parser, positive, rows_of, spread
from benchmarks.encode.pool import PIXELS, make_pool
from benchmarks.encode.sides import PRIOR, bare_loop, encode_pool

SHARED = 0.1
SEED = 0
# Parts of the work that are neither the decoding nor the forward pass: in the actors, and one after another.
_IN_ACTORS = ("project", "write")
_AFTERWARDS = {
    "latent": ("components", "fit", "measure", "align_write"),
    "random": ("uniformity", "fit", "align_write"),
}

Turns = dict[str, Child]


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="coevo-encode-") as folder:
        rows = in_child(make_pool, folder, rows_of(arguments), arguments.source).result
        note(f"pool of {rows:,} images")
        repeats = [_repeat(folder, arguments, i) for i in range(arguments.repeats or (1 if arguments.quick else 3))]
        largest = difference(Path(folder), arguments.form, arguments.dim)
    result = {
        "rows": rows,
        "source": arguments.source or "generated digits",
        "prior": PRIOR,
        "pixels": PIXELS,
        "form": arguments.form,
        "dim": arguments.dim,
        "repeats": len(repeats),
        **_ratios(repeats),
        **_where_time_goes(repeats, arguments),
        "rows_per_s": {name: round(rows / middle(_seconds(repeats, name)), 1) for name in repeats[0]},
        "max_feature_difference": largest,
        "busy_before": busiest(child for turns in repeats for child in turns.values()),
        "ours": {"shard_rows": arguments.shard_rows, **_compute(arguments)},
        "loop": {"batch_rows": arguments.loop_batch_rows, "threads": cores()},
    }
    finish("encode", result, arguments.json)


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], 20_000, 1_500)
    made.add_argument("--source", help="URI of your own images (folder or Parquet) instead of generated ones")
    made.add_argument("--form", choices=tuple(_AFTERWARDS), default="latent", help="of the targets; random: published")
    made.add_argument("--dim", type=positive, default=256, help="n of the targets")
    made.add_argument("--repeats", type=positive, help="turns of each side; otherwise 3, with --quick 1")
    made.add_argument("--actors", type=positive, default=cores(), help="actors of our stage")
    made.add_argument("--cpus", type=float, default=0.5, help="CPUs that each actor reserves")
    made.add_argument("--reader-cpus", type=float, default=0.5, help="CPUs that each decoding task reserves")
    made.add_argument("--batch-rows", type=positive, default=64, help="rows of a forward pass of our stage")
    made.add_argument("--shard-rows", type=positive, help="rows of a shard of our stage; otherwise its own choice")
    made.add_argument("--loop-batch-rows", type=positive, default=32, help="rows of a forward pass of the loops")
    return made.parse_args()


def _compute(arguments: Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("actors", "cpus", "reader_cpus", "batch_rows")}


def _repeat(folder: str, arguments: Namespace, index: int) -> Turns:
    config = {
        "priors": [{"name": PRIOR, "input_size": PIXELS}],
        "dim": arguments.dim,
        "projection": "random" if arguments.form == "random" else "components",
        "shared": SHARED,
        "seed": SEED,
        "shard_rows": arguments.shard_rows,
        "compute": _compute(arguments),
    }
    turns: Turns = {}
    turns["ours"] = in_child(encode_pool, folder, config, index)
    for name, prefetch in (("loop", False), ("prefetching_loop", True)):
        turns[name] = in_child(bare_loop, folder, arguments.loop_batch_rows, cores(), prefetch)
    for name, child in turns.items():
        note(f"turn {index}, {name}: {child.result['steady_seconds']:.2f} s, {child.seconds:.2f} s with start-up")
    return turns


def _seconds(repeats: list[Turns], side: str, name: str = "steady_seconds") -> list[float]:
    """One measure of one side, by repeat; `process_seconds` is all of a process but the benchmark's own work."""
    if name == "process_seconds":
        return [r[side].seconds - r[side].result["aside_seconds"] for r in repeats]
    return [r[side].result[name] for r in repeats]


def _ratios(repeats: list[Turns]) -> dict[str, Any]:
    def ratios(peer: str, name: str) -> list[float]:
        return [p / o for p, o in zip(_seconds(repeats, peer, name), _seconds(repeats, "ours", name), strict=True)]

    steady = ratios("loop", "steady_seconds")
    return {
        "ratio_to_bare_loop": middle(steady),
        "ratio_to_bare_loop_spread": spread(steady),
        "ratio_in_running_session": middle(ratios("loop", "encode_seconds")),
        "ratio_with_startup": middle(ratios("loop", "process_seconds")),
        "ratio_to_prefetching_loop": middle(ratios("prefetching_loop", "steady_seconds")),
    }


def _where_time_goes(repeats: list[Turns], arguments: Namespace) -> dict[str, Any]:
    """Overhead and breakdown of our stage, medians over the repeats."""
    ours = [r["ours"].result for r in repeats]
    afterwards = _AFTERWARDS[arguments.form]
    clocks = ("session", "encode", "steady", "fit")
    return {
        "overhead_share": middle([_overhead_share(o, arguments.actors, afterwards) for o in ours]),
        "stage_seconds": {name: middle([o["stage_seconds"][name] for o in ours]) for name in ours[0]["stage_seconds"]},
        "waiting_share": middle([o["waiting_share"] for o in ours]),
        "seconds": {name: middle([o[f"{name}_seconds"] for o in ours]) for name in clocks},
    }


def _overhead_share(ours: dict[str, Any], actors: int, afterwards: Sequence[str]) -> float:
    """All but decoding and forward passes over the steady seconds.

    Actors work side by side, so their seconds count once for all of them; the merge counts by the clock.
    """
    stages = ours["stage_seconds"]
    overhead = sum(stages[n] for n in _IN_ACTORS) / actors + sum(stages[n] for n in afterwards) + ours["fit_seconds"]
    return float(overhead / (ours["steady_seconds"] + ours["fit_seconds"]))


def difference(folder: Path, form: str, dim: int) -> float:
    """Largest difference between the two sides' projected features: they must have done the same work.

    Args:
        folder: with `ours.npy`, `loop.npy` and our first run.
        form: of the targets, latent or random.
        dim: n of the targets.
    """
    from coevo_ray.core.alignment.components import to_components
    from coevo_ray.core.alignment.projection import project, projection_matrix, unit_features
    from coevo_ray.pipelines.encode.shared import read_components
    from coevo_ray.store.location import Location

    ours, loop = np.load(folder / "ours.npy"), np.load(folder / "loop.npy")
    if len(ours) != len(loop):
        raise RuntimeError(f"our stage encoded {len(ours)} rows, the loop {len(loop)}")
    if form == "random":
        theirs = project(loop, projection_matrix(loop.shape[1], dim, SEED))
    else:
        components = read_components(Location.parse(folder / "ours-0" / "contributions" / "00"))
        assert components is not None
        theirs = to_components(unit_features(loop), components)
    return round(float(np.abs(ours - theirs).max()), 6)
