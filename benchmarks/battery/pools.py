"""The battery's pools: real images and texts with labels, train and test rows apart.

A folder of data holds a folder for each pool, with Parquet files `train*.parquet` and `test*.parquet` of columns `id`,
`image` (encoded bytes) or `text`, and `label` (integers or names). scikit-learn's digits are always there. A user's own
pool is such a folder, or one that `coevo-ray ingest` made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.common import note
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.pool import TEST
from coevo_ray.pool.pool import Pool as Artifact
from coevo_ray.store.manifest import MANIFEST

Ids = npt.NDArray[np.int64]
Modality = Literal["image", "text"]
Samples = Sequence[bytes] | Sequence[str]

DIGITS = "digits"
# The pools that the battery's figures are reported on, in the order of the tables. Others in the same folder follow.
REGISTERED: dict[str, Modality] = {
    DIGITS: "image",
    "cifar10": "image",
    "tiny_imagenet": "image",
    "banking77": "text",
    "debian_sections": "text",
}
HELD_OUT = 0.2  # of the rows of a pool that has no test rows
_MODALITIES: tuple[Modality, ...] = ("image", "text")


@dataclass(frozen=True)
class Limits:
    """The most rows of a pool.

    Attributes:
        train, test: rows of each split; those with the smallest hashes of their ids stay.
    """

    train: int = 15_000
    test: int = 5_000


@dataclass(frozen=True, eq=False)
class Rows:
    """One split of a pool.

    Attributes:
        ids: of the rows.
        samples: encoded images, or texts.
        labels: int64[n], positions in the pool's `classes`.
    """

    ids: Sequence[str]
    samples: Samples
    labels: Ids

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Ids) -> Rows:
        """The rows at these positions."""
        samples = [self.samples[i] for i in rows]
        return Rows([self.ids[i] for i in rows], cast(Samples, samples), self.labels[rows])

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the samples in their order; labels do not matter to it."""
        whole = hashlib.sha256()
        for sample in self.samples:
            data = sample if isinstance(sample, bytes) else sample.encode("utf-8")
            whole.update(len(data).to_bytes(8, "little") + data)
        return whole.hexdigest()


@dataclass(frozen=True, eq=False)
class Pool:
    """A pool in memory.

    Attributes:
        name: of the pool.
        modality: `image` or `text`.
        classes: names of the classes, sorted; integers by value.
        train, test: its rows.
    """

    name: str
    modality: Modality
    classes: tuple[str, ...]
    train: Rows
    test: Rows


@dataclass(frozen=True)
class Place:
    """A pool that can be loaded.

    Attributes:
        name: of the pool.
        modality: of its samples.
        folder: of its files; None for scikit-learn's digits.
    """

    name: str
    modality: Modality
    folder: Path | None = None

    def load(self, limits: Limits | None = None) -> Pool:
        """Reads the pool.

        Args:
            limits: the most rows; None for `Limits()`.

        Raises:
            InputError: there are no rows with a label, or fewer than two classes.
        """
        limits = limits or Limits()
        splits = _digits() if self.folder is None else _read(self.folder, self.modality)
        classes, (train, test) = _with_classes([_labelled(split, self.name) for split in splits], self.modality)
        if len(test) == 0:
            train, test = _held_out(train)
        if len(classes) < 2 or min(len(train), len(test)) == 0:
            raise InputError(
                f"pool {self.name}: {len(train)} training rows, {len(test)} test rows, {len(classes)} classes",
                "give labelled rows of two or more classes",
            )
        return Pool(self.name, self.modality, classes, _first(train, limits.train), _first(test, limits.test))


def find_places(
    data: Path | None = None,
    own: Sequence[Path] = (),
    names: Sequence[str] = (),
    quick: bool = False,
) -> list[Place]:
    """Lists the pools that there are.

    Args:
        data: folder of pools; None for the digits alone.
        own: folders of the user's own pools.
        names: of those to take; empty for all. The user's own are taken always.
        quick: take the digits, and the first other pool of each modality.

    Returns:
        The registered pools in their order, then others of `data` by name, then the user's own.

    Raises:
        UsageError: a name is unknown, or two pools have the same.
        InputError: a folder is not there or holds no pool.
    """
    there = [Place(DIGITS, "image")]
    if data is not None:
        if not data.is_dir():
            raise InputError(f"no folder {data}", "give the folder that holds a folder for each pool")
        folders = {f.name: f for f in data.iterdir() if f.name != DIGITS and _is_pool(f)}
        order = sorted(folders, key=lambda name: (name not in REGISTERED, [*REGISTERED, name].index(name), name))
        there += [_place(folders[name]) for name in order]
    added = [_place(folder) for folder in own]
    if names:
        known = [place.name for place in (*there, *added)]
        if unknown := sorted(set(names) - set(known)):
            raise UsageError(f"no pool {', '.join(unknown)}", f"use {', '.join(known)}, or name a folder with --data")
        there = [place for place in there if place.name in names]
    elif quick:
        others = [next((p for p in there[1:] if p.modality == kind), None) for kind in _MODALITIES]
        there = [there[0], *(place for place in others if place is not None)]
    places = [*there, *added]
    twice = {place.name for place in places if [p.name for p in places].count(place.name) > 1}
    if twice:
        raise UsageError(f"two pools are named {', '.join(sorted(twice))}", "rename a folder")
    return places


