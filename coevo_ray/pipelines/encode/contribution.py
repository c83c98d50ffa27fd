"""Contributions: one participant's projected features of a pool, and their layout.

A contribution holds no images. `shared-NNNNNN.parquet` is the shared set, which every participant encodes;
`features-NNNNNN.parquet` are the participant's other rows. Columns: `row_id int64`, `own bool`, `feature float16[c]`,
and `sample uint64`, a hash of the row's content by which rows of different pools are compared. The shared set has files
of its own so that a merge reads it without reading the rest. Features are the prior's c leading components on the
shared set (`components.safetensors` has the map to them), or in the published form its random projection to n values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from coevo_ray.config import Projection
from coevo_ray.core.arrays import BoolArray, Float32Array, Int16Array, Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.core.rows.hashing import assign_participants, cover_rows
from coevo_ray.errors import InputError
from coevo_ray.pool.rejects import Reject
from coevo_ray.store.location import Location
from coevo_ray.store.row_table import RowTable, vectors

OWN, SHARED, FULL = "features-", "shared-", "whole-"
COMPONENTS = "components.safetensors"
_NO_ROWS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """The rows of a shard.

    Attributes:
        pool: the pool's folder.
        ids: int64[n] row_ids, increasing.
        owner: int16[n], position of the participant that a row belongs to; -1 for rows of a shared pool.
        shared: whether they belong to the shared set, which every participant encodes.
        encoders: bool[n, participants], who encodes a row; None where its owner alone does.
    """

    pool: Location
    ids: Int64Array
    owner: Int16Array
    shared: bool
    encoders: BoolArray | None = None

    def wanted(self, participant: int) -> BoolArray:
        """bool[n]: rows that a participant encodes."""
        if self.shared:
            return np.ones(len(self.ids), dtype=bool)
        return self.own(participant) if self.encoders is None else self.encoders[:, participant]

    def own(self, participant: int) -> BoolArray:
        """bool[n]: rows that belong to a participant."""
        own: BoolArray = self.owner == participant
        return own


@dataclass(frozen=True)
class Plan:
    """The rows to encode, shard by shard: those of the pool, then the shared set.

    Attributes:
        pool, rows: the pool's folder and its number of rows.
        weights: shares of all participants.
        shard_rows: row_ids of a shard.
        seed: seed of the assignment.
        shared: int64[s] row_ids of the shared set, increasing, where it is part of the pool.
        shared_pool, shared_rows: folder and number of rows of a shared pool; None and 0 without one.
        coverage: participants that encode a row.
        shared_files: start of the names of the shared set's files.
    """

    pool: Location
    rows: int
    weights: tuple[float, ...]
    shard_rows: int
    seed: int
    shared: Int64Array = field(default_factory=lambda: _NO_ROWS)
    shared_pool: Location | None = None
    shared_rows: int = 0
    coverage: int = 1
    shared_files: str = SHARED

    @cached_property
    def own_shards(self) -> int:
        """Shards of the pool without those of the shared set."""
        return -(-self.rows // self.shard_rows)

    @property
    def shards(self) -> int:
        """Shards in all."""
        return self.own_shards + -(-max(self.shared_rows, len(self.shared)) // self.shard_rows)

    @property
    def shared_shards(self) -> range:
        """Shards of the shared set."""
        return range(self.own_shards, self.shards)

    def name(self, shard: int) -> str:
        """File of a shard in a contribution, without its suffix."""
        if shard < self.own_shards:
            return f"{OWN}{shard:06d}"
        return f"{self.shared_files}{shard - self.own_shards:06d}"

    def row_ids(self, shard: int) -> Rows:
        """The rows of a shard."""
        if shard < self.own_shards:
            ids = self._range(shard, self.rows)
            low, high = np.searchsorted(self.shared, [ids[0], ids[-1] + 1])
            ids = np.delete(ids, self.shared[low:high] - ids[0])
            encoders = cover_rows(ids, self.weights, self.seed, self.coverage) if self.coverage > 1 else None
            return Rows(self.pool, ids, self._owner(ids), shared=False, encoders=encoders)
        shard -= self.own_shards
        if self.shared_pool is None:
            ids = self.shared[shard * self.shard_rows : (shard + 1) * self.shard_rows]
            return Rows(self.pool, ids, self._owner(ids), shared=True)
        ids = self._range(shard, self.shared_rows)
        return Rows(self.shared_pool, ids, np.full(len(ids), -1, np.int16), shared=True)

    def _range(self, shard: int, rows: int) -> Int64Array:
        return np.arange(shard * self.shard_rows, min(rows, (shard + 1) * self.shard_rows), dtype=np.int64)

    def _owner(self, ids: Int64Array) -> Int16Array:
        return assign_participants(ids, self.weights, self.seed).astype(np.int16)


def projection_of(config: JsonObject) -> Projection:
    """The form of a contribution's features, by its settings; version 0.1.0 had the published form alone."""
    form: Projection = config.get("projection", "random")
    return form


