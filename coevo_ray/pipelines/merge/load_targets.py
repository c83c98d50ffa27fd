"""Targets as a dataset, joined to a pool by row_id, for Ray or PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data.extensions import ArrowTensorArray
from torch.utils.data import Dataset

from coevo_ray.core.arrays import Int64Array
from coevo_ray.core.json import JsonObject
from coevo_ray.errors import InputError
from coevo_ray.pipelines.merge.card import card_of
from coevo_ray.pool.pool import Pool
from coevo_ray.pool.targets_of_pool import first_target
from coevo_ray.runtime.shards import Row
from coevo_ray.store.location import ArtifactLike
from coevo_ray.store.opening import open_table
from coevo_ray.store.row_table import RowTable, vectors
from coevo_ray.store.shown import shown

_BLOCK_ROWS = 4096


class Targets:
    """A target table, alone or with the columns of a pool.

    Args:
        table: the targets.
        pool: the pool of its rows; of several merged pools, the one whose rows are wanted. None for all targets,
            without a pool's columns.
        columns: columns of the pool to add; None for its key, sample (image or text), label and split.

    Attributes:
        card: priors, uniformity, alignment, licences, costs; as in `card.json`.
        row_ids: int64[rows], the pool's own where there is a pool, else those of the targets.

    Raises:
        InputError: the targets were not made from this pool, or a column is not in it.
    """

    def __init__(self, table: RowTable, pool: Pool | None = None, columns: Sequence[str] | None = None) -> None:
        self.table, self.pool = table, pool
        self.card: JsonObject = card_of(table.summary)
        self.first_row_id, ids = 0, table.row_ids()
        self.columns: list[str] = []
        if pool is not None:
            start = first_target(table, pool)
            ids = ids[(ids >= start) & (ids < start + len(pool))] - start
            self.first_row_id = start
            wanted = ("key", pool.modality, "label", "split") if columns is None else columns
            self.columns = [c for c in wanted if c not in ("row_id", "target", "prior")]
            pool.read(ids[:1], self.columns)  # finds a missing column now
        self.row_ids: Int64Array = ids

    def __len__(self) -> int:
        return len(self.row_ids)

    def _repr_html_(self) -> str:
        about = f"of {len(self):,} rows at {self.table.location}"
        return shown("targets", about, {"columns": ["row_id", "target", "prior", *self.columns], **self.card})

    def read(self, row_ids: Int64Array) -> pa.Table:
        """Some rows: `row_id`, `target`, `prior`, and the pool's columns.

        Args:
            row_ids: int64[n], strictly increasing, among `row_ids`.

        Raises:
            InputError: a row is missing.
        """
        made = self.table.read(row_ids + self.first_row_id, ["target", "prior"])
        made = made.set_column(0, "row_id", pa.array(row_ids))
        if self.pool is not None and self.columns:
            of_pool = self.pool.read(row_ids, self.columns)
            for name in self.columns:
                made = made.append_column(name, of_pool.column(name))
        return made

    def dataset(self) -> ray.data.Dataset:
        """A Ray Dataset of all rows, in blocks of up to 4 096, `target` as a tensor float32[n].

        Rows are read when the dataset is consumed, in the Ray session of that moment.

        Raises:
            InputError: no row of this pool has a target.
        """
        blocks = [{"first": int(first)} for first in range(0, len(self), _BLOCK_ROWS)]
        if not blocks:
            raise InputError(f"no row has a target in {self.table.location}", "see the rejects of its contributions")
        here = ray.put(self)

        def read(row: Row) -> Iterator[pa.Table]:
            targets: Targets = ray.get(here)
            first = int(row["first"][0])
            table = targets.read(targets.row_ids[first : first + _BLOCK_ROWS])
            tensors = ArrowTensorArray.from_numpy(vectors(table.column("target")))
            yield table.set_column(table.column_names.index("target"), "target", tensors)

        return ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(read, batch_size=1)

    def torch(self) -> TorchTargets:
        """A map-style PyTorch dataset."""
        return TorchTargets(self)


class TorchTargets(Dataset[Row]):
    """Targets for `torch.utils.data.DataLoader`.

    Items are dicts with `row_id`, `target float32[n]`, `prior` and the pool's columns, images as encoded bytes.

    A whole batch is read at once (`__getitems__`). Shuffled epochs over pools larger than memory go faster with
    `coevo_ray.Feed`, which visits row groups in shuffled order.

    Args:
        targets: the targets.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Row:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Row]:
        """The items at some positions, in their order."""
        wanted = self.targets.row_ids[np.asarray(indices, dtype=np.int64)]
        ids, seats = np.unique(wanted, return_inverse=True)
        table = self.targets.read(ids)
        targets = torch.from_numpy(vectors(table.column("target")))
        rest = table.drop_columns(["target"]).to_pylist()
        return [{**rest[seat], "target": targets[seat]} for seat in seats]


def load_targets(
    uri: ArtifactLike,
    pool: ArtifactLike | None = None,
    columns: Sequence[str] | None = None,
) -> Targets:
    """Opens targets, and joins them to a pool by row_id.

    Args:
        uri: the targets, or their folder, or that of `encode`, which holds them as `targets/`.
        pool: the pool or its folder; None for the targets alone.
        columns: columns of the pool to add; None for all of its key, image (or text), label and split.

    Returns:
        The targets; `.dataset()` is a Ray Dataset, `.torch()` a PyTorch dataset.

    Raises:
        InputError: there are no targets, they were not made from this pool, or a column is missing.
    """
    table = open_table(uri, "targets")
    if pool is None:
        return Targets(table)
    return Targets(table, Pool.open(pool), columns)