def loaded(places: Sequence[Place], limits: Limits) -> Iterator[Pool]:
    """The pools one after another, so that one is in memory at a time."""
    for place in places:
        pool = place.load(limits)
        note(
            f"{pool.name}: {len(pool.train):,} + {len(pool.test):,} rows ({pool.modality}), {len(pool.classes)} classes"
        )
        yield pool


def _is_pool(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MANIFEST).is_file() or any(folder.glob("train*.parquet")))


def _place(folder: Path) -> Place:
    """Finds out the modality of a folder's pool."""
    if not _is_pool(folder):
        raise InputError(f"no pool at {folder}", "give a folder of train*.parquet, or one that coevo-ray ingest made")
    name = folder.resolve().name
    if (folder / MANIFEST).is_file():
        modality, columns = Artifact.open(folder).modality, ["image", "text"]
    else:
        columns = pq.read_schema(min(folder.glob("train*.parquet"))).names
        modality = next((kind for kind in _MODALITIES if kind in columns), "")
    if modality not in _MODALITIES:
        raise InputError(f"pool {name} has columns {', '.join(columns)}", "give a column image or text")
    return Place(name, modality, folder)


def _read(folder: Path, modality: Modality) -> list[pa.Table]:
    """Tables of the training and the test rows with columns id, label, and the modality's."""
    if (folder / MANIFEST).is_file():
        artifact = Artifact.open(folder)
        whole = artifact.scan(["key", modality, "label", "split"]).rename_columns({"key": "id"})
        is_test = pc.equal(whole.column("split"), TEST)
        return [whole.filter(pc.invert(is_test)), whole.filter(is_test)]
    return [_files(sorted(folder.glob(f"{split}*.parquet")), modality) for split in ("train", "test")]


def _files(files: Sequence[Path], modality: Modality) -> pa.Table:
    tables = []
    for file in files:
        table = pq.read_table(file)
        missing = {modality, "label"} - set(table.column_names)
        if missing:
            raise InputError(f"{file} has no column {', '.join(sorted(missing))}", f"give id, {modality} and label")
        if "id" not in table.column_names:
            table = table.append_column("id", pa.array([f"{file.stem}-{i}" for i in range(len(table))]))
        table = table.select(["id", modality, "label"])
        tables.append(table.set_column(0, "id", table.column("id").cast(pa.string())))
    if not tables:
        return pa.table({"id": pa.array([], pa.string()), modality: [], "label": []})
    return pa.concat_tables(tables, promote_options="permissive")


def _digits() -> list[pa.Table]:
    from benchmarks.targets.tables import digits_images

    splits = digits_images()
    return [
        table.append_column("id", pa.array([f"{split}-{i}" for i in range(len(table))]))
        for split, table in splits.items()
    ]


def _labelled(table: pa.Table, name: str) -> pa.Table:
    """The rows that have a label; those of an artifact without one have none or -1."""
    keep = pc.is_valid(table.column("label"))
    if pa.types.is_integer(table.schema.field("label").type):
        keep = pc.and_(keep, pc.greater_equal(pc.fill_null(table.column("label"), -1), 0))
    kept = table.filter(keep)
    if len(kept) < len(table):
        note(f"{name}: {len(table) - len(kept):,} rows without a label are left out")
    return kept


def _with_classes(tables: Sequence[pa.Table], modality: Modality) -> tuple[tuple[str, ...], list[Rows]]:
    values = [table.column("label").to_pylist() for table in tables]
    names = sorted({label for labels in values for label in labels})
    index = {name: i for i, name in enumerate(names)}
    rows = [
        Rows(table.column("id").to_pylist(), table.column(modality).to_pylist(), _array([index[v] for v in labels]))
        for table, labels in zip(tables, values, strict=True)
    ]
    return tuple(str(name) for name in names), rows


def _held_out(rows: Rows) -> tuple[Rows, Rows]:
    """A fifth of each class's rows apart, those with the smallest hashes; a class of one row stays in training."""
    order = _by_hash(rows)
    chosen = [members[: round(HELD_OUT * len(members))] for members in _by_class(rows.labels, order)]
    test = np.sort(np.concatenate(chosen))
    return rows.take(np.setdiff1d(np.arange(len(rows)), test)), rows.take(test)


def _by_class(labels: Ids, order: Ids) -> list[Ids]:
    return [order[labels[order] == label] for label in np.unique(labels)]


def _first(rows: Rows, most: int) -> Rows:
    return rows if len(rows) <= most else rows.take(np.sort(_by_hash(rows)[:most]))


def _by_hash(rows: Rows) -> Ids:
    """Positions in the order of the hashes of the ids, so that fewer rows are a part of more."""
    hashes = [hashlib.blake2b(str(each).encode("utf-8"), digest_size=8).digest() for each in rows.ids]
    return _array(sorted(range(len(rows)), key=lambda i: (hashes[i], i)))


def _array(values: Sequence[int]) -> Ids:
    return np.array(values, dtype=np.int64)
