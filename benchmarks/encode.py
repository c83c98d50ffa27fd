"""Encode: rows per second of the whole stage against a bare PyTorch loop over the same pool.

    python -m benchmarks.encode --json [--quick] [--rows N] [--source URI]

Both sides read the same Parquet files, decode with the same function and run the same network with as many threads as
there are cores. They take turns (A B C, A B C, ...), each in a process of its own, and Ray runs only during its turn.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._encode_pool import PIXELS, make_pool
from benchmarks.common import Child, cores, finish, in_child, note, parser, rows_of, timed

PRIOR = "efficientnet_lite:0"
DIM = 128
SHARED = 0.1
SEED = 0
_START_UP = ("load_model",)


def main() -> None:
    """Runs the benchmark."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="coevo-encode-") as folder:
        rows = in_child(make_pool, folder, rows_of(arguments), arguments.source).result
        note(f"pool of {rows:,} images")
        repeats = [_repeat(folder, arguments, i) for i in range(arguments.repeats or (1 if arguments.quick else 3))]
        difference = _difference(Path(folder))
    result = {**_settings(arguments, rows), **_ratios(repeats), "max_feature_difference": difference}
    finish("encode", {**result, **_where_time_goes(repeats, rows, arguments.actors)}, arguments.json)


def _arguments() -> Namespace:
    made = parser(__doc__.split("\n")[0], 20_000, 1_500)
    made.add_argument("--source", help="URI of your own images (folder or Parquet) instead of generated ones")
    made.add_argument("--repeats", type=positive, help="turns of each side; otherwise 3, with --quick 1")
    made.add_argument("--actors", type=positive, default=cores(), help="actors of our stage")
    made.add_argument("--cpus", type=float, default=0.5, help="CPUs that each actor reserves")
    made.add_argument("--reader-cpus", type=float, default=0.5, help="CPUs that each decoding task reserves")
    made.add_argument("--batch-rows", type=positive, default=64, help="rows of a forward pass of our stage")
    made.add_argument("--shard-rows", type=positive, default=512, help="rows of a shard of our stage")
    made.add_argument("--loop-batch-rows", type=positive, default=32, help="rows of a forward pass of the bare loops")
    return made.parse_args()


def _repeat(folder: str, arguments: Namespace, index: int) -> dict[str, Child]:
    config = {
        "priors": [{"name": PRIOR, "input_size": PIXELS}],
        "dim": DIM,
        "shared": SHARED,
        "seed": SEED,
        "shard_rows": arguments.shard_rows,
        "compute": _compute(arguments),
    }
    loop = (folder, arguments.loop_batch_rows, cores())
    turns = {
        "ours": (encode_pool, folder, config, index),
        "loop": (bare_loop, *loop, False),
        "prefetching_loop": (bare_loop, *loop, True),
    }
    children = {name: in_child(*turn) for name, turn in turns.items()}
    for name, child in children.items():
        note(f"repeat {index}, {name}: {child.result['steady_seconds']:.2f} s, {child.seconds:.2f} s with start-up")
    return children


def _compute(arguments: Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("actors", "cpus", "reader_cpus", "batch_rows")}


def _settings(arguments: Namespace, rows: int) -> dict[str, Any]:
    return {
        "rows": rows,
        "source": arguments.source or "generated digits",
        "prior": PRIOR,
        "pixels": PIXELS,
        "settings": {
            "ours": {"shard_rows": arguments.shard_rows, **_compute(arguments)},
            "loop": {"batch_rows": arguments.loop_batch_rows, "threads": cores()},
        },
    }


def _ratios(repeats: list[dict[str, Child]]) -> dict[str, Any]:
    def ratio(peer: str, theirs: str, ours: str) -> list[float]:
        """Seconds of the peer over ours, repeat by repeat: neighbours in time share the machine's mood."""
        return [_seconds(r[peer], theirs) / _seconds(r["ours"], ours) for r in repeats]

    steady = ratio("loop", "steady_seconds", "steady_seconds")
    return {
        "repeats": len(repeats),
        "ratio_to_bare_loop": middle(steady),
        "ratio_in_running_session": middle(ratio("loop", "loaded_seconds", "encode_seconds")),
        "ratio_with_startup": middle(ratio("loop", "process_seconds", "process_seconds")),
        "ratio_to_prefetching_loop": middle(ratio("prefetching_loop", "steady_seconds", "steady_seconds")),
        "ratio_to_bare_loop_spread": spread(steady),
    }


def _seconds(child: Child, name: str) -> float:
    return child.seconds if name == "process_seconds" else float(child.result[name])


def _where_time_goes(repeats: list[dict[str, Child]], rows: int, actors: int) -> dict[str, Any]:
    """Seconds and shares of our stage, of the repeat with the median ratio... of each quantity its own median."""
    ours = [r["ours"].result for r in repeats]
    names = sorted({name for result in ours for name in result["parts"]})
    none = {"seconds": 0.0, "cpu_seconds": 0.0}
    breakdown = {
        name: {unit: middle([o["parts"].get(name, none)[unit] for o in ours]) for unit in none} for name in names
    }
    idle = [cores() * o["steady_seconds"] - sum(_cpu(o["parts"])) for o in ours]
    return {
        "overhead_share": middle([_overhead(o, actors) for o in ours]),
        "rows_per_s": {name: round(rows / middle([r[name].result["steady_seconds"] for r in repeats]), 1) for name in repeats[0]},
        "seconds": {name: middle([o[f"{name}_seconds"] for o in ours]) for name in ("session", "encode", "steady")},
        "breakdown": {**breakdown, "ray_and_waiting": {"cpu_seconds": middle(idle)}},
    }


