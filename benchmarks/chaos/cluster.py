"""A cluster of several raylets on this machine, each with one CPU, that can lose any of them."""

from __future__ import annotations

import os
import random
import socket
import sys
import tempfile
import uuid
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

from benchmarks.chaos.processes import MARK, Marked, kill

_ROOT = Path(__file__).resolve().parents[2]
_STORE_BYTES = 150 << 20
WORKERS = 2  # nodes beside the head


class LocalCluster:
    """A head and two worker nodes with one CPU each, in processes of their own.

    Args:
        folder: for Ray's files; short, since sockets lie there.
        environment: of the nodes and their workers, added to this process's.

    Attributes:
        mark: the mark of its processes.
        processes: its processes.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.mark = folder, uuid.uuid4().hex
        self.processes = Marked(self.mark)
        self._environment = {**environment, MARK: self.mark, "PYTHONPATH": str(_ROOT)}
        self._cluster: Any = None
        self.start()

    def start(self) -> None:
        """Starts a fresh cluster."""
        from ray.cluster_utils import Cluster  # after RAY_TMPDIR is set

        before = dict(os.environ)
        os.environ.update(self._environment)
        try:
            self._cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 1,
                    "include_dashboard": True,  # Ray Train's detached watcher of a killed controller asks it
                    "dashboard_port": _free_port(),  # another cluster of this machine may have the usual one
                    "object_store_memory": _STORE_BYTES,
                    "temp_dir": str(self.folder / uuid.uuid4().hex[:6]),
                },
            )
            for _ in range(WORKERS):
                self._add()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def _add(self) -> None:
        self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return str(self._cluster.address)

    def kill_node(self, chance: random.Random) -> int:
        """Kills the raylet of a worker node, whose workers end with it; returns its pid."""
        node = chance.choice(sorted(self._cluster.worker_nodes, key=lambda each: each.node_id))
        return _kill_raylet(node)

    def kill_head(self) -> int:
        """Kills the head's GCS and raylet; returns the pid of the GCS."""
        head = self._cluster.head_node
        (server,) = [each.process for each in head.all_processes["gcs_server"]]
        kill(server.pid)
        _kill_raylet(head)
        return int(server.pid)

    def restore(self) -> None:
        """Gives the cluster back what it has lost: nodes, or all of it where the head is gone."""
        if self._cluster.head_node.dead_processes():
            self.stop()
            self.start()
            return
        before = dict(os.environ)
        os.environ.update(self._environment)
        try:
            for node in [each for each in self._cluster.worker_nodes if each.dead_processes()]:
                self._cluster.remove_node(node, allow_graceful=False)
                self._add()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def stop(self) -> None:
        """Ends all of its processes."""
        if self._cluster is not None:
            for node in self._cluster.list_all_nodes():
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            self._cluster = None
        self.processes.end()

    def command(self, arguments: list[str], log: Path) -> Command:
        """Starts `coevo-ray` with this cluster, in a process and a session of its own."""
        return Command(arguments, log, {**self._environment, "RAY_ADDRESS": self.address})


class Command:
    """A run of the command line.

    Args:
        arguments: of `coevo-ray`.
        log: file of its stderr.
        environment: added to this process's.
    """

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        mark = uuid.uuid4().hex
        self.processes, self.log, self.out = Marked(mark), log, log.with_suffix(".out")
        with log.open("w") as err, self.out.open("w") as out:
            self.process = Popen(
                [sys.executable, "-m", "coevo_ray", *arguments],
                stdin=DEVNULL,
                stdout=out,
                stderr=err,
                cwd=tempfile.gettempdir(),
                env={**os.environ, **environment, MARK: mark},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self.process.poll() is None

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None where it ran for too long and was ended."""
        try:
            return self.process.wait(seconds)
        except TimeoutExpired:
            self.processes.end()
            return None

    def said(self) -> str:
        """The end of its stderr."""
        return self.log.read_text(errors="replace")[-1500:]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _kill_raylet(node: Any) -> int:
    (raylet,) = [each.process for each in node.all_processes["raylet"]]
    kill(raylet.pid)
    raylet.wait(10)
    return int(raylet.pid)
