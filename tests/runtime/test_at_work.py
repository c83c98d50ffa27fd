"""Notes of what is at work: there while it is, gone afterwards, and gone with a process that was killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
import ray

from coevo_ray.runtime import at_work as module
from coevo_ray.runtime.at_work import at_work, forget_work, longest_at_work


def renewing() -> int:
    return sum(thread.name == "coevo-at-work" for thread in threading.enumerate())


def test_without_ray_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests may have a session
    with at_work("alone"):
        assert longest_at_work() == []


@pytest.mark.usefixtures("ray_local")
def test_notes_come_and_go_in_the_order_of_their_beginning() -> None:
    forget_work()
    with at_work("one"):
        time.sleep(0.01)
        with at_work("two"), pytest.raises(KeyError), at_work("three"):
            assert [each.split(" since")[0] for each in longest_at_work()] == ["one", "two", "three"]
            raise KeyError
        assert [each.split(" since")[0] for each in longest_at_work()] == ["one"]
        assert f"process {os.getpid()} on " in longest_at_work()[0]
        forget_work()
        assert longest_at_work() == []
    assert longest_at_work() == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_notes_are_renewed_by_one_thread_and_a_killed_process_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with at_work("killed"):
            os.kill(os.getpid(), signal.SIGKILL)

    task: Any = ray.remote(num_cpus=0.5, max_retries=0)(work)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(task.remote())
    while renewing():  # with the pace of before; it ends by itself, as nothing is at work here
        time.sleep(0.1)
    monkeypatch.setattr(module, "_BEAT_S", 0.2)
    monkeypatch.setattr(module, "_GONE_S", 2.0)
    for _ in range(20):
        with at_work("short"):
            pass
    with at_work("long"):
        time.sleep(3)
        assert [each.split(" since")[0] for each in longest_at_work()] == ["long"]
        assert renewing() == 1
    forget_work()
