"""Types that all source formats share: entries, shards of consecutive entries, and reading settings."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from coevo_ray.core.arrays import Float32Array

Modality = Literal["image", "text"]


@dataclass(frozen=True)
class Entry:
    """One sample of a source, before it has a row_id.

    Attributes:
        key: the user's own id.
        image: encoded bytes as stored in the source; None if missing, or if the source holds texts.
        label: the class number, or None.
        error: reason why it cannot be used, or "".
        text: the text; None if missing, or if the source holds images.
        features: float32[d] of each kept column, in the order of `Reading.features`; empty if there is an error.
    """

    key: str
    image: bytes | None
    label: int | None
    error: str = ""
    text: str | None = None
    features: tuple[Float32Array, ...] = field(default=(), compare=False)

    @property
    def content(self) -> bytes:
        """The image's bytes, or the text as UTF-8."""
        return self.image if self.image is not None else (self.text or "").encode()


@dataclass(frozen=True)
class Reading:
    """Settings by which all files of a source are read, with defaults resolved.

    Attributes:
        uri: the source.
        format: format of its files; those of Hugging Face are read as Parquet.
        data_column: column of images or texts; in tars an extension, or None for any image's.
        text: True if samples are texts.
        label_column, key_column: columns, or None without them; in tars, fields of the `.json`, and an empty label
            column means the `.cls` file, else the field `label`.
        features: name and dimension of each vector column that is kept.
        names: class names in the source's numbering, or empty.
        recode: source label -> pool label, if class names are numbered differently; else empty.
        unlabelled: True if a label of -1 means none, as with Hugging Face.
        prefix: prefix of every key.
    """

    uri: str
    format: Literal["images", "parquet", "webdataset"]
    data_column: str | None = None
    text: bool = False
    label_column: str | None = None
    key_column: str | None = None
    features: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    recode: tuple[int, ...] = ()
    unlabelled: bool = False
    prefix: str = ""

    def label(self, value: Any) -> tuple[int | None, str]:
        """Converts a source's label to the pool's number or None; returns it with an error text or ""."""
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


def pack_names(names: Iterable[str]) -> bytes:
    """Compresses file names to a few bytes each; neighbours in a sorted listing share most of their letters."""
    return zlib.compress("\0".join(names).encode(), 1)


def unpack_names(packed: bytes) -> list[str]:
    """Returns the names that `pack_names` packed, at least one."""
    return zlib.decompress(packed).decode().split("\0")


def whole_number(value: Any) -> tuple[int | None, str]:
    """Converts a label to an int64 number or None; returns it with an error text or ""."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, ""
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (math.inf, -math.inf):
        return None, f"label is not a whole number: {value!r}"
    if value != int(value):
        return None, f"label is not a whole number: {value!r}"
    if not -(2**63) <= value < 2**63:
        return None, f"label outside the range: {value!r}, need 64 bits or fewer"
    return int(value), ""
