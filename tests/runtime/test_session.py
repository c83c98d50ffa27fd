from __future__ import annotations

import os
import subprocess
import sys

import pytest
import ray

from coevo_ray.runtime.session import ray_session


@pytest.mark.usefixtures("ray_local")
def test_a_session_that_is_there_is_used_and_left_open() -> None:
    before = ray.get_runtime_context().get_node_id()
    with ray_session():
        assert ray.get_runtime_context().get_node_id() == before
    assert ray.is_initialized()


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        env={**base, **environment},
        check=False,
    )


@pytest.mark.slow
def test_an_own_session_is_closed_and_opened_once() -> None:
    code = """
import ray
from coevo_ray.runtime.session import ray_session
with ray_session():
    node = ray.get_runtime_context().get_node_id()
    with ray_session():
        assert ray.get_runtime_context().get_node_id() == node
    assert ray.is_initialized()
    assert len(ray.nodes()) == 1
assert not ray.is_initialized()
print("ok")
"""
    result = _python(code)
    assert result.stdout.strip() == "ok", result.stderr


def test_an_unreachable_address_is_named_with_a_remedy() -> None:
    code = """
from coevo_ray.errors import UsageError
from coevo_ray.runtime.session import ray_session
try:
    with ray_session():
        print("connected")
except UsageError as error:
    print(error.exit_code, "127.0.0.1:1" in error.cause, "RAY_ADDRESS" in error.remedy)
"""
    result = _python(code, RAY_ADDRESS="127.0.0.1:1")
    assert result.stdout.strip().splitlines()[-1] == "2 True True", result.stdout + result.stderr


_GUEST = """
import logging, os, signal, sys, threading
import ray, ray.data
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import run_shards

def as_it_is():
    context = ray.data.DataContext.get_current()
    names = [n for n in vars(context) if "progress" in n or "raise" in n or "print" in n]
    loggers = ("", "ray", "ray.data", "ray.train", "ray.data._internal.progress",
        "ray.data._internal.execution.streaming_executor_state")
    return {
        "context": {n: getattr(context, n) for n in names},
        "detector": context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s,
        "levels": {n: logging.getLogger(n).level for n in loggers},
        "environment": dict(os.environ),
        "handlers": [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)],
    }

def work():
    double = lambda row: {"rows": 1, "twice": 2 * row["shard"]}
    with ray_session():
        assert sorted(r["twice"] for r in run_shards("t", [1, 2], lambda d: d.map(double, num_cpus=0.5))) == [2, 4]

def fail():
    try:
        with ray_session():
            raise KeyError("ours")
    except KeyError:
        pass
"""


@pytest.mark.slow
def test_a_process_is_left_as_it_was() -> None:
    code = f"""{_GUEST}
logging.getLogger("ray.data").setLevel(logging.INFO)
before = as_it_is()
work()
assert as_it_is() == before, (before, as_it_is())
signal.signal(signal.SIGTERM, lambda number, frame: None)
before = as_it_is()
fail()
assert as_it_is() == before, (before, as_it_is())
print("ok")
"""
    result = _python(code, RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="7")
    assert result.stdout.strip() == "ok", result.stderr


@pytest.mark.slow
def test_a_session_of_the_user_is_left_as_it_was() -> None:
    code = f"""{_GUEST}
ray.init(address="local", namespace="theirs", num_cpus=2, include_dashboard=False, log_to_driver=False)
ray.data.range(3).take_all()
context, before = ray.data.DataContext.get_current(), as_it_is()
work()
fail()
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert ray.is_initialized() and ray.get_runtime_context().namespace == "theirs"
assert ray.data.DataContext.get_current() is context
assert as_it_is() == before, (before, as_it_is())
with ray_session():  # datasets of theirs have their own settings also within
    assert ray.data.range(3).context.enable_progress_bars == before["context"]["enable_progress_bars"]
print("ok")
"""
    result = _python(code)
    assert result.stdout.strip().splitlines()[-1] == "ok", result.stderr


@pytest.mark.slow
def test_a_session_of_two_threads_is_closed_by_the_last_one() -> None:
    code = f"""{_GUEST}
before, first_is_in, second_is_out, failed = as_it_is(), threading.Event(), threading.Event(), []

def first():
    try:
        with ray_session():
            first_is_in.set()
            second_is_out.wait(100)
            work()
    except BaseException as error:
        failed.append(error)

thread = threading.Thread(target=first)
thread.start()
first_is_in.wait(100)
work()
assert ray.is_initialized()
second_is_out.set()
thread.join()
assert not failed, failed
assert not ray.is_initialized()
assert as_it_is() == before, (before, as_it_is())
print("ok")
"""
    result = _python(code)
    assert result.stdout.strip() == "ok", result.stderr


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RAY_TMPDIR": "/proc/nothing"}, "/proc/nothing"),
        ({"RAY_TMPDIR": "/tmp/" + 90 * "x"}, "AF_UNIX path length"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/nowhere"}, "/nowhere"),
        ({"RAY_ADDRESS": "myhost"}, "names no port"),
    ],
)
def test_a_ray_that_does_not_start_is_named_with_a_remedy(environment: dict[str, str], named: str) -> None:
    code = f"""{_GUEST}
from coevo_ray.errors import UsageError
before = as_it_is()
try:
    with ray_session():
        print("connected")
except UsageError as error:
    print(error.exit_code, {named!r} in error.cause, "RAY_ADDRESS" in error.remedy)
assert as_it_is() == before, (before, as_it_is())
assert not ray.is_initialized()
print("ok")
"""
    result = _python(code, **environment)
    assert result.stdout.strip().splitlines()[-2:] == ["2 True True", "ok"], result.stdout + result.stderr


@pytest.mark.usefixtures("ray_local")
@pytest.mark.slow
def test_a_wrong_token_is_told_in_time() -> None:
    code = f"""{_GUEST}
from coevo_ray.errors import UsageError
try:
    with ray_session():
        print("connected")
except UsageError as error:
    print(error.exit_code, "token" in error.remedy)
"""
    address = ray.get_runtime_context().gcs_address
    result = _python(code, RAY_ADDRESS=address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="of-another-cluster")
    assert result.stdout.strip().splitlines()[-1] == "2 True", result.stdout + result.stderr
