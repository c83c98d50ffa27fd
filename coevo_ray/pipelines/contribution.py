"""Contributions: what one participant makes of the pool, and how it is laid out.

A contribution holds projected features and no images: `features-NNNNNN.parquet` with the participant's own rows and the
shared rows of the same pool, and, where the shared set is a pool of its own, `shared-NNNNNN.parquet`. Columns: `row_id
int64`, `own bool`, `shared bool`, `feature float16[n]`, and `sample uint64`, a hash of the row's content by which rows
of different pools are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coevo_ray.core.rows import assign_participants
from coevo_ray.pool.rejects import Reject
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
OWN, SHARED = "features-", "shared-"
_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """The rows of a shard that participants want.

    Attributes:
        pool: the pool's folder.
        ids: int64[n] row_ids, increasing.
        owner: uint8[n], place of the participant that a row belongs to.
        shared: bool[n], encoded by every participant.
        belong: whether rows belong to participants at all; those of a shared pool do not.
    """

    pool: Location
    ids: Int64Array
    owner: npt.NDArray[np.uint8]
    shared: BoolArray
    belong: bool

    def wanted(self, participant: int) -> BoolArray:
        """bool[n]: what a participant encodes."""
        wanted: BoolArray = self.shared | self.own(participant)
        return wanted

    def own(self, participant: int) -> BoolArray:
        """bool[n]: what belongs to a participant."""
        own: BoolArray = (self.owner == participant) & self.belong
        return own


@dataclass(frozen=True)
class Plan:
    """Which rows are encoded, shard by shard: those of the pool, then those of a shared pool.

    Attributes:
        pool, rows: the pool's folder and its number of rows.
        weights: shares of all participants.
        shard_rows: row_ids of a shard.
        seed: seed of the assignment.
        shared: int64[s] row_ids of the shared set, increasing, where it is part of the pool.
        shared_pool, shared_rows: folder and number of rows of a shared pool; None and 0 without one.
    """

    pool: Location
    rows: int
    weights: tuple[float, ...]
    shard_rows: int
    seed: int
    shared: Int64Array = field(default_factory=lambda: _NO_ROWS)
    shared_pool: Location | None = None
    shared_rows: int = 0

    @cached_property
    def own_shards(self) -> int:
        """Shards of the pool."""
        return -(-self.rows // self.shard_rows)

    @property
    def shards(self) -> int:
        """Shards in all."""
        return self.own_shards + -(-self.shared_rows // self.shard_rows)

    def name(self, shard: int) -> str:
        """File of a shard in a contribution, without its suffix."""
        if shard < self.own_shards:
            return f"{OWN}{shard:06d}"
        return f"{SHARED}{shard - self.own_shards:06d}"

    def row_ids(self, shard: int) -> Rows:
        """The rows of a shard."""
        if shard < self.own_shards:
            ids = self._range(shard, self.rows)
            owner = assign_participants(ids, self.weights, self.seed)
            return Rows(self.pool, ids, owner, np.isin(ids, self.shared, assume_unique=True), belong=True)
        assert self.shared_pool is not None
        ids = self._range(shard - self.own_shards, self.shared_rows)
        return Rows(self.shared_pool, ids, np.zeros(len(ids), np.uint8), np.ones(len(ids), bool), belong=False)

    def _range(self, shard: int, rows: int) -> Int64Array:
        return np.arange(shard * self.shard_rows, min(rows, (shard + 1) * self.shard_rows), dtype=np.int64)


def open_contribution(location: Location) -> RowTable:
    """The participant's own rows, and the shared ones of the same pool.

    Raises:
        InputError: there is no finished contribution here.
    """
    return RowTable(location, "contribution", prefix=OWN)


def shared_features(contribution: RowTable) -> tuple[Int64Array, npt.NDArray[np.float32]]:
    """A participant's features of the shared set.

    Returns:
        int64[s] row_ids (of the shared pool, if there is one), increasing; float32[s, n].

    Raises:
        InputError: a file cannot be read.
    """
    if "shared" in contribution.manifest.inputs:
        table = RowTable(contribution.location, "contribution", prefix=SHARED).scan(["row_id", "feature"])
        return table.column("row_id").to_numpy(), vectors(table.column("feature"))
    ids: Int64Array = contribution.row_ids()[contribution.column("shared").to_numpy()]
    return ids, vectors(contribution.read(ids, ["feature"]).column("feature"))


def own_rows(contribution: RowTable, columns: list[str], start: int = 0, stop: int | None = None) -> pa.Table:
    """A participant's own rows of a range of row_ids, in their order."""
    table = contribution.read_range(start, stop, [*columns, "own"])
    return table.filter(table.column("own")).select(columns)


def write_shard_rejects(location: Location, name: str, rejects: list[Reject]) -> None:
    """Keeps a shard's rejects beside it, written before it, so that a resumed job still counts them.

    Args:
        location: the contribution's folder.
        name: the shard's file, without its suffix.
        rejects: what was left out of it.

    Raises:
        StoppedError: the store refused.
    """
    if rejects:
        location.child(f"{name}.rejects.json").write_json([r.__dict__ for r in rejects])


def read_shard_rejects(location: Location, name: str) -> list[Reject]:
    """Rejects that were written beside a shard."""
    file = location.child(f"{name}.rejects.json")
    return [Reject(**r) for r in file.read_json()] if file.is_file() else []
