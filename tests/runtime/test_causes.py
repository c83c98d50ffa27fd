"""Of a page of Ray's text, people see the line that says what happened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from coevo_ray.errors import StoppedError
from coevo_ray.runtime.causes import cause_of
from coevo_ray.runtime.shards import run_tasks


def end(row: dict[str, Any]) -> dict[str, Any]:
    os._exit(7)


def fail(row: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("the one thing to know")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_the_end_of_a_process_is_told_without_advice() -> None:
    with pytest.raises(StoppedError, match="The worker died unexpectedly while executing this task") as stopped:
        list(run_tasks("look", [{"shard": 1}], end))
    assert "\n" not in stopped.value.cause and "common causes" not in stopped.value.cause


@pytest.mark.usefixtures("ray_local")
def test_the_error_of_a_trace_is_its_last_line() -> None:
    task: Any = ray.remote(num_cpus=0.5)(fail)
    with pytest.raises(RayError) as failed:
        ray.get(task.remote({}))
    assert cause_of(failed.value) == "ValueError: the one thing to know"


_OUT_OF_MEMORY = """
from coevo_ray.errors import StoppedError
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import run_tasks

def work(row):
    import time
    held = bytearray(64 << 20)
    time.sleep(60)
    return {"rows": 1}

with ray_session():
    try:
        list(run_tasks("look", [{"shard": 1}], work))
    except StoppedError as error:
        print(error.cause)
"""


@pytest.mark.slow
def test_ray_s_memory_monitor_is_named() -> None:
    little = {
        "RAY_memory_usage_threshold": "0.001",
        "RAY_memory_monitor_refresh_ms": "100",
        "RAY_task_oom_retries": "0",
    }
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", _OUT_OF_MEMORY],
        env=environment | little,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert re.search(
        r"look: Ray stopped the work: 1 worker\(s\) were killed due to the node running low on memory\. "
        r"Memory on the node \(.*\) was .*GB used / .*GB limit",
        done.stdout,
    ), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.1) where the task "
            "was running was 3.8GB / 4.0GB (0.95), which exceeds the threshold; to see more\nRefer to the manual",
            "Task was killed due to the node running low on memory. Memory on the node (IP: 10.0.0.1) where the task "
            "was running was 3.8GB / 4.0GB (0.95), which exceeds the threshold",
        ),
        (
            "The actor died.\nThe actor is dead because its node has died. Node Id: 12\nTo see more, do this",
            "The actor is dead because its node has died. Node Id: 12",
        ),
        (
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
            "End of file. Some common causes include: (1) the process was killed",
            "Worker exit type: SYSTEM_ERROR Worker exit detail: End of file.",
        ),
        ("\nTo troubleshoot the problem, check the logs\nthe disk is full\n", "the disk is full"),
        ("Refer to the documentation", "Refer to the documentation"),
        ("", "ValueError"),
    ],
)
def test_lines_of_other_texts(text: str, cause: str) -> None:
    assert cause_of(ValueError(text)) == cause


def test_a_cause_is_of_bounded_length_and_may_stand_in_another_error() -> None:
    assert len(cause_of(ValueError("x" * 5000))) == 400
    assert cause_of(ValueError("Training failed"), ValueError("a.b.CudaError: no device")) == "a.b.CudaError: no device"
