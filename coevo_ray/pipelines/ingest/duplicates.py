"""Duplicate rows: found by hash on the driver, named by tasks that read only keys."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from coevo_ray.config import PoolConfig
from coevo_ray.core.arrays import Int64Array
from coevo_ray.pipelines.ingest.passes import Checked, EarlierHashes, keys_at
from coevo_ray.pool.duplicates import find_duplicates
from coevo_ray.pool.entries import SourceShard
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.rejects import Reject
from coevo_ray.store.location import Location
from coevo_ray.telemetry import ROWS_REJECTED, record


def reject_duplicates(
    config: PoolConfig,
    location: Location,
    earlier: EarlierHashes,
    shards: list[SourceShard],
    checked: list[Checked],
) -> list[Reject]:
    """Marks entries as unusable that repeat the key, and then the content, of an earlier usable entry.

    Args:
        config: the pool's settings.
        location: the pool.
        earlier: hashes of the pool's earlier rows, which may hold the first occurrence.
        shards: the new shards.
        checked: their findings; `usable` is changed, and hashes are dropped after their comparison.

    Returns:
        A reject for each; duplicates of content name the key of the first occurrence.
    """
    old = sum(len(h) for h in earlier.keys)
    starts: Int64Array = np.cumsum([0, *(len(c.usable) for c in checked)]) + old
    usable = [np.ones(len(h), dtype=bool) for h in earlier.keys] + [c.usable for c in checked]

    by_key, _ = find_duplicates([*earlier.keys, *(c.keys for c in checked)], usable)
    _mark(checked, starts, by_key)
    for c in checked:
        c.keys = c.keys[:0].copy()
    by_content: Int64Array = np.zeros(0, np.int64)
    firsts = by_content
    if config.reject_duplicates == "content":
        by_content, firsts = find_duplicates([*earlier.contents, *(c.contents for c in checked)], usable)
        _mark(checked, starts, by_content)
        for c in checked:
            c.contents = c.contents[:0].copy()
    keys = _keys(config, location, shards, starts, np.concatenate([by_key, by_content, firsts]))
    rejects = [Reject(keys[p], "ingest", "duplicate key") for p in by_key.tolist()]
    for position, first in zip(by_content.tolist(), firsts.tolist(), strict=True):
        rejects.append(Reject(keys[position], "ingest", f"duplicate content: the same as {keys[first]}"))
    record(ROWS_REJECTED, len(rejects), stage="check samples")
    return rejects


def _mark(checked: list[Checked], starts: Int64Array, positions: Int64Array) -> None:
    for i in np.unique(np.searchsorted(starts, positions, side="right") - 1).tolist():
        low, high = np.searchsorted(positions, [starts[i], starts[i + 1]])
        checked[i].usable[positions[low:high] - starts[i]] = False


def _keys(
    config: PoolConfig, location: Location, shards: list[SourceShard], starts: Int64Array, positions: Int64Array
) -> dict[int, str]:
    """Position -> key; positions count the pool's earlier rows first."""
    positions = np.unique(positions)
    keys: dict[int, str] = {}
    old = positions[positions < starts[0]]  # row_ids are dense, so a position is a row_id
    if len(old):
        keys.update(zip(old.tolist(), Pool(location).read(old, ["key"]).column("key").to_pylist(), strict=True))
    wanted: dict[int, list[int]] = defaultdict(list)
    for position in positions[positions >= starts[0]].tolist():
        shard = int(np.searchsorted(starts, position, side="right")) - 1
        wanted[shard].append(position - int(starts[shard]))
    for (shard, i), key in keys_at(config, shards, wanted).items():
        keys[int(starts[shard]) + i] = key
    return keys
