"""A node that is lost while a gate takes predictions: its part of the graph moves, and the round is the same."""

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

from tests.pipelines.gate.test_parts import answer, opened

folder, loses = Path(sys.argv[1]), sys.argv[2] == "loses"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
more = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
gate = opened(folder, 3)
classifier = folder / "gate" / "classifier.safetensors"  # it is written before the predictions are handed over

def lose():
    while not classifier.exists():
        time.sleep(0.001)
    cluster.remove_node(more[0], allow_graceful=False)

with gate.hosted():
    answer(gate, gate.next())
    if loses:
        threading.Thread(target=lose, daemon=True).start()
    for _ in range(2):
        questions = gate.next()
        print("asked:", *questions.row_ids, flush=True)
        answer(gate, questions)
    gate.next()
    gains = gate.service.gains()
print("gains:", gains["gain"].tobytes().hex(), flush=True)
print("nodes:", sum(node["Alive"] for node in ray.nodes()), flush=True)
ray.shutdown()
cluster.shutdown()
"""


def said(folder: Path, how: str) -> list[str]:
    """Answers of a gate on three nodes, of which one is lost or none."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", _LOSES, str(folder), how],
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    *lines, nodes = [line for line in done.stdout.splitlines() if line.startswith(("asked:", "gains:", "nodes:"))]
    assert nodes == f"nodes: {2 if how == 'loses' else 3}" and len(lines) == 3, done.stdout + done.stderr
    return lines


@pytest.mark.slow
@pytest.mark.timeout(1300)
def test_a_lost_node_changes_no_round(tmp_path: Path) -> None:
    assert said(tmp_path / "loses", "loses") == said(tmp_path / "keeps", "keeps")