class Contribution:
    """A finished contribution.

    Args:
        location: its folder.

    Attributes:
        manifest: its manifest.

    Raises:
        InputError: the folder holds none.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._rest = RowTable(location, "contribution", prefix=OWN)
        self._shared = RowTable(location, "contribution", prefix=SHARED)
        self.manifest = self._rest.manifest

    @property
    def summary(self) -> JsonObject:
        """Figures about the making and the content, as the manifest has them."""
        return self.manifest.summary

    def own_rows(self, columns: list[str], start: int = 0, stop: int | None = None) -> pa.Table:
        """Its own rows in a range of row_ids, in order; all of them by default."""
        tables = [self._rest, *([] if "shared" in self.manifest.inputs else [self._shared])]
        # In a shared pool row_ids are not those of the pool.
        parts = [t.read_range(start, stop, [*_with_row_id(columns), "own"]) for t in tables if t.files]
        parts = [part.filter(part.column("own")).drop_columns(["own"]) for part in parts]
        if not parts:
            return self._empty(columns)
        return pa.concat_tables(parts).sort_by("row_id").select(columns)

    def encoded_rows(self, columns: list[str], start: int = 0, stop: int | None = None) -> pa.Table:
        """All rows of its pool that it encoded, in a range of row_ids, in order; those of the shared set among them."""
        tables = [self._rest, *([] if "shared" in self.manifest.inputs else [self._shared])]
        parts = [table.read_range(start, stop, _with_row_id(columns)) for table in tables if table.files]
        return pa.concat_tables(parts).sort_by("row_id").select(columns) if parts else self._empty(columns)

    def shared_features(self) -> tuple[Int64Array, Float32Array]:
        """The encoded rows of the shared set.

        Returns:
            int64[s] row_ids (of the shared pool, if there is one), increasing; float32[s, n].

        Raises:
            InputError: there is no such row, or a file cannot be read.
        """
        if not self._shared.files:
            raise InputError(
                f"{self.location} has no rows of the shared set", "check its rejects, then encode it again"
            )
        table = self._shared.scan(["row_id", "feature"])
        return table.column("row_id").to_numpy(), vectors(table.column("feature"))

    def _empty(self, columns: list[str]) -> pa.Table:
        width = self.summary.get("components", self.manifest.config["dim"])
        feature = pa.list_(pa.float16(), int(width))
        kinds = {"row_id": pa.int64(), "own": pa.bool_(), "feature": feature, "sample": pa.uint64()}
        return pa.schema([(name, kinds[name]) for name in columns]).empty_table()


def _with_row_id(columns: list[str]) -> list[str]:
    return columns if "row_id" in columns else ["row_id", *columns]


def write_shard_rejects(location: Location, name: str, rejects: list[Reject]) -> None:
    """Writes a shard's rejects beside it, before the shard, so that a resumed job counts them.

    Args:
        location: the contribution's folder.
        name: the shard's file, without its suffix.
        rejects: its rejected rows.

    Raises:
        StoppedError: the store refused.
    """
    if rejects:
        location.child(f"{name}.rejects.json").write_json([r.__dict__ for r in rejects])


def read_shard_rejects(location: Location, name: str) -> list[Reject]:
    """Reads the rejects beside a shard.

    Raises:
        InputError: they are damaged.
    """
    file = location.child(f"{name}.rejects.json")
    if not file.is_file():
        return []
    try:
        return [Reject(**r) for r in file.read_json()]
    except TypeError as error:
        raise InputError(f"{file} holds no rejects: {error}", "delete it and its shard, and encode again") from error
