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
        timeout=120,
        env={**base, **environment},
        check=False,
    )


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
