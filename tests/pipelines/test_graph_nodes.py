"""A node that is lost while a graph is built: its blocks of sorted rows are made again, and the graph is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_LOSES = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster

from coevo_ray.pipelines.graph import build_graph_artifact
from coevo_ray.pipelines.graph_tasks import Cuts
from coevo_ray.store.location import Location
from tests.pipelines.test_graph import content, inputs

folder, stage = Path(sys.argv[1]), sys.argv[2]
pool, targets = inputs(folder, content())
options = {"neighbours": 5, "seed": 0, "cpus": 1, "method": "ivf", "centre": True, "part_rows": 1}
options["cuts"] = Cuts(range_rows=300, block_rows=200)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
more = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
begun = folder / "lost" / ("plan.json" if stage == "search" else "rows.safetensors")

def lose():
    while not begun.exists():
        time.sleep(0.005)
    time.sleep(0.3)
    cluster.remove_node(more[0], allow_graceful=False)

if stage != "never":
    threading.Thread(target=lose, daemon=True).start()
build_graph_artifact(pool, targets, Location.parse(str(folder / "lost")), **options)
print("nodes:", sum(node["Alive"] for node in ray.nodes()), flush=True)
ray.shutdown()
cluster.shutdown()
"""


def build(folder: Path, stage: str) -> dict[str, bytes]:
    """Files of a graph that was built on three nodes, of which one was lost at a stage."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", _LOSES, str(folder), stage],
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert f"nodes: {3 if stage == 'never' else 2}\n" in done.stdout, done.stdout + done.stderr
    return {file.name: file.read_bytes() for file in sorted((folder / "lost").glob("*.safetensors"))}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_lost_node_changes_nothing(tmp_path: Path) -> None:
    whole = build(tmp_path / "never", "never")
    assert len(whole) > 10
    for stage in ("prepare", "search"):
        assert build(tmp_path / stage, stage) == whole
