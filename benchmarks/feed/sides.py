"""The pools of the feed benchmark, and both sides that read them; each function runs in a process of its own."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.common import timed
from benchmarks.memory import Sampler

BATCH_ROWS = 256
_PIXELS = 32
_QUALITY = 90
_PADDING = 4
_SEED = 0
_MEAN, _STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def make_pools(folder: str, data: str | None, rows: int, copies: int) -> dict[str, Any]:
    """Ingests `folder`/small and makes `folder`/large of copies of it.

    Args:
        folder: an empty folder.
        data: folder of train-*.parquet with images and labels, or None for scikit-learn's digits as small JPEG images.
        rows: of the small pool, at most.
        copies: how often the large pool holds them.

    Returns:
        Rows of both, mean bytes of an image, and seconds of ingest.
    """
    from coevo_ray.pipelines.ingest.ingest import ingest
    from coevo_ray.runtime.session import ray_session

    if data is None:
        table = _digits(rows)
    else:
        parts = [pq.read_table(file, columns=["image", "label"]) for file in sorted(Path(data).glob("train-*.parquet"))]
        table = pa.concat_tables(parts).slice(0, rows)
    source = f"{folder}/images.parquet"
    pq.write_table(table, source)
    with ray_session():
        pool, seconds = timed(lambda: ingest({"sources": [source], "test_fraction": 0}, f"{folder}/small"))
    large = _copies(pool, f"{folder}/large", copies)
    mean = sum(f.bytes for f in pool.files) / len(pool)
    return {"small": len(pool), "large": large, "file_bytes_per_row": round(mean, 1), "ingest_seconds": seconds}


def _digits(rows: int) -> pa.Table:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.Generator(np.random.PCG64(_SEED))
    images = []
    for row in range(rows):
        grey = Image.fromarray((digits.images[row % len(digits.images)] * 255 / 16).round().astype(np.uint8))
        enlarged = np.asarray(grey.resize((_PIXELS, _PIXELS), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = enlarged[:, :, None] * random.uniform(0.5, 1, 3) + random.normal(0, 8, (_PIXELS, _PIXELS, 3))
        encoded = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, format="JPEG", quality=_QUALITY)
        images.append(encoded.getvalue())
    labels = digits.target[np.arange(rows) % len(digits.target)].astype(np.int64)
    return pa.table({"image": pa.array(images, pa.binary()), "label": labels})


def _copies(pool: Any, folder: str, copies: int) -> int:
    """The same files again and again with row_ids that go on, as an ingest of so many copies would write them."""
    from coevo_ray.store.artifact import finish
    from coevo_ray.store.data_files import write_table
    from coevo_ray.store.location import Location

    place, first = Location.parse(folder), 0
    files: list[Any] = []
    for copy in range(copies):
        for entry in pool.files:
            rows = pq.read_table(pool.location.child(entry.path).path)
            ids = pa.array(np.arange(first, first + entry.rows))
            keys = pa.array([f"{copy}/{key}" for key in rows.column("key").to_pylist()])
            rows = rows.set_column(0, "row_id", ids).set_column(1, "key", keys)
            files.append(write_table(place, f"{len(files):06d}.parquet", rows, entry.group_rows))
            first += entry.rows
    finish(place, "pool", {"copies": copies}, {}, files, pool.manifest.summary)
    return first


def transform(kind: str) -> Any:
    """The transform of both sides, of torchvision: to float and normalise; `random` crops and mirrors first.

    The feed calls the parts that do the same to each pixel once for a batch.
    """
    from torchvision.transforms import v2

    drawn = [v2.RandomCrop(_PIXELS, padding=_PADDING), v2.RandomHorizontalFlip()] if kind == "random" else []
    return v2.Compose([*drawn, v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)])


def feed_epochs(pool: str, shares: list[float], repeats: int, workers: int, kind: str) -> dict[str, Any]:
    """Seconds of epochs of a pool, by kept share, in random subsets of their own.

    Args:
        pool: its folder.
        shares: kept shares; they take turns.
        repeats: epochs of each.
        workers: processes of the feed.
        kind: of `transform`; `batch`: ImageTransform.

    Returns:
        `seconds`: share -> one for each repeat; `first_seconds`: until the first batch of a warm feed; `rows_made`,
        `bytes_read` and `groups_read` by share; `peak_bytes` of the process with its workers; `idle_bytes` before.
    """
    from coevo_ray.core.feed.epoch_plan import Subset

    opened = _open(pool)
    feed = _feed(opened, workers, kind)
    rows = np.arange(len(opened))
    for _ in feed.epoch(Subset(0, rows[: 2 * BATCH_ROWS * (workers + 1)])):
        pass  # processes are started, libraries loaded
    seconds: dict[str, list[float]] = {str(share): [] for share in shares}
    made: dict[str, dict[str, int]] = {}
    first = 0.0
    with Sampler() as memory:
        for repeat in range(repeats):
            for share in shares if repeat % 2 == 0 else shares[::-1]:
                before = (feed.rows_made, opened.bytes_read, opened.groups_read)
                subset = _subset(rows, share, epoch=repeat)
                first, taken = _drain(feed.epoch(subset))
                seconds[str(share)].append(taken)
                after = (feed.rows_made, opened.bytes_read, opened.groups_read)
                counts = (b - a for a, b in zip(before, after, strict=True))
                made[str(share)] = dict(zip(("rows_made", "bytes_read", "groups_read"), counts, strict=True))
                if made[str(share)]["rows_made"] != len(subset.row_ids):
                    raise RuntimeError("rows outside the subset were decoded, or rows were left out")
    feed.close()
    return {"seconds": seconds, "first_seconds": first, "counts": made, "peak_bytes": memory.peak_bytes}


def loader_epochs(pool: str, repeats: int, workers: int, kind: str) -> list[float]:
    """Seconds of whole epochs by a torch DataLoader: the same bytes, in memory, decode, transform and batch size."""
    from torch.utils.data import DataLoader

    rows = _open(pool).scan(["image", "label"])
    dataset = _Images(rows.column("image").to_pylist(), rows.column("label").fill_null(-1).to_pylist(), kind)
    loader: DataLoader[Any] = DataLoader(
        dataset, BATCH_ROWS, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    if workers == 0:
        torch.set_num_threads(1)  # more threads only slow the small images down
    found = []
    for _ in range(repeats + 1):
        _, seconds = _drain(iter(loader))
        found.append(seconds)
    return found[1:]  # the first one has started the processes


class _Images(torch.utils.data.Dataset[Any]):
    def __init__(self, images: list[bytes], labels: list[int], kind: str) -> None:
        from coevo_ray.training.feed.images import decode_pixels

        self.images, self.labels, self.decode, self.transform = images, labels, decode_pixels, transform(kind)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.decode(self.images[index])), self.labels[index]


def _open(pool: str) -> Any:
    from coevo_ray.pool.pool import Pool

    return Pool.open(pool)


def _feed(pool: Any, workers: int, kind: str) -> Any:
    from coevo_ray.training.feed.feed import Feed
    from coevo_ray.training.feed.images import ImageTransform

    if kind == "batch":
        made = ImageTransform(_PIXELS, "none")
        return Feed(pool, ["image", "label"], made, global_batch=BATCH_ROWS, seed=_SEED, workers=workers)
    return Feed.of_images(pool, transform(kind), global_batch=BATCH_ROWS, seed=_SEED, workers=workers)


def _subset(rows: npt.NDArray[np.int64], share: float, epoch: int) -> Any:
    from coevo_ray.core.feed.epoch_plan import Subset
    from coevo_ray.core.rows.hashing import choose_rows

    return Subset(epoch, choose_rows(rows, round(share * len(rows)), seed=epoch))


def _drain(batches: Any) -> tuple[float, float]:
    """Seconds to the first batch and to the last one."""
    started, first = time.perf_counter(), 0.0
    for _ in batches:
        first = first or time.perf_counter() - started
    return first, time.perf_counter() - started
