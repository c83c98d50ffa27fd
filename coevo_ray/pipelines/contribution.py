"""Contributions: what one participant makes of the pool, and how it is laid out.

A contribution holds projected features of the participant's own rows and of the shared set, and no images:
`row_id int64`, `own bool`, `shared bool`, `feature float16[n]`, one file per shard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coevo_ray.core.rows import assign_participants
from coevo_ray.pool.rejects import Reject
from coevo_ray.store.location import Location

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """Which rows one participant encodes, shard by shard.

    Attributes:
        pool: the pool's folder.
        shared: int64[s] row_ids of the shared set, increasing.
        weights: shares of all participants; `index` is this one's place among them.
        shard_rows: row_ids of a shard.
        seed: seed of the assignment.
    """

    pool: Location
    rows: int
    shared: Int64Array
    weights: tuple[float, ...]
    index: int
    shard_rows: int
    seed: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.rows // self.shard_rows)

    def row_ids(self, shard: int) -> tuple[Int64Array, BoolArray, BoolArray]:
        """Rows to encode in a shard, increasing; which of them are the participant's own; which are shared."""
        ids = np.arange(shard * self.shard_rows, min(self.rows, (shard + 1) * self.shard_rows), dtype=np.int64)
        own = assign_participants(ids, self.weights, self.seed) == self.index
        shared = np.isin(ids, self.shared, assume_unique=True)
        wanted = own | shared
        return ids[wanted], own[wanted], shared[wanted]


def shard_name(shard: int) -> str:
    """File of a shard, in a contribution and in the targets."""
    return f"features-{shard:06d}.parquet"


def write_shard_rejects(location: Location, shard: int, rejects: list[Reject]) -> None:
    """Keeps a shard's rejects beside it, written before it, so that a resumed job still counts them.

    Raises:
        StoppedError: the store refused.
    """
    if rejects:
        location.child(f"features-{shard:06d}.rejects.json").write_json([r.__dict__ for r in rejects])


def read_shard_rejects(location: Location, shard: int) -> list[Reject]:
    """Rejects that were written beside a shard."""
    file = location.child(f"features-{shard:06d}.rejects.json")
    return [Reject(**r) for r in file.read_json()] if file.is_file() else []
