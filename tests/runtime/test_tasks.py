"""Single tasks: one that computes may take its time, one that never begins or hangs elsewhere is ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from coevo_ray.errors import StoppedError, UsageError
from coevo_ray.runtime.at_work import forget_work
from coevo_ray.runtime.resources import Need, nodes, total
from coevo_ray.runtime.tasks import start_task, task_result
from coevo_ray.runtime.watchdog import STALL

pytestmark = pytest.mark.usefixtures("ray_local")


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def both(seconds: float) -> tuple[float, str]:
    return seconds, "told"


@pytest.fixture
def warm() -> None:
    """A process that tasks find, so that its start is no part of what they take."""
    assert task_result("warm", start_task("warm", sleep, 0.0)) == 0.0
    forget_work()


@pytest.fixture
def nothing_free() -> Iterator[None]:
    """An actor of the user's holds every CPU."""

    class Holder:
        def there(self) -> bool:
            return True

    holder: Any = ray.remote(num_cpus=total(nodes())["CPU"])(Holder).remote()
    assert ray.get(holder.there.remote())
    yield
    ray.kill(holder)


def test_results_come_back_also_several_of_one_task() -> None:
    first, second = start_task("both", both, 0.5, returns=2)
    assert (task_result("both", first), ray.get(second)) == (0.5, "told")
    with pytest.raises(UsageError, match=r"much needs 1 task of 900 CPUs"):
        start_task("much", sleep, 1.0, need=Need("task", 900))


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_one_that_computes_takes_as_long_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STALL, "2")
    assert task_result("compute", start_task("compute", sleep, 5.0)) == 5.0


@pytest.mark.usefixtures("warm")
def test_one_that_waits_for_others_is_ended_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STALL, "2")
    reference = start_task("load a prior", sleep, 600.0)
    with pytest.raises(StoppedError, match=r"load a prior: no progress for 2 s; at work: load a prior since \d+ s"):
        task_result("load a prior", reference, computes=False)
    with pytest.raises(ray.exceptions.RayError):  # it is cancelled
        ray.get(reference, timeout=30)


@pytest.mark.usefixtures("warm")
def test_one_that_never_begins_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv(STALL, "2")
    request.getfixturevalue("nothing_free")
    have = total(nodes())["CPU"]
    with pytest.raises(StoppedError, match=rf"nothing of it is at work: 0 of the cluster's {have:g} CPUs are free"):
        task_result("judge", start_task("judge", sleep, 0.1))
