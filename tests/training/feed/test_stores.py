"""The feed over S3, in Ray Train's workers, and on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.train
import torch

import coevo_ray
from coevo_ray.config import Compute
from coevo_ray.core.feed.epoch_plan import Subset
from coevo_ray.runtime.session import ray_session
from coevo_ray.store.location import Location
from coevo_ray.training.feed.feed import Feed
from coevo_ray.training.loop.ray_train import fit, load_checkpoint, save_checkpoint
from tests.s3_server import s3_server
from tests.training.feed.helpers import row_of, write_pool

ROWS = 300


def test_a_pool_on_s3_is_read_as_a_local_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pool(tmp_path / "bucket" / "pool", ROWS, files=10, group_rows=10)
    rows = np.flatnonzero(np.arange(ROWS) % 60 < 15)  # half of the files, half of their row groups
    local = list(Feed.of_images(tmp_path / "bucket" / "pool", global_batch=16).epoch(Subset(0, rows), 1, 2))
    with s3_server(tmp_path, monkeypatch) as server:
        feed = Feed.of_images(server.uri("bucket/pool"), global_batch=16)
        server.sent, server.objects = 0, set()
        far = list(feed.epoch(Subset(0, rows), 1, 2))
        sent, objects = server.sent, server.objects
    for a, b in zip(local, far, strict=True):
        assert a.row_ids.tolist() == b.row_ids.tolist() == row_of(b["image"])
    assert objects <= {f"bucket/pool/{i}.parquet" for i in range(0, 10, 2)}
    assert 0 < sent < sum(f.bytes for f in feed.table.files)


def _own_loop(arguments: dict[str, Any]) -> None:
    """A user's own loop: the worker's place and device are found by the feed."""
    feed = coevo_ray.Feed.of_images(arguments["pool"], global_batch=8)
    subset = coevo_ray.Subset(0, np.arange(0, ROWS, 3))
    rows = [r for b in feed.epoch(subset) for r in row_of(b["image"][b.weights > 0])]
    rank = ray.train.get_context().get_world_rank()
    Path(arguments["out"], f"{rank}.txt").write_text(" ".join(map(str, rows)))
    save_checkpoint({"device": str(feed.device)}, [], {"rows": len(rows)})


@pytest.mark.slow
def test_a_loop_in_ray_train_gets_its_own_part(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ROWS)
    with ray_session():
        arguments = {"pool": str(pool), "out": str(tmp_path)}
        checkpoint = fit("own loop", _own_loop, arguments, Compute(actors=2), Location.parse(tmp_path / "run"))
    assert load_checkpoint(checkpoint)[0] == {"device": "cpu"}
    parts = [[int(r) for r in (tmp_path / f"{rank}.txt").read_text().split()] for rank in range(2)]
    assert min(map(len, parts)) >= 48
    assert sorted(parts[0] + parts[1]) == list(range(0, ROWS, 3))


def test_outside_of_ray_train_the_feed_is_alone(tmp_path: Path) -> None:
    feed = Feed.of_images(write_pool(tmp_path / "pool", 40).uri, global_batch=8)
    assert feed.device.type == "cpu"
    assert sorted(r for b in feed.epoch(Subset(0, np.arange(40))) for r in row_of(b["image"])) == list(range(40))


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_on_the_gpu(tmp_path: Path, workers: int) -> None:
    place = write_pool(tmp_path / "pool", ROWS).uri
    subset = Subset(0, np.arange(ROWS), np.linspace(0.5, 1.5, ROWS).astype(np.float32))
    near = list(Feed.of_images(place, global_batch=32).epoch(subset))
    feed = Feed.of_images(place, global_batch=32, device="cuda", workers=workers)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with torch.cuda.stream(stream):  # the taker's stream waits for the copy, whichever it is
        for a, b in zip(near, feed.epoch(subset), strict=True):
            assert b["image"].is_cuda
            busy = torch.randn(2000, 2000, device="cuda")
            for _ in range(20):
                busy = busy @ busy / 2000
            assert torch.equal(a["image"], b["image"].cpu())
            assert torch.equal(a["label"], b["label"].cpu())
            assert torch.equal(a.weights, b.weights.cpu())
    feed.close()
