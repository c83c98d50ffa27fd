"""Seconds of stages on clusters of nodes of one CPU each: strong and weak scaling.

A cluster is several raylets on this machine, so that more nodes than cores share these: efficiency is told beside the
cores. What is measured begins with a warm cluster (its workers have started) and ends with the finished artifact.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Child, cores, in_child, note

STAGES = ("encode", "graph", "score")
VECTORS, DIM = 10, 128  # vectors for each image, and their dimension
_SCALINGS = ("strong", "weak")


def measure(nodes: Sequence[int], rows: int, gpus: float) -> tuple[dict[str, Any], list[Child]]:
    """Measures every stage on clusters of so many nodes.

    Args:
        nodes: numbers of nodes, the smallest first.
        rows: images on one node.
        gpus: of each actor and node.

    Returns:
        `table`: "encode: strong" and so on -> nodes -> `rows`, `seconds`, `speedup` of rows a second over the fewest
        nodes, `efficiency`: that by the factor of nodes; `cores` of this machine; and the processes.
    """
    table: dict[str, dict[str, Any]] = {}
    children = []
    for scaling in _SCALINGS:
        for count in nodes:
            many = rows * (count if scaling == "weak" else max(nodes))
            child = in_child(in_process, count, many, gpus)
            children.append(child)
            for stage, seconds in child.result.items():
                cell = {"rows": many * (1 if stage == "encode" else VECTORS), "seconds": round(seconds, 2)}
                table.setdefault(f"{stage}: {scaling}", {})[str(count)] = cell
            note(f"{scaling}, {count} nodes: {child.result}")
    for row in table.values():
        first, *_ = row.values()
        fewest = min(map(int, row))
        for name, cell in row.items():
            faster = (cell["rows"] / cell["seconds"]) / (first["rows"] / first["seconds"])
            cell["speedup"] = round(faster, 3)
            cell["efficiency"] = round(faster / (int(name) / fewest), 3)
    return {"table": table, "cores": cores()}, children


def in_process(count: int, rows: int, gpus: float) -> dict[str, float]:
    """Stage -> seconds, in a process of its own: it starts a cluster."""
    command = [sys.executable, "-m", "benchmarks.scale.nodes", str(count), str(rows), str(gpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Runs the stages on one cluster and prints their seconds."""
    read = argparse.ArgumentParser()
    read.add_argument("nodes", type=int)
    read.add_argument("rows", type=int)
    read.add_argument("gpus", type=float)
    arguments = read.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="coevo-nodes-") as folder:
        _write(Path(folder), arguments.rows)
        resources: dict[str, Any] = {"num_cpus": 1, **({"num_gpus": arguments.gpus} if arguments.gpus else {})}
        cluster = Cluster(initialize_head=True, head_node_args=resources)
        for _ in range(arguments.nodes - 1):
            cluster.add_node(**resources)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            print(json.dumps(_stages(Path(folder), arguments.nodes, arguments.gpus)))
        finally:
            ray.shutdown()
            cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray leaves it untyped


def _write(folder: Path, rows: int) -> None:
    import numpy as np

    from benchmarks.encode.pool import write_digits

    write_digits(str(folder / "images.parquet"), rows)
    random = np.random.default_rng(0)
    centres = random.standard_normal((50, DIM))
    vectors = centres[random.integers(0, 50, rows * VECTORS)] + random.standard_normal((rows * VECTORS, DIM))
    np.save(folder / "vectors.npy", vectors.astype(np.float32))


def _stages(folder: Path, nodes: int, gpus: float) -> dict[str, float]:
    from coevo_ray import encode, ingest, sae_score
    from coevo_ray.pipelines.graph import build_graph_artifact
    from coevo_ray.store.location import Location

    images = ingest({"sources": [str(folder / "images.parquet")], "test_fraction": 0}, folder / "images")
    vectors = ingest(
        {"sources": [{"uri": str(folder / "vectors.npy"), "label_column": None}], "test_fraction": 0},
        folder / "vectors",
    )
    compute = {"actors": nodes, "cpus": 0.5, "reader_cpus": 0.25, "gpus": gpus}
    priors = [{"name": "efficientnet_lite:0", "input_size": 64}]
    settings = {"priors": priors, "dim": 64, "shared": 400, "shard_rows": 64, "compute": compute}
    column = {"priors": ["column:vector"], "dim": 64, "shared": 1000, "compute": {"cpus": 0.5, "reader_cpus": 0.25}}
    targets = encode(column, vectors, folder / "targets")
    _save_model(folder / "model")
    scored = {"compute": {"actors": nodes, "cpus": 0.5}}
    return {
        "encode": _seconds(lambda: encode(settings, images, folder / "encoded")),
        "graph": _seconds(
            lambda: build_graph_artifact(
                vectors, targets, Location.parse(folder / "graph"), neighbours=16, seed=0, cpus=0.5, part_rows=1024
            )
        ),
        "score": _seconds(lambda: sae_score(scored, targets, folder / "model", folder / "scored")),
    }


def _save_model(folder: Path) -> None:
    import torch

    from coevo_ray.core.factors.sae import SAEConfig, TopKSAE
    from coevo_ray.store.artifact import finish
    from coevo_ray.store.location import Location
    from coevo_ray.store.sae_files import save_sae

    torch.manual_seed(0)
    location = Location.parse(folder)
    finish(location, "sae", {}, {}, save_sae(location, TopKSAE(SAEConfig(dim=64, latents=1024, k=24))), {})


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
