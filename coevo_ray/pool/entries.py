"""The types that formats of sources share: entries, shards of consecutive entries, readings, and formats.

A new format is a module with a `Format`, and a line in `pool.sources.FORMATS` (and its name in `config.pool.Source`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from coevo_ray.config import Source
from coevo_ray.core.arrays import Float32Array
from coevo_ray.pool.folder_layout import Folders, split_folder
from coevo_ray.pool.labels import LabelReader
from coevo_ray.pool.modality import Sample
from coevo_ray.store.location import Location


@dataclass(frozen=True)
class Entry:
    """One sample of a source, before it has a row_id.

    Attributes:
        key: the user's own id.
        sample: encoded bytes as they came, a text, or the bytes of a vector; None where it is missing.
        label: the class number, or None.
        error: why it cannot be used, or "".
        features: float32[d] for each kept column, in the order of `Reading.features`; empty when there is an error.
        text: the label as the source has it where that is a text, whose number shows only when all are known.
    """

    key: str
    sample: Sample | None
    label: int | None
    error: str = ""
    features: tuple[Float32Array, ...] = field(default=(), compare=False)
    text: str = field(default="", compare=False)

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
        features: name (in the pool) and dimension of each vector column that is kept; of a source of vectors alone
            these themselves come first.
        names: class names in the source's numbering, or empty.
        recode: source label -> pool label, if class names are numbered differently; else empty.
        by_name: True if labels are texts that name classes, also where they look like numbers.
        class_part: image folders: position in a file's path of the folder that is its class; -1 where none is.
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
    by_name: bool = False
    class_part: int = -1
    prefix: str = ""

    def column_of(self, feature: str) -> str:
        """Column of the source that holds a vector column of the pool; of a matrix its own name."""
        return self.data_column if feature == self.modality and self.data_column is not None else feature

    def labels(self) -> LabelReader:
        """Reads its labels; made once for a shard."""
        return LabelReader(self.names, self.recode, self.by_name)


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
        labels: image folders with metadata: labels of its files, packed (`pack_values`); else empty.
        parts: tars whose samples' files are scattered: where they are, packed (`pack_values`); else empty.
    """

    reading: Reading
    names: bytes
    start: int
    rows: int
    offset: int = 0
    split: Literal["train", "test"] | None = None
    first: int = -1
    labels: bytes = b""
    parts: bytes = b""

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
        run_length: names of a run.
        seen: files of any kind that the pass has met.
        runs: packed names (`pack_names`) and how many, in order; `run_length` in each but the last, and in those before
            the end of a folder that stands for a split.
        folders: those that hold them.
        guessed: files whose name alone does not tell that they are of this format.
        metadata: files that describe others, as the Hub's `metadata.csv`.
        said: what people should know of the files, in words.
    """

    uri: str
    location: Location
    run_length: int
    seen: int = 0
    runs: list[tuple[bytes, int]] = field(default_factory=list)
    folders: Folders = field(default_factory=Folders)
    guessed: int = 0
    metadata: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)
    _split: str = ""

    def add(self, name: str) -> None:
        """Takes a file's name, relative to the source."""
        folder = name.rpartition("/")[0]
        split = split_folder(folder) if folder else ""
        if split != self._split:
            self.close()
            self._split = split
        self._open.append(name)
        self.folders.add(name)
        if len(self._open) == self.run_length:
            self.close()

    def close(self) -> None:
        """Packs the names that are still open."""
        if self._open:
            self.runs.append((pack_names(self._open), len(self._open)))
            self._open.clear()

    @property
    def count(self) -> int:
        """Number of its files, without those that are still open."""
        return sum(rows for _, rows in self.runs)

    @property
    def names(self) -> list[str]:
        """All names, for formats with few files."""
        return [name for packed, _ in self.runs for name in unpack_names(packed)]


@dataclass(frozen=True)
class ListedSource:
    """A source, looked through.

    Attributes:
        shards: of its files, in order.
        files: number of files that its format reads.
        left_out: reason (hidden names, artifacts of this package, an ending) -> files or folders that are not read.
        said: what people should know, in words.
    """

    shards: list[SourceShard]
    files: int
    left_out: dict[str, int]
    said: list[str]


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
        describes: file name -> whether it says something of files of this format (`FoundFiles.metadata`).
        guesses: file name that it holds -> whether the name alone does not tell that it is one of this format.
    """

    name: str
    holds: Callable[[str], bool]
    shards: Callable[[Source, FoundFiles, int], list[SourceShard]]
    read: Callable[[SourceShard], Iterator[Entry]]
    read_keys: Callable[[SourceShard], Iterator[str]]
    cut: Callable[[SourceShard, int], list[SourceShard]] = _uncut
    takes: Callable[[Source], bool] = lambda source: True
    describes: Callable[[str], bool] = lambda name: False
    guesses: Callable[[str], bool] = lambda name: False


def pack_names(names: Iterable[str]) -> bytes:
    """Compresses file names to a few bytes each; neighbours in a sorted listing share most of their letters."""
    return zlib.compress("\0".join(names).encode(), 1)


def unpack_names(packed: bytes) -> list[str]:
    """Returns the names that `pack_names` packed, at least one."""
    return zlib.decompress(packed).decode().split("\0")


def pack_values(values: Sequence[object]) -> bytes:
    """Compresses JSON-able values to a few bytes each."""
    return zlib.compress(json.dumps(values).encode(), 1)


def unpack_values(packed: bytes) -> list[Any]:
    """Returns the values that `pack_values` packed."""
    values: list[Any] = json.loads(zlib.decompress(packed))
    return values
