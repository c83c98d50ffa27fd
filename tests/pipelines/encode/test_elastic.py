"""A pool of actors that grows while nodes join."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coevo_ray.config import ActorPool, EncodeCompute, EncodeConfig, make_config
from coevo_ray.errors import UsageError
from coevo_ray.pipelines.encode.resources import strategy_of

_GROWS = """
import sys, threading, time
from pathlib import Path
import numpy as np
import ray
from ray.cluster_utils import Cluster
from coevo_ray import encode, ingest

out, noted = Path(sys.argv[1]), Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
ray.init(address=cluster.address, log_to_driver=False)
pool = ingest({"sources": ["sample:digits"], "shard_rows": 600}, out / "pool")
compute = {"actors": 1, "max_actors": 4, "cpus": 1.0, "reader_cpus": 0.25, "batch_rows": 16}
prior = "callable:tests.pipelines.priors_for_tests:Noted"
settings = {"priors": [prior], "dim": 16, "shared": 0.05, "shard_rows": 16, "compute": compute}
work = threading.Thread(target=lambda: encode(settings, pool, out / "grown"))
work.start()
while not list(noted.iterdir()):
    time.sleep(0.1)
cluster.add_node(num_cpus=4)
work.join()
nodes = {each.name.partition("-")[0] for each in noted.iterdir()}
encode({**settings, "compute": {**compute, "actors": 4, "max_actors": None}}, pool, out / "fixed")
print(len(nodes), flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_actors_come_to_a_node_that_joins_and_change_nothing(tmp_path: Path) -> None:
    (noted := tmp_path / "noted").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", _GROWS, str(tmp_path), str(noted)],
        env={**environment, "COEVO_NOTED": str(noted)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.stdout.split()[-1:] == ["2"], done.stderr
    for name in ("grown", "fixed"):
        assert (tmp_path / name / "targets" / "manifest.json").is_file()
    files = {
        name: {file.name: file.read_bytes() for file in sorted((tmp_path / name / "targets").glob("*.parquet"))}
        for name in ("grown", "fixed")
    }
    assert files["grown"] == files["fixed"] != {}


def test_a_pool_keeps_its_number_unless_it_may_grow() -> None:
    fixed = strategy_of(ActorPool(actors=3))
    assert (fixed.min_size, fixed.max_size) == (3, 3)
    grows = strategy_of(ActorPool(actors=2, max_actors=5))
    assert (grows.min_size, grows.initial_size, grows.max_size) == (1, 2, 5)
    with pytest.raises(UsageError, match="max_actors is 2, and actors 3"):
        make_config(EncodeConfig, {"priors": ["a:b"], "compute": {"actors": 3, "max_actors": 2}}, "encode")
    assert EncodeCompute(max_actors=1).actors is None