def encode_pool(folder: str, config: dict[str, Any], index: int) -> dict[str, Any]:
    """Our turn, from starting Ray to the finished targets; runs in a child process.

    Returns:
        `session_seconds`: starting and stopping Ray; `encode_seconds`: the call of `encode`; `steady_seconds`: see
        `_steady`; `parts`: part -> wall and CPU seconds, summed over calls.
    """
    from benchmarks import _encode_clock as clocks
    from coevo_ray.core.alignment import fit_alignment
    from coevo_ray.pipelines.encode import encode
    from coevo_ray.runtime.session import ray_session

    out = Path(folder) / f"ours-{index}"
    times = Path(folder) / f"times-{index}"
    clocks.record(times)
    began = time.time()
    with ray_session():
        started = time.time()
        encode(config, str(Path(folder) / "pool"), str(out))
        ended = time.time()
    stopped = time.time()
    shared = _features(out, shared=True)
    # A lone prior is its own reference, so nothing is fitted; the fit's cost does not depend on what it is fitted to.
    with clocks.clock("fit_alignment"):
        fit_alignment(shared, np.ascontiguousarray(shared[:, ::-1]))
    events = clocks.events(times)
    np.save(Path(folder) / f"ours-{index}.npy", _features(out))
    return {
        "session_seconds": started - began + stopped - ended,
        "encode_seconds": ended - started,
        "steady_seconds": _steady(events, ended),
        "parts": _parts(events),
    }


def _features(out: Path, shared: bool = False) -> np.ndarray[Any, np.dtype[np.float32]]:
    from coevo_ray.store.location import Location
    from coevo_ray.store.row_table import RowTable, vectors

    table = RowTable(Location.parse(out / "contributions" / "00"), "contribution").scan(["shared", "feature"])
    return vectors((table.filter(table.column("shared")) if shared else table).column("feature"))


def _steady(events: list[Any], ended: float) -> float:
    """Seconds from the moment when the first actor has its model to the end of encode.

    What was decoded before that moment, while actors were starting, is added in full: it would be a present otherwise.
    """
    ready = min(e.end for e in events if e.part == "load_model")
    decoded_before = sum(max(0.0, min(e.end, ready) - e.start) for e in events if e.part == "read_decode")
    return float(ended - ready + decoded_before)


def _parts(events: list[Any]) -> dict[str, dict[str, float]]:
    parts: dict[str, dict[str, float]] = {}
    for event in events:
        part = parts.setdefault(event.part, {"seconds": 0.0, "cpu_seconds": 0.0})
        part["seconds"] += event.end - event.start
        part["cpu_seconds"] += event.cpu
    return parts


def bare_loop(folder: str, batch_rows: int, threads: int, prefetch: bool) -> dict[str, Any]:
    """The peer: read, decode, forward, keep the features in memory; runs in a child process.

    Args:
        folder: holds the pool.
        batch_rows: rows of a forward pass.
        threads: threads of PyTorch.
        prefetch: decode the next batch in a thread meanwhile.

    Returns:
        `steady_seconds`: the loop alone; `loaded_seconds`: with loading the model.
    """
    import torch

    from coevo_ray.priors.registry import load_prior

    torch.set_num_threads(threads)
    prior, load = timed(lambda: load_prior(PRIOR, PIXELS))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (prior.mean, prior.std))
    parts = []
    started = time.perf_counter()
    batches = _batches(Path(folder) / "pool", batch_rows)
    with torch.inference_mode():
        for images in _ahead(batches) if prefetch else batches:
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            parts.append(prior.module((pixels - mean) / std).numpy())
    features = np.concatenate(parts)
    seconds = time.perf_counter() - started
    np.save(Path(folder) / "loop.npy", features)
    return {"steady_seconds": seconds, "loaded_seconds": seconds + load}


def _batches(pool: Path, batch_rows: int) -> Any:
    import pyarrow.parquet as pq

    from coevo_ray.pool.images import decode_resized

    for path in sorted(pool.glob("*.parquet")):
        if "image" not in pq.read_schema(path).names:  # the table of rejects
            continue
        for batch in pq.ParquetFile(path).iter_batches(batch_rows, columns=["image"]):
            yield np.stack([decode_resized(data.as_py(), PIXELS) for data in batch.column(0)])


def _ahead(batches: Any) -> Any:
    """Makes the next batch in a thread while the caller works on this one; decoders release Python's lock."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(next, batches, None) for _ in range(2)]
        while (images := waiting.pop(0).result()) is not None:
            waiting.append(thread.submit(next, batches, None))
            yield images


if __name__ == "__main__":
    main()
