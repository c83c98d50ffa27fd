"""Work that stops moving is ended and named; work that moves is not, however slow it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.runtime.at_work import forget_work
from coevo_ray.runtime.resources import nodes, total
from coevo_ray.runtime.shards import run_each, run_tasks
from coevo_ray.runtime.watchdog import STALL, Patience, watched


def hang(row: dict[str, Any]) -> dict[str, Any]:
    time.sleep(600 if row["shard"] == 1 else 0)
    return {"rows": 1, "shard": row["shard"]}


def free_cpus() -> float:
    available: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    return available.get("CPU", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("run", [run_each, run_tasks])
@pytest.mark.usefixtures("ray_local")
def test_a_shard_that_hangs_is_named_and_gives_back_what_it_holds(
    run: Callable[..., Iterator[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    list(run("warm", [{"shard": 0}], hang))  # starting a process is no hang
    forget_work()
    monkeypatch.setenv(STALL, "12")  # on a busy machine the second process takes half of it
    done = []
    with pytest.raises(StoppedError, match=r"encode: no progress for \d+ s; at work: encode, shard 1 since \d+ s"):
        for row in run("encode", [{"shard": shard} for shard in (0, 1, 2)], hang):
            done.append(row["shard"])
    assert done and set(done) <= {0, 2}, "Ray Data holds the last finished one back until there is another"
    # Nothing of it is left that later work would wait for.
    limit = time.monotonic() + 30
    while free_cpus() < total(nodes())["CPU"] and time.monotonic() < limit:
        time.sleep(0.2)
    assert free_cpus() == total(nodes())["CPU"]


def test_what_moves_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STALL, "0.5")

    def slow() -> Iterator[int]:
        for i in range(4):
            time.sleep(0.3)
            yield i

    found = []
    for i in watched("slow", slow, lambda: None):
        time.sleep(0.6 if i == 1 else 0)  # the caller's own time does not count
        found.append(i)
    assert found == [0, 1, 2, 3]


def test_errors_come_out_as_they_are() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise InputError("a cause", "a remedy")

    with pytest.raises(InputError, match="a cause"):
        list(watched("fail", fail, lambda: None))


def test_an_iterator_that_hangs_is_ended_and_one_that_is_left_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    released, ended = threading.Event(), []
    monkeypatch.setenv(STALL, "0.8")

    def hanging() -> Iterator[int]:
        yield 1
        released.wait(60)
        yield 2

    with pytest.raises(StoppedError, match=r"no progress for 1 s.*\n.*COEVO_RAY_STALL_SECONDS=SECONDS"):
        list(watched("hang", hanging, lambda: ended.append("hung")))
    assert ended == ["hung"]
    said = capsys.readouterr().err
    assert said.count("hang: no progress for") == 1, "said once, before it is ended"
    one = watched("left", hanging, lambda: ended.append("left"))
    assert next(one) == 1
    one.close()  # type: ignore[attr-defined]  # a generator
    assert ended == ["hung", "left"]
    released.set()


def test_progress_from_elsewhere_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STALL, "0.5")
    patience = Patience("train")
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            patience.moved()

    def whole() -> Iterator[int]:
        time.sleep(1.5)
        yield 7

    threading.Thread(target=beat, daemon=True).start()
    assert list(watched("train", whole, lambda: None, patience)) == [7]
    stop.set()


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(STALL, text)
    with pytest.raises(UsageError, match=STALL):
        Patience("x")
