"""Figures of a stage: what is recorded, how often, and under which names."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from coevo_ray import telemetry
from coevo_ray.progress import Ticker
from coevo_ray.store.location import Location
from coevo_ray.store.writing import writing
from coevo_ray.telemetry import (
    EPOCHS_DONE,
    FEED_WAIT,
    FEED_WAIT_SECONDS,
    LAST_PROGRESS,
    PROGRESS,
    REJECTED,
    ROWS_DONE,
    ROWS_REJECTED,
    STAGE_RUNNING,
    Metric,
    named_run,
    named_stage,
    record,
    run_name,
    stage_name,
)
from coevo_ray.training.feed.meter import FeedMeter


class Kept:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self.last: dict[tuple[str, ...], float] = {}
        self.calls = 0

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        assert tags.keys() == set(metric.tags) and all(tags.values())
        self.calls += 1
        key = (metric.name, *(tags[name] for name in metric.tags))
        self.sums[key] += value
        self.last[key] = value


@pytest.fixture
def kept() -> Iterator[Kept]:
    receiver = Kept()
    before = telemetry.receive(receiver)
    yield receiver
    telemetry.receive(before)


def test_a_stage_counts_each_row_once_and_says_that_it_runs(kept: Kept) -> None:
    with named_run("r"), Ticker("score", 1000) as bar:
        assert kept.last[STAGE_RUNNING.name, "r", "score"] == 1
        for _ in range(100):
            bar.advance(10, rejected=1)
        bar.advance(0, "nothing")
    assert kept.sums[ROWS_DONE.name, "r", "score"] == 1000
    assert kept.sums[ROWS_REJECTED.name, "r", "score"] == 100
    assert kept.last[REJECTED.name, "r", "score"] == 0.1
    assert kept.last[PROGRESS.name, "r", "score"] == 1
    assert kept.last[STAGE_RUNNING.name, "r", "score"] == 0
    assert kept.last[LAST_PROGRESS.name, "r", "score"] == pytest.approx(time.time(), abs=60)
    assert kept.calls < 30, "once a second, not once a row"


def test_epochs_are_counted_as_epochs_and_other_units_not_as_rows(kept: Kept) -> None:
    with named_run("r"), Ticker("train", 3, "epochs") as bar:
        bar.advance(2)
    with named_run("r"), Ticker("verify", 3, "files") as bar:
        bar.advance(3)
    assert kept.sums[EPOCHS_DONE.name, "r", "train"] == 2
    assert not [key for key in kept.sums if key[0] == ROWS_DONE.name]
    assert kept.last[PROGRESS.name, "r", "verify"] == 1


def test_the_outermost_output_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(telemetry.RUN_NAME, raising=False)
    out = Location.parse(str(tmp_path / "digits"))
    assert (run_name(), stage_name()) == ("unnamed", "")
    with writing(out):
        with writing(out.child("pool")):
            assert (run_name(), stage_name()) == ("digits", "pool")
            with Ticker("check samples", 1):
                assert stage_name() == "check samples"
        assert (run_name(), stage_name()) == ("digits", "digits")
        monkeypatch.setenv(telemetry.RUN_NAME, "mine")
        assert run_name() == "mine"
    monkeypatch.delenv(telemetry.RUN_NAME)
    assert (run_name(), stage_name()) == ("unnamed", "")


def test_nothing_is_recorded_without_a_receiver_or_a_value(kept: Kept) -> None:
    record(ROWS_DONE, 0)
    record(PROGRESS, None)
    telemetry.receive(None)
    record(PROGRESS, 1.0)
    assert kept.calls == 0


class At:
    def __init__(self, offset: int) -> None:
        self.offset = offset


def test_a_feed_that_is_slow_is_told_from_a_step_that_is(kept: Kept) -> None:
    def slow() -> Iterator[At]:
        for offset in (6, 8, 10):
            time.sleep(0.05)
            yield At(offset)

    with named_run("r"), named_stage("train"):
        meter = FeedMeter(0)
        for _ in meter.timed(slow(), 4):
            pass
        assert meter.waited >= 0.15 and meter.waited / meter.elapsed > 0.9
        waits = FeedMeter(1)
        for _ in waits.timed(iter([At(6), At(10)]), 4):
            time.sleep(0.05)
        assert waits.elapsed >= 0.1 and waits.waited / waits.elapsed < 0.5
    assert kept.last[FEED_WAIT.name, "r", "train", "0"] == meter.waited / meter.elapsed
    assert kept.sums[FEED_WAIT_SECONDS.name, "r", "train", "1"] == waits.waited


@pytest.mark.parametrize("ends", ["by itself", "early", "by an error"])
def test_rows_of_an_epoch_are_counted_once_by_rank_0(kept: Kept, ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coevo_ray.training.feed.meter.PUBLISHED_EVERY_S", 0.0)

    def batches() -> Iterator[At]:
        yield At(6)
        yield At(8)
        if ends == "by an error":
            raise OSError("the store failed")
        yield At(10)

    with named_run("r"), named_stage("train"):
        for rank in (0, 1):
            steps = FeedMeter(rank).timed(batches(), 4)
            try:
                for batch in steps:
                    if ends == "early" and batch.offset == 10:
                        break
            except OSError:
                pass
            steps.close()  # type: ignore[attr-defined]
    done = {"by itself": 6, "early": 4, "by an error": 4}[ends]
    assert kept.sums[ROWS_DONE.name, "r", "train"] == done
