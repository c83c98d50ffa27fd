from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from coevo_ray.errors import CoevoError, InputError, StoppedError
from coevo_ray.progress import Ticker
from coevo_ray.runtime.at_work import MOST_DEATHS
from coevo_ray.runtime.resources import Need
from coevo_ray.runtime.shards import keep_each, run_each, run_shards

pytestmark = pytest.mark.usefixtures("ray_local")


def test_each_shard_is_one_block_through_all_stages() -> None:
    def widen(batch: dict[str, Any]) -> dict[str, Any]:
        shard = int(batch["shard"][0])
        return {"shard": np.full(1000 * (shard + 1), shard), "x": np.zeros((1000 * (shard + 1), 64), np.float32)}

    class Count:
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            shards = np.unique(batch["shard"])
            return {"shard": [int(shards[0])], "rows": [len(batch["shard"])], "kinds": [len(shards)]}

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        wide = dataset.map_batches(widen, batch_size=None, num_cpus=0.5)
        return wide.map_batches(Count, batch_size=None, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.5)

    rows = sorted((r["shard"], r["rows"], r["kinds"]) for r in run_shards("count", [0, 3, 5, 17], stages))
    assert rows == [(s, 1000 * (s + 1), 1) for s in (0, 3, 5, 17)]


def test_no_shards_start_nothing() -> None:
    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        raise AssertionError("must not be called")

    assert list(run_shards("nothing", [], stages)) == []


def test_objects_travel_in_result_rows() -> None:
    def make(row: dict[str, Any]) -> dict[str, Any]:
        return {"rows": 1, "result": InputError(f"shard {row['shard']}", "none")}

    results = [r["result"] for r in run_shards("objects", [4, 2], lambda d: d.map(make, num_cpus=0.5))]
    assert sorted(str(r.cause) for r in results) == ["shard 2", "shard 4"]


@pytest.mark.parametrize("kind", [InputError, StoppedError])
def test_errors_of_stages_come_back_as_raised(kind: type[CoevoError]) -> None:
    def fail(row: dict[str, Any]) -> dict[str, Any]:
        raise kind("the cause", "the remedy")

    with pytest.raises(kind) as caught:
        list(run_shards("fail", [0], lambda d: d.map(fail, num_cpus=0.5)))
    assert (caught.value.cause, caught.value.remedy) == ("the cause", "the remedy")


@pytest.mark.slow  # it starts a process for each retry
def test_results_that_are_kept_come_in_the_order_of_the_items() -> None:
    def work(row: dict[str, Any], given: int) -> list[Any]:
        time.sleep(0.2 / (1 + row["start"]))
        return [{"sum": row["start"] + given}, np.full(3, given), "more"]

    items = [{"start": 0}, {"start": 5}, {"start": 9}]
    with Ticker("keep", 3, "parts") as ticker:
        given = ([ray.put(100 * at)] for at in range(3))
        rows, kept = keep_each("keep", items, work, given, ticker, need=Need("task", 0.5), returns=2)
        assert ticker.done == 3
        plain, none = keep_each("keep", items, lambda row: {"start": row["start"]}, [()] * 3, ticker)
        assert keep_each("keep", [], work, [], ticker, returns=2) == ([], [])
    assert [row["sum"] for row in rows] == [0, 105, 209]
    assert [[array.tolist(), text] for array, text in map(ray.get, kept)] == [[[100 * i] * 3, "more"] for i in range(3)]
    assert [row["start"] for row in plain] == [0, 5, 9]
    assert none == [[], [], []]


def test_an_error_beside_results_that_are_kept_comes_back_as_raised() -> None:
    def fail(row: dict[str, Any]) -> list[Any]:
        raise InputError("the cause", "the remedy")

    with Ticker("keep", 1, "parts") as ticker, pytest.raises(InputError, match=r"the cause(?s:.*)the remedy"):
        keep_each("keep", [{"start": 0}], fail, [()], ticker, returns=2)


def test_a_part_whose_worker_always_dies_is_not_tried_for_ever(tmp_path: Path) -> None:
    """A library that ends its process, as pyarrow did on some Parquet files, raises nothing."""

    def end(row: dict[str, Any]) -> dict[str, Any]:
        if row["shard"] == 1:
            with (tmp_path / "tries").open("a") as file:
                file.write(".")
            os.abort()
        return {"rows": 1}

    with pytest.raises(StoppedError, match=f"die, shard 1: the process died {MOST_DEATHS} times with it"):
        list(run_each("die", [0, 1, 2], end))
    assert (tmp_path / "tries").read_text() == "." * MOST_DEATHS


@pytest.fixture
def nothing_logged() -> Iterator[None]:
    """pytest keeps what is logged, and Ray Data logs an error with all its frames."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def free_cpus() -> float:
    cpus: float = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]  # Ray leaves it untyped
    return cpus


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_logged")
def test_an_error_that_somebody_keeps_keeps_no_actor() -> None:
    """In a notebook the last error stays; the CPUs of the actors that failed must not."""
    before = free_cpus()

    class Fails:
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            raise InputError("the cause", "the remedy")

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        return dataset.map_batches(
            Fails, batch_size=None, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=before / 2
        )

    kept = []
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            list(run_shards("fail", [0, 1], stages))
        kept.append(caught.value)
    deadline = time.monotonic() + 60
    while free_cpus() < before:
        assert time.monotonic() < deadline, "actors of failed work are still there"
        time.sleep(0.2)
    assert [error.cause for error in kept] == ["the cause"] * 2
