"""The Slurm script: linted, and run for real where a namespace of processes can be made for it.

`srun`, `scontrol` and `squeue` are stand-ins for one node; the script, `ray symmetric-run` and the command are real.
The namespace is needed: `ray symmetric-run` does not start beside another Ray, and its `ray stop` ends every Ray.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster import CLUSTER, ROOT

SCRIPT = CLUSTER / "slurm.sh"
TOOLS = Path(sys.executable).parent
ALONE = ["unshare", "--map-root-user", "--pid", "--net", "--mount-proc", "--fork", "--kill-child"]
SRUN = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = '#!/bin/bash\nif [ "$1" = show ]; then echo "$3"; else echo "$@" >>"$SEEN"; fi\n'
SQUEUE = '#!/bin/bash\necho "$JOB_STATE"\n'
UP = """ip link set lo up
trap 'kill -TERM $!' TERM
bash "$@" &
wait $!
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
"""


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(
        [str(TOOLS / "shellcheck"), str(SCRIPT)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _can_be_alone() -> bool:
    if not shutil.which("unshare") or not shutil.which("ip"):
        return False
    return subprocess.run([*ALONE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Node:
    """One node with Slurm's commands, as the script sees it."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def seen(self) -> str:
        """What `scontrol` was asked to do."""
        seen = self.folder / "seen"
        return seen.read_text().strip() if seen.exists() else ""

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Starts the script as Slurm would."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_"))}
        environment |= {
            "PATH": f"{self.folder / 'bin'}:{TOOLS}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
            "SEEN": str(self.folder / "seen"),
            "RAY_TMPDIR": str(self.folder),
            "JOB_STATE": "RUNNING",
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "127.0.0.1",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_PER_TASK": "2",
            **variables,
        }
        with (self.folder / "log").open("w") as log:
            process = subprocess.Popen(
                [*ALONE, "bash", "-c", UP, "up", str(SCRIPT), *arguments],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return process

    def begin(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Starts the script, again where Ray missed the 30 s that it has for it; returns when the command runs."""
        for _ in range(5):
            process = self.start(*arguments, **variables)
            while "Running command" not in self.log() and process.poll() is None:
                time.sleep(0.2)
            if process.poll() != 1 or "timed out during startup" not in self.log():
                return process
        raise AssertionError(self.log())

    def log(self) -> str:
        """What the script wrote."""
        return (self.folder / "log").read_text()

    def end(self, process: subprocess.Popen[str], timeout_s: float = 900) -> int:
        """The exit code."""
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.log()) from None

    def clear(self) -> None:
        """Ends what still runs, and with it all processes of its namespace."""
        for process in self.started:
            process.kill()
            process.wait(60)


@pytest.fixture
def node() -> Iterator[Node]:
    if not _can_be_alone():
        pytest.skip("no namespace of processes and networks can be made here (unshare, ip)")
    with tempfile.TemporaryDirectory(
        prefix="cs-", dir="/tmp", ignore_cleanup_errors=True
    ) as short:  # for Ray's sockets
        folder = Path(short)
        (folder / "bin").mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("squeue", SQUEUE)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        there = Node(folder)
        try:
            yield there
        finally:
            there.clear()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_job_that_is_told_to_stop_goes_back_to_the_queue_and_on(node: Node, tmp_path: Path) -> None:
    """TERM to the script, as --signal=B:TERM gives it: exit code 4, a requeue; the job again ends with all the work."""
    run = (ROOT / "examples" / "digits.yaml").read_text().replace("epochs: 10", "epochs: 2")
    (tmp_path / "digits-3.yaml").write_text(run)
    arguments = ("run", f"{tmp_path}/digits-%a.yaml", "--out", f"{tmp_path}/out-%a", "--json")
    array = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}
    process = node.begin(*arguments, **array)
    pool = tmp_path / "out-3" / "pool" / "manifest.json"
    deadline = time.monotonic() + 900
    while not pool.exists():
        assert process.poll() is None and time.monotonic() < deadline, node.log()
        time.sleep(0.2)
    tokens = list(node.folder.glob(".coevo-ray/slurm/77/.ray/auth_token"))
    assert len(tokens) == 1 and tokens[0].stat().st_mode & 0o077 == 0
    # unshare's child is the first process of the namespace, which hands the signal to the script.
    [first] = (Path("/proc") / str(process.pid) / "task" / str(process.pid) / "children").read_text().split()
    os.kill(int(first), signal.SIGTERM)
    assert node.end(process) == 4, node.log()
    assert node.seen == "requeue 70_3"
    assert "goes back to the queue" in node.log()
    assert not (tmp_path / "out-3" / "summary.json").exists()
    assert not list(node.folder.glob(".coevo-ray/slurm/*"))  # the token is gone

    again = node.begin(*arguments, **array, SLURM_RESTART_COUNT="1")
    assert node.end(again, 1800) == 0, node.log()
    assert node.seen == "requeue 70_3"
    summary = json.loads((tmp_path / "out-3" / "summary.json").read_text())
    assert summary["gate"]["accuracy"] > 0.7

    # Exit code 4 again, for nodes that do not come; but somebody has cancelled the job.
    encode = ("encode", "--pool", f"{tmp_path}/out-3/pool", "--prior", "efficientnet_lite:0", "--gpus", "1")
    stopped = node.begin(*encode, "--out", f"{tmp_path}/x", COEVO_RAY_NODE_WAIT_SECONDS="1", JOB_STATE="COMPLETING")
    assert node.end(stopped) == 4, node.log()
    assert node.seen == "requeue 70_3"


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_what_is_wrong_is_neither_success_nor_tried_again(node: Node) -> None:
    assert node.end(node.begin("run", "absent.yaml")) == 2, node.log()
    assert "absent.yaml" in node.log()
    # Ray does not start, which `ray symmetric-run` itself answers with 0.
    assert node.end(node.start("run", "absent.yaml", RAY_TMPDIR="/proc/none")) == 1, node.log()
    assert "did not run to its end" in node.log()
    assert node.end(node.start()) == 2, node.log()
    assert node.seen == ""
