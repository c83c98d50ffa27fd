"""The feed in and with other processes: what is killed, what is left, what repeats."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.errors import InputError, StoppedError, UsageError
from coevo_ray.pool.pool import Pool
from coevo_ray.training.feed.feed import Feed
from tests.processes import Marked
from tests.training.feed.helpers import DiesAt, Noisy, row_of, write_pool

ROWS = 300


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_pool(tmp_path_factory.mktemp("pool"), ROWS))


def test_images_and_labels_come_with_their_rows(place: str) -> None:
    for batch in Feed.of_images(place, global_batch=32).epoch(Subset(0, np.arange(0, ROWS, 3))):
        assert row_of(batch["image"]) == batch.row_ids.tolist()
        assert batch["image"].dtype == torch.uint8
        assert batch["label"].tolist() == [-1 if r % 5 == 0 else r % 10 for r in batch.row_ids.tolist()]


@pytest.mark.slow
def test_transforms_repeat_by_row_whatever_the_workers_and_processes(place: str) -> None:
    subset = Subset(2, np.arange(0, ROWS, 4))

    def numbers(world: int, workers: int, batch: int, epoch: int = 2) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for rank in range(world):
            feed = Feed.of_images(place, Noisy(), global_batch=batch, seed=5, workers=workers)
            for part in feed.epoch(Subset(epoch, subset.row_ids), rank, world):
                found.update(zip(part.row_ids.tolist(), part["image"].tolist(), strict=True))
            feed.close()
        return found

    alone = numbers(1, 0, 16)
    assert len(alone) == len(subset.row_ids)
    assert np.unique(list(alone.values())).size == 3 * len(alone)
    assert numbers(3, 0, 10) == alone
    assert numbers(1, 2, 16) == alone
    assert not set(map(tuple, numbers(1, 0, 16, epoch=3).values())) & set(map(tuple, alone.values()))


def test_the_training_loop_keeps_its_generators(place: str) -> None:
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(3).tolist(), random.random()
    torch.manual_seed(1)
    random.seed(1)
    list(Feed.of_images(place, Noisy(), global_batch=64).epoch(Subset(0, np.arange(ROWS))))
    assert (torch.rand(3).tolist(), random.random()) == expected


@pytest.mark.slow
def test_transforms_of_torchvision_run_in_processes(place: str) -> None:
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    subset = Subset(0, np.arange(100))
    alone = list(Feed.of_images(place, transform, global_batch=40).epoch(subset))
    feed = Feed.of_images(place, transform, global_batch=40, workers=2)
    for _ in range(2):  # processes stay for the next epoch
        apart = list(feed.epoch(subset))
        for a, b in zip(alone, apart, strict=True):
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["label"], b["label"])
            assert a.row_ids.tolist() == b.row_ids.tolist()
    assert feed.rows_made == 200
    feed.close()


@pytest.mark.slow
def test_errors_of_processes_reach_the_training_loop(place: str) -> None:
    feed = Feed.of_images(place, v2.Lambda(lambda image: "no tensor"), global_batch=40, workers=1)
    with pytest.raises(UsageError, match="returned str"):
        list(feed.epoch(Subset(0, np.arange(100))))
    feed.close()


def test_a_process_that_is_killed_stops_the_epoch(place: str) -> None:
    feed = Feed(Pool.open(place), ["image"], DiesAt(50), global_batch=16, seed=0, workers=1)
    with pytest.raises(StoppedError, match="died"):
        list(feed.epoch(Subset(0, np.arange(ROWS))))
    feed.close()


def test_what_cannot_travel_is_refused(place: str) -> None:
    lock = threading.Lock()
    feed = Feed.of_images(place, lambda image: lock, global_batch=16, workers=1)
    with pytest.raises(UsageError, match="cannot be sent"):
        next(feed.epoch(Subset(0, np.arange(ROWS))))


def test_images_of_several_sizes_are_refused(place: str) -> None:
    sizes = iter(range(1, 9))
    feed = Feed.of_images(place, lambda image: torch.zeros(next(sizes)), global_batch=4)
    with pytest.raises(InputError, match="shapes"):
        next(feed.epoch(Subset(0, np.arange(8))))


def start(place: str, log: Path, rank: int, world: int, offset: int, workers: int = 0) -> Marked:
    arguments = [place, str(log), str(rank), str(world), str(offset), str(workers)]
    return Marked([sys.executable, "-m", "tests.training.feed.helpers", *arguments], log.parent)


def records(log: Path) -> list[dict[str, list[int]]]:
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_workers_killed_in_an_epoch_resume_with_no_row_lost_or_repeated(place: str, tmp_path: Path) -> None:
    """Two workers are killed with SIGKILL; three others go on where both had finished their steps."""
    logs = [tmp_path / "0", tmp_path / "1"]
    workers = [start(place, log, rank, 2, 0) for rank, log in enumerate(logs)]
    try:
        for worker, log in zip(workers, logs, strict=True):
            worker.until(lambda log=log: len(records(log)) >= 3)  # type: ignore[misc]
        for worker in workers:
            worker.kill()
    finally:
        for worker in workers:
            worker.end()
    steps = min(len(records(log)) for log in logs)
    assert 3 <= steps < 19
    done = [row for log in logs for record in records(log)[:steps] for row in record["rows"]]
    offset = int(records(logs[0])[steps - 1]["offset"])  # type: ignore[call-overload]
    others = [start(place, tmp_path / f"after{rank}", rank, 3, offset) for rank in range(3)]
    for rank, other in enumerate(others):
        assert other.wait(100) == 0, other.err.read_text()
        done += [row for record in records(tmp_path / f"after{rank}") for row in record["rows"]]
    assert sorted(done) == list(range(0, ROWS, 2))


@pytest.mark.slow
def test_processes_of_a_killed_trainer_end(place: str, tmp_path: Path) -> None:
    trainer = start(place, tmp_path / "log", 0, 1, 0, workers=1)
    try:
        trainer.until(lambda: len(records(tmp_path / "log")) >= 1)
        assert len(trainer.left()) >= 2
        trainer.kill()
        begun = time.monotonic()
        assert trainer.gone(30)
        assert time.monotonic() - begun < 10
    finally:
        trainer.end()
