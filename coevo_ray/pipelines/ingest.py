"""Ingest: sources -> pool, in two passes of Ray Data.

The first pass reads and decodes every entry (a truncated image shows itself only then), so that the second one, which
writes, already knows how many rows each shard keeps: row_ids are dense and do not depend on parallelism.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from coevo_ray.config import PoolConfig, Source, make_config
from coevo_ray.core.rows import choose_rows
from coevo_ray.errors import InputError
from coevo_ray.pool.images import ImageError, verify_image
from coevo_ray.pool.pool import SCHEMA, TEST, TRAIN, Pool
from coevo_ray.pool.rejects import Reject, check_share, commonest, count_reasons, write_rejects
from coevo_ray.pool.samples import SCHEME, materialise_sample
from coevo_ray.pool.sources import Entry, SourceShard, distinguish, list_source, read_shard
from coevo_ray.runtime.session import ray_session
from coevo_ray.runtime.shards import run_shards
from coevo_ray.store.artifact import SCRATCH, FileEntry, Manifest, begin, describe, finish, write_table
from coevo_ray.store.location import Location

_GROUP_BYTES = 4 << 20


@dataclass(frozen=True)
class _Checked:
    """What the first pass found in a shard: per entry a key hash, a label and whether it can be used."""

    shard: int
    usable: npt.NDArray[np.bool_]
    key_hash: npt.NDArray[np.void]
    labels: npt.NDArray[np.int64]
    rejects: list[Reject]


def ingest(config: PoolConfig | dict[str, Any], out: str | os.PathLike[str] | Location) -> Pool:
    """Makes a pool, or continues or returns the one that is there.

    Args:
        config: where samples come from; a dict is validated.
        out: folder of the pool.

    Raises:
        InputError: a source is missing, empty or unreadable, or too many rows were rejected.
        UsageError: the settings are wrong, or differ from those of the pool that is there.
        StoppedError: the store refused; run it again to continue.
    """
    config = config if isinstance(config, PoolConfig) else make_config(PoolConfig, config, "pool")
    location = Location.parse(out)
    if begin(location, "pool", _content(config), {}) is not None:
        return Pool(location)
    started = time.monotonic()
    shards = _list(config, location)  # a missing source shows before Ray is started
    with ray_session():
        _ingest(config, location, shards, started)
    return Pool(location)


def _content(config: PoolConfig) -> dict[str, Any]:
    """What shapes the pool. The limit of rejects only ends jobs: who raises it after that may continue."""
    return config.model_dump(mode="json", exclude={"compute", "max_reject_fraction"})


def _ingest(config: PoolConfig, location: Location, shards: list[SourceShard], started: float) -> Manifest:
    checked = _check(config, shards)
    rejects = _reject_duplicates(checked, shards)
    rejects += [r for c in checked for r in c.rejects]
    entries = sum(len(c.usable) for c in checked)
    check_share(rejects, entries, config.max_reject_fraction, str(location))
    counts = [int(c.usable.sum()) for c in checked]
    if sum(counts) == 0:
        raise InputError(
            f"none of {entries} entries could be used: {commonest(rejects)}", "is this a source of images?"
        )
    splits = _splits(config, shards, counts)
    files = _write(config, location, shards, checked, splits)
    files += write_rejects(location, rejects)
    labels = np.concatenate([c.labels[c.usable] for c in checked])
    summary = {
        "rows": sum(counts),
        "train_rows": int((splits == TRAIN).sum()),
        "test_rows": int((splits == TEST).sum()),
        "rejected": len(rejects),
        "reject_reasons": count_reasons(rejects),
        "classes": config.classes or int(labels.max(initial=-1)) + 1,
        "labelled": int((labels >= 0).sum()),
        "class_names": list(next((s.classes for s in shards if s.classes), ())),
        "bytes": sum(f.bytes for f in files),
        "seconds": round(time.monotonic() - started, 3),
    }
    return finish(location, "pool", _content(config), {}, files, summary)


def _list(config: PoolConfig, location: Location) -> list[SourceShard]:
    sources: list[list[SourceShard]] = []
    for source in config.sources:
        if source.uri.startswith(SCHEME):
            # Samples are written once beside the pool, then treated like any user's images.
            folder = materialise_sample(source.uri, location.child(SCRATCH.rstrip("/")))
            source = Source(**{**source.model_dump(), "uri": folder.uri})
        sources.append(list_source(source, config.shard_rows))
    shards = distinguish(sources)
    if sum(s.rows for s in shards) == 0:
        raise InputError("the sources hold no rows", "give a source with at least one image")
    return _same_classes(shards)


def _same_classes(shards: list[SourceShard]) -> list[SourceShard]:
    """Gives all image folders the classes of the one with most; one that lacks some (a small test set) is fine."""
    names = {s.classes for s in shards if s.classes}
    most = max(names, key=lambda n: (len(n), n), default=())
    for other in sorted(names):
        only = sorted(set(other) - set(most))
        if only:
            raise InputError(
                f"image folders have different classes: {only[:4]} are not among {list(most)[:8]}",
                "give one source all class sub-folders, with an image in each, or use Parquet with labels",
            )
    return [replace(s, classes=most) if s.classes else s for s in shards]


def _check(config: PoolConfig, shards: list[SourceShard]) -> list[_Checked]:
    def check(row: dict[str, Any]) -> dict[str, Any]:
        return {"rows": shards[row["shard"]].rows, "result": _check_shard(row["shard"], shards[row["shard"]], config)}

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        return dataset.map(check, num_cpus=config.compute.reader_cpus)

    total = sum(s.rows for s in shards)
    results = [r["result"] for r in run_shards("check images", range(len(shards)), stages, total=total)]
    return sorted(results, key=lambda c: c.shard)


def _check_shard(index: int, shard: SourceShard, config: PoolConfig) -> _Checked:
    usable, hashes, labels, rejects = [], [], [], []
    for entry in read_shard(shard):
        reason = entry.error or _problem(entry, config)
        if reason:
            rejects.append(Reject(entry.key, "ingest", reason))
        usable.append(not reason)
        hashes.append(hashlib.blake2b(entry.key.encode(), digest_size=16).digest())
        labels.append(-1 if entry.label is None else entry.label)
    return _Checked(
        index, np.array(usable, bool), np.array(hashes, dtype="V16"), np.array(labels, dtype=np.int64), rejects
    )


def _problem(entry: Entry, config: PoolConfig) -> str:
    classes = config.classes
    if entry.label is not None and (entry.label < 0 or (classes is not None and entry.label >= classes)):
        return f"label outside the range: {entry.label}, need {f'0..{classes - 1}' if classes else '0 or more'}"
    assert entry.image is not None  # an entry without an error has its bytes
    if not config.verify:
        return ""
    try:
        verify_image(entry.image)
    except ImageError as error:
        return error.reason
    return ""


def _reject_duplicates(checked: list[_Checked], shards: list[SourceShard]) -> list[Reject]:
    """Marks all but the first usable entry of each key as unusable."""
    hashes = np.concatenate([c.key_hash for c in checked])
    usable = np.concatenate([c.usable for c in checked])
    positions = np.flatnonzero(usable)
    _, first = np.unique(hashes[positions].view("u1").reshape(-1, 16), axis=0, return_index=True)
    duplicate = usable.copy()
    duplicate[positions[first]] = False
    rejects, offset = [], 0
    for c in checked:
        here = duplicate[offset : offset + len(c.usable)]
        offset += len(c.usable)
        if here.any():
            keys = [entry.key for entry in read_shard(shards[c.shard])]
            rejects += [Reject(keys[i], "ingest", "duplicate key") for i in np.flatnonzero(here)]
            c.usable[here] = False
    return rejects


def _splits(config: PoolConfig, shards: list[SourceShard], counts: list[int]) -> npt.NDArray[np.int8]:
    """int8[rows]: forced splits, and exactly the wanted share of the other rows held out, by hash of the row_id."""
    forced = [{"train": TRAIN, "test": TEST, None: -1}[s.source.split] for s in shards]
    splits = np.repeat(np.array(forced, dtype=np.int8), counts)
    free = np.flatnonzero(splits < 0).astype(np.int64)
    held_out = choose_rows(free, round(config.test_fraction * len(free)), config.seed)
    splits[free] = TRAIN
    splits[held_out] = TEST
    if not (splits == TRAIN).any():
        raise InputError(
            f"all {len(splits)} rows are held out", "lower test_fraction, add rows, or set split: train on a source"
        )
    return splits


def _write(
    config: PoolConfig,
    location: Location,
    shards: list[SourceShard],
    checked: list[_Checked],
    splits: npt.NDArray[np.int8],
) -> list[FileEntry]:
    keep = [i for i, c in enumerate(checked) if c.usable.any()]
    starts = np.concatenate([[0], np.cumsum([c.usable.sum() for c in checked])]).astype(np.int64)
    there = set(location.files())
    done = {i: describe(location, _name(i)) for i in keep if _name(i) in there}
    # A source that grew or shrank since the interrupted attempt shifts row_ids: such files are written anew.
    done = {i: f for i, f in done.items() if (f.first_row_id, f.rows) == (starts[i], starts[i + 1] - starts[i])}
    files = list(done.values())
    usable = [c.usable for c in checked]

    def write(row: dict[str, Any]) -> dict[str, Any]:
        i = row["shard"]
        entries = [e for e, use in zip(read_shard(shards[i]), usable[i], strict=True) if use]
        entry = _write_shard(location, i, entries, int(starts[i]), splits[starts[i] : starts[i + 1]])
        return {"rows": entry.rows, "result": entry}

    def stages(dataset: ray.data.Dataset) -> ray.data.Dataset:
        return dataset.map(write, num_cpus=config.compute.reader_cpus)

    todo = [i for i in keep if i not in done]
    files += [r["result"] for r in run_shards("write pool", todo, stages, total=sum(usable[i].sum() for i in todo))]
    return files


def _name(shard: int) -> str:
    return f"rows-{shard:06d}.parquet"


def _write_shard(
    location: Location, shard: int, entries: list[Entry], start: int, splits: npt.NDArray[np.int8]
) -> FileEntry:
    table = pa.table(
        {
            "row_id": np.arange(start, start + len(entries)),
            "key": [e.key for e in entries],
            "image": [e.image for e in entries],
            "label": [e.label for e in entries],
            "split": splits,
        },
        schema=SCHEMA,
    )
    mean_bytes = max(1, table.column("image").nbytes // max(1, len(entries)))
    group = int(np.clip(_GROUP_BYTES // mean_bytes, 16, 512))
    return write_table(location, _name(shard), table, group_rows=group)
