"""Needs against nodes: what is refused has no room in any packing, and what no node has room for is refused."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.runtime.autoscaler import autoscales, manages_nodes
from coevo_ray.runtime.resources import WAIT, Need, Node, require, shortage

SIZES = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0])
NEEDS = st.builds(
    Need, what=st.sampled_from(["actor", "task"]), cpus=SIZES.filter(bool), gpus=SIZES, count=st.integers(1, 3)
)
NODES = st.builds(Node, name=st.just("node"), cpus=SIZES, gpus=SIZES)


def packed(needs: Sequence[Need], nodes: Sequence[Node]) -> bool:
    """Whether some assignment of all parts to nodes fits: every one is tried."""
    parts = [need for need in needs for _ in range(need.count)]
    for places in itertools.product(range(len(nodes)), repeat=len(parts)):
        used = [[0.0, 0.0] for _ in nodes]
        for part, place in zip(parts, places, strict=True):
            used[place][0] += part.cpus
            used[place][1] += part.gpus
        if all(cpus <= node.cpus and gpus <= node.gpus for (cpus, gpus), node in zip(used, nodes, strict=True)):
            return True
    return False


@given(needs=st.lists(NEEDS, min_size=1, max_size=2), nodes=st.lists(NODES, max_size=3))
def test_nothing_is_refused_that_fits(needs: list[Need], nodes: list[Node]) -> None:
    if packed(needs, nodes):
        assert shortage(needs, nodes) is None


@given(need=NEEDS, nodes=st.lists(NODES, max_size=3))
def test_parts_of_one_kind_are_refused_exactly_where_they_do_not_fit(need: Need, nodes: list[Node]) -> None:
    assert (shortage([need], nodes) is None) == packed([need], nodes)


def test_the_message_says_what_is_needed_and_what_each_node_has() -> None:
    nodes = [Node("10.0.0.1", 4, 0), Node("10.0.0.2", 16, 2)]
    assert shortage([Need("training worker", 1, 1, 3)], nodes) == (
        "3 training workers of 1 CPU and 1 GPU, and the Ray cluster has room for 2: "
        "10.0.0.2 has 16 CPUs and 2 GPUs, 10.0.0.1 has 4 CPUs and 0 GPUs"
    )
    assert "1 task of 17 CPUs, and the Ray cluster has no room" in str(shortage([Need("task", 17)], nodes))
    assert shortage([Need("actor", 1, count=18), Need("reading task", 0.5, count=5)], nodes) == (
        "18 actors of 1 CPU and 5 reading tasks of 0.5 CPUs, 20.5 CPUs in all, and the Ray cluster has 20: "
        "10.0.0.2 has 16 CPUs and 2 GPUs, 10.0.0.1 has 4 CPUs and 0 GPUs"
    )
    assert "2 more have no more" in str(shortage([Need("task", 9)], [Node(str(i), 1, 0) for i in range(7)]))
    assert "no node is alive" in str(shortage([Need("task", 1)], []))


@pytest.mark.parametrize(("share", "count"), [(0.1, 10), (1 / 3, 3), (0.3, 3)])
def test_shares_add_up(share: float, count: int) -> None:
    node = Node("node", 1, 0)
    assert shortage([Need("task", share, count=count)], [node]) is None
    assert shortage([Need("task", share, count=count + 1)], [node]) is not None


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (b'{"autoscaler_report": {"node_type_mapping": {"f0": "ray.head.default"}}}', True),
        (b'{"autoscaler_report": {"node_type_mapping": {"f0": "node_f0"}}}', False),
        (b'{"autoscaler_report": null}', False),
        (b"[]", False),
        (b"{", False),
    ],
)
def test_a_status_tells_whether_nodes_are_managed(status: bytes, said: bool) -> None:
    assert manages_nodes(status) == said


@pytest.mark.usefixtures("ray_local")
def test_what_has_no_room_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    require("small", Need("task", 0.5))
    assert not autoscales()
    begun = time.monotonic()
    with pytest.raises(
        UsageError, match=r"train needs 1 training worker of 1 CPU and 1 GPU, and the Ray cluster has no"
    ):
        require("train", Need("training worker", 1, 1))
    assert time.monotonic() - begun < 5
    monkeypatch.setenv(WAIT, "2")
    with pytest.raises(StoppedError, match=r"no nodes joined within 2 s") as stopped:
        require("train", Need("training worker", 1, 1))
    assert WAIT in stopped.value.remedy
    monkeypatch.setenv(WAIT, "long")
    with pytest.raises(UsageError, match=WAIT):
        require("train", Need("training worker", 1, 1))


_LATE = """
import threading
import ray
from ray.cluster_utils import Cluster
from coevo_ray.runtime.resources import Need, nodes, require

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
ray.init(address=cluster.address, log_to_driver=False)
waiting = threading.Thread(target=lambda: require("encode", Need("actor", 2, count=2)), daemon=True)
waiting.start()
waiting.join(timeout=3)
assert waiting.is_alive()
cluster.add_node(num_cpus=4)
waiting.join(timeout=60)
assert not waiting.is_alive() and len(nodes()) == 2
print("came")
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_node_that_joins_in_time_is_waited_for() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {WAIT: "120"}
    done = subprocess.run(
        [sys.executable, "-c", _LATE], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.split()[-1:] == ["came"], done.stderr
    assert "waiting for nodes, 120 s at most" in done.stderr
