"""What the formats have in common: an entry, a shard of consecutive entries, and how a source is read."""

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
        image: encoded bytes as they came, or None where they are missing or the source holds texts.
        label: the class number, or None.
        error: why it cannot be used, or "".
        text: the text, or None where it is missing or the source holds images.
        features: float32[d] for each kept column, in the order of `Reading.features`; empty when there is an error.
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
    """How the files of a source are read; one for the whole source, with every default resolved.

    Attributes:
        uri: the source.
        format: what its files are. Hugging Face's files are read as Parquet.
        data_column: column of images or texts; in tars an extension, or None for any image's.
        text: whether samples are texts.
        label_column, key_column: columns, or None where there are none. In tars fields of the `.json`; a label
            column of None stands for a `.cls` file, else the field `label`.
        features: name and dimension of each vector column that is kept.
        names: class names as the source numbers them, or empty.
        recode: source label -> pool label, where class names made them differ.
        unlabelled: a label of -1 means none (the custom of Hugging Face).
        prefix: put before every key.
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
        rows: entries; -1 where only reading the whole file tells (tars that have not been looked through).
        offset: tars: byte position of its first sample.
        split: all of its rows belong there; None where the choice is free.
        first: of a Ray Dataset: position in it of the file's first row, which keys then count from; else -1.
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
    """File names in a few bytes each: neighbours in a sorted listing share most of their letters."""
    return zlib.compress("\0".join(names).encode(), 1)


def unpack_names(packed: bytes) -> list[str]:
    """What `pack_names` packed; at least one name."""
    return zlib.decompress(packed).decode().split("\0")


def whole_number(value: Any) -> tuple[int | None, str]:
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
