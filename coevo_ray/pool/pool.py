"""The pool: samples with dense row_ids, as Parquet with a manifest (docs/design.md#artifacts)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import BoolArray, Int8Array, Int64Array
from coevo_ray.errors import InputError
from coevo_ray.pool.modality import Modality, find_modality
from coevo_ray.store.location import ArtifactLike
from coevo_ray.store.opening import locate
from coevo_ray.store.row_table import RowTable

TRAIN, TEST = 0, 1
CONTENT_BYTES = 16


def pool_schema(modality: str, features: Mapping[str, int], content: bool = False) -> pa.Schema:
    """The columns of a pool.

    Args:
        modality: name of its samples' modality.
        features: name and dimension of the user's vectors; in a pool of vectors alone also of its samples.
        content: True to keep each row's content hash, to compare later rows with.
    """
    kind = find_modality(modality).type
    return pa.schema(
        [
            ("row_id", pa.int64()),
            ("key", pa.string()),
            *([] if kind is None else [(modality, kind)]),
            ("label", pa.int64()),
            ("split", pa.int8()),
            *([("content", pa.binary(CONTENT_BYTES))] if content else []),
            *((name, pa.list_(pa.float32(), dimension)) for name, dimension in features.items()),
        ]
    )


SCHEMA = pool_schema("image", {})


class Pool(RowTable):
    """A finished pool.

    Columns: `row_id int64` dense from 0, `key string`, `image binary` (encoded bytes) or `text string`, `label int64`
    (nullable), `split int8` (0 train, 1 test), and the user's vectors, each `fixed_size_list<float32>[d]`; in a pool of
    vectors alone the first of them is `vector`, instead of images and texts. If duplicates were rejected by content,
    also `content fixed_size_binary[16]`, BLAKE2b of the ingested bytes (or text).

    Args:
        location: its folder: a path, a URI, a `Location`, or an object that has one.

    Raises:
        InputError: there is no pool here, or it has no rows.
    """

    def __init__(self, location: ArtifactLike) -> None:
        super().__init__(location, "pool")
        if len(self) == 0:
            raise InputError(f"the pool at {self.location} has no rows", "ingest at least one readable image")

    @classmethod
    def open(cls, what: ArtifactLike) -> Pool:
        """Opens a pool; an open pool is returned unchanged.

        Args:
            what: a pool, its path, URI or `Location`; or the folder of a run, which holds it as `pool/`.

        Raises:
            InputError: there is no pool here.
        """
        return what if isinstance(what, cls) else cls(locate(what, "pool"))

    def splits(self) -> Int8Array:
        """Reads the split of each row: int8[N], 0 train, 1 test."""
        result: Int8Array = self.column("split").to_numpy()
        return result

    def train_ids(self) -> Int64Array:
        """Returns the row_ids of the training split: int64[n], increasing."""
        return np.flatnonzero(self.splits() == TRAIN).astype(np.int64)

    def in_training(self, row_ids: Int64Array) -> BoolArray:
        """Tests which rows are in the training split; reads only the splits of their range.

        Args:
            row_ids: int64[n], distinct.

        Returns:
            bool[n].
        """
        if len(row_ids) == 0:
            return np.zeros(0, dtype=np.bool_)
        table = self.read_range(int(row_ids.min()), int(row_ids.max()) + 1, ["row_id", "split"])
        train = table.column("row_id").to_numpy()[table.column("split").to_numpy() == TRAIN]
        return np.isin(row_ids, train, assume_unique=True)

    def test_ids(self) -> Int64Array:
        """Returns the row_ids of the held-out split: int64[n], increasing."""
        return np.flatnonzero(self.splits() == TEST).astype(np.int64)

    def labels(self) -> Int64Array:
        """Reads the labels: int64[N], -1 for none. For oracles, training and evaluation; selection never reads them."""
        result: Int64Array = self.column("label").fill_null(-1).to_numpy().astype(np.int64)
        return result

    @property
    def modality(self) -> str:
        """Name of its samples' modality, and of their column. Manifests older than texts name none."""
        return self.samples.name

    @property
    def samples(self) -> Modality:
        """The modality of its samples.

        Raises:
            UsageError: this version does not know it.
        """
        return find_modality(str(self.manifest.summary.get("modality", "image")))

    @property
    def features(self) -> dict[str, int]:
        """Name and dimension of the user's own vector columns, `vector` of a pool of vectors alone among them."""
        return {str(name): int(d) for name, d in self.manifest.summary.get("features", {}).items()}

    @property
    def classes(self) -> int:
        """Number of classes; 0 if no row has a label."""
        return int(self.manifest.summary["classes"])
