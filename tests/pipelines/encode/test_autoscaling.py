"""Encode on a cluster whose autoscaler starts nodes: Ray's own, with nodes that are processes of this machine.

`ray.cluster_utils.AutoscalingCluster` is not used: it ends every Ray process of the machine before it starts.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
import ray.util

from tests.processes import Marked

ROOT = Path(__file__).parents[3]
_ENCODES = """
import sys
from pathlib import Path
import ray
from coevo_ray import encode, ingest
from coevo_ray.runtime.autoscaler import autoscales
from coevo_ray.runtime.resources import nodes

folder = Path(sys.argv[1])
pool = ingest({"sources": ["sample:digits"], "shard_rows": 600, "test_fraction": 0}, folder / "pool")
ray.init(address="auto", log_to_driver=False)
before = [node.cpus for node in nodes()]
compute = {"actors": 1, "max_actors": 2, "cpus": 3.0, "reader_cpus": 0.25, "batch_rows": 8}
prior = "callable:tests.pipelines.priors_for_tests:Noted"
encode({"priors": [prior], "dim": 16, "shared": 0.05, "shard_rows": 8, "compute": compute}, pool, folder / "out")
print(autoscales(), before, sorted(node.cpus for node in nodes()), flush=True)
"""


def address_of(port: int) -> str:
    """Of the head, as nodes that its autoscaler starts look for it."""
    return f"{ray.util.get_node_ip_address()}:{port}"  # type: ignore[no-untyped-call]  # Ray leaves it untyped


def configuration(port: int) -> dict[str, object]:
    """Of the autoscaler: a head of one CPU, and a group of up to two nodes of four that has none at first."""
    group = {"resources": {"CPU": 4}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    head = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "tried",
        "max_workers": 2,
        "idle_timeout_minutes": 60,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address_of(port),
            # All nodes have this machine's address, and start themselves.
            **dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True),
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, "more": group},
        # What the autoscaler looks up, whatever its provider makes of it.
        **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
        **{f"{kind}setup_commands": [] for kind in ("", "head_", "worker_")},
        **{"file_mounts": {}, "cluster_synced_files": [], "initialization_commands": [], "auth": {}},
    }


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_group_of_no_nodes_grows_and_a_node_that_joins_later_is_used(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    (tmp_path / "cluster.json").write_text(json.dumps(configuration(port)))
    (noted := tmp_path / "noted").mkdir()
    home = Path(f"/tmp/ca{os.getpid()}")  # short: Ray keeps sockets in it
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_AUTH_MODE": "disabled",  # whatever token the user of this machine has
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "COEVO_NOTED": str(noted),
        "PYTHONPATH": str(ROOT),
    }
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"]
    start += ["--num-cpus=1", "--object-store-memory=200000000", f"--temp-dir={home}", "--include-dashboard=false"]
    head = Marked([*start, f"--autoscaling-config={tmp_path / 'cluster.json'}"], tmp_path, environment)
    try:
        head.until(lambda: "Ray runtime started" in head.out.read_text())
        driver = {**environment, "RAY_ADDRESS": address_of(port)}
        work = Marked([sys.executable, "-c", _ENCODES, str(tmp_path)], tmp_path, driver)
        try:
            assert work.wait(1200) == 0, work.err.read_text()
        finally:
            work.end()
        assert work.out.read_text().splitlines()[-1] == "True [1.0] [1.0, 4.0, 4.0]"
        assert "waiting for nodes" in work.err.read_text()
        used = {each.name.partition("-")[0] for each in noted.iterdir()}
        assert len(used) == 2, used  # the first by what encode asked for, the second by its growing pool
        assert (tmp_path / "out/targets/manifest.json").is_file()
    finally:
        head.end()
        head.assert_gone(killed=True)
