"""The types that formats of sources share: entries, shards of consecutive entries, readings, and formats.

A new format is a module with a `Format`, and a line in `pool.sources.FORMATS` (and its name in `config.pool.Source`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from coevo_ray.config import Source
from coevo_ray.core.arrays import Float32Array
from coevo_ray.pool.modality import Sample
from coevo_ray.store.location import Location


@dataclass(frozen=True)
class Entry:
    """One sample of a source, before it has a row_id.

    Attributes:
        key: the user's own id.
        sample: encoded bytes as they came, or a text; None where it is missing.
        label: the class number, or None.
        error: why it cannot be used, or "".
        features: float32[d] for each kept column, in the order of `Reading.features`; empty when there is an error.
    """

    key: str
    sample: Sample | None
    label: int | None
    error: str = ""
    features: tuple[Float32Array, ...] = field(default=(), compare=False)

    @property
    def content(self) -> bytes:
        """The sample's bytes; of a text those of UTF-8."""
        return self.sample.encode() if isinstance(self.sample, str) else self.sample or b""


@dataclass(frozen=True)
class Reading:
    """Settings by which all files of a source are read, with defaults resolved.

    Attributes:
        uri: the source.
        format: name of the `Format` that reads its files. Hugging Face's files are read as Parquet.
        data_column: column of the samples; in tars an extension, or None for any of the modality's.
        modality: name of the samples' modality.
        label_column, key_column: columns, or None where there are none. In tars fields of the `.json`; a label
            column of None stands for a `.cls` file, else the field `label`.
        features: name and dimension of each vector column that is kept.
        names: class names in the source's numbering, or empty.
        recode: source label -> pool label, if class names are numbered differently; else empty.
        unlabelled: True if a label of -1 means none, as with Hugging Face.
        prefix: prefix of every key.
    """

    uri: str
    format: str
    data_column: str | None = None
    modality: str = "image"
    label_column: str | None = None
    key_column: str | None = None
    features: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    recode: tuple[int, ...] = ()
    unlabelled: bool = False
    prefix: str = ""

    def label(self, value: object) -> tuple[int | None, str]:
        """A source's label as the pool numbers it, or None, and what is wrong with it, or ""."""
        label, error = whole_number(value)
        if self.unlabelled and label == -1:
            return None, error
        if label is None or not self.names:
            return label, error
        if not 0 <= label < len(self.names):
            return None, f"label outside the range: {label}, need 0..{len(self.names) - 1}"
        return self.recode[label] if self.recode else label, error


@dataclass(frozen=True)
class SourceShard:
    """A run of consecutive entries of one source; small, so that it travels with its task.

    Attributes:
        reading: how it is read.
        names: file names, packed (`pack_names`): those of an image folder, else the one file.
        start: position of its first entry in the file (in an image folder: in the source).
        rows: number of entries; -1 if unknown before the file is read (tars that were not scanned).
        offset: tars: byte position of its first sample.
        split: split of all its rows; None if they may be assigned freely.
        first: Ray Datasets: position of the file's first row in the dataset, from which keys count; else -1.
    """

    reading: Reading
    names: bytes
    start: int
    rows: int
    offset: int = 0
    split: Literal["train", "test"] | None = None
    first: int = -1

    @property
    def files(self) -> list[str]:
        """File names relative to the source."""
        return unpack_names(self.names)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the source."""
        return self.reading.names


@dataclass
class FoundFiles:
    """The files of a source that a format reads, found in one pass over all names and packed as they come.

    Attributes:
        uri: the source.
        location: its folder, or its one file.
        seen: files of any kind that the pass has met.
        runs: packed names (`pack_names`) and how many, in order; `run_length` in each but the last.
        folders: top-level folders that hold them.
    """

    uri: str
    location: Location
    run_length: int
    seen: int = 0
    runs: list[tuple[bytes, int]] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    _open: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Takes a file's name, relative to the source."""
        self._open.append(name)
        if "/" in name:
            self.folders.add(name.split("/", 1)[0])
        if len(self._open) == self.run_length:
            self.close()

    def close(self) -> None:
        """Packs the names that are still open."""
        if self._open:
            self.runs.append((pack_names(self._open), len(self._open)))
            self._open.clear()

    @property
    def names(self) -> list[str]:
        """All names, for formats with few files."""
        return [name for packed, _ in self.runs for name in unpack_names(packed)]


def _uncut(shard: SourceShard, shard_rows: int) -> list[SourceShard]:
    return [shard]


@dataclass(frozen=True)
class Format:
    """A format of sources.

    Attributes:
        name: as `Source.format` and `Reading.format` state it.
        holds: file name -> whether it is a file of this format.
        shards: (source, its files, rows of a shard) -> shards. They may be left whole (rows of -1) for `cut`. Raises
            InputError or UsageError where there are no such files or the settings do not fit.
        read: shard -> its entries, in order; an unreadable sample is an entry with an error.
        read_keys: shard -> its entries' keys, in order; samples, labels and vectors are not read.
        cut: (whole shard, rows of a shard) -> shards; runs in a task.
        takes: source -> whether `auto` considers the format for it.
    """

    name: str
    holds: Callable[[str], bool]
    shards: Callable[[Source, FoundFiles, int], list[SourceShard]]
    read: Callable[[SourceShard], Iterator[Entry]]
    read_keys: Callable[[SourceShard], Iterator[str]]
    cut: Callable[[SourceShard, int], list[SourceShard]] = _uncut
    takes: Callable[[Source], bool] = lambda source: True


def pack_names(names: Iterable[str]) -> bytes:
    """Compresses file names to a few bytes each; neighbours in a sorted listing share most of their letters."""
    return zlib.compress("\0".join(names).encode(), 1)


def unpack_names(packed: bytes) -> list[str]:
    """Returns the names that `pack_names` packed, at least one."""
    return zlib.decompress(packed).decode().split("\0")


def whole_number(value: object) -> tuple[int | None, str]:
    """A label as int64, or None, and what is wrong with it, or ""."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, ""
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (math.inf, -math.inf):
        return None, f"label is not a whole number: {value!r}"
    if value != int(value):
        return None, f"label is not a whole number: {value!r}"
    if not -(2**63) <= value < 2**63:
        return None, f"label outside the range: {value!r}, need 64 bits or fewer"
    return int(value), ""
