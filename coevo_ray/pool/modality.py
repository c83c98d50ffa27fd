"""Modalities: the kinds of samples that a pool may hold, and how raw samples are read and checked at ingest.

Each pool holds samples of one modality. Code that treats modalities differently keeps a table by modality name beside
it and looks it up with `by_modality`; a modality without an entry is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from coevo_ray.config.pool import SAMPLE_SETTINGS, TEXT, VECTOR
from coevo_ray.core.arrays import Float32Array
from coevo_ray.errors import UsageError
from coevo_ray.pool.image_formats import EXTENSIONS, ImageError
from coevo_ray.pool.images import verify_image
from coevo_ray.pool.max_side import limit_side_or_keep
from coevo_ray.pool.unread import LFS, is_lfs_pointer

Sample = bytes | str
# A sample and "", or None and the reason why there is none.
ReadSample = tuple[Sample | None, str]
EntryT = TypeVar("EntryT")
_SHOWN = 60


@dataclass(frozen=True)
class Modality:
    """One kind of samples.

    Attributes:
        name: as manifests state it, and the name of the pool's column.
        type: Arrow type of that column; None for vectors, whose column is one of the pool's feature columns.
        from_cell: (cell of a table, name of its column) -> sample.
        from_file: (bytes of a file, its extension) -> sample.
        verify: sample -> "", or the reason why it cannot be decoded.
        limit_side: (sample, max_side in pixels) -> sample, scaled down where it is larger; None where samples have no
            sides.
        extensions: lower-case extensions of its files, for folders and tars; empty where a column must be named.
        hub_feature: Hugging Face's type of such columns; "" where a column must be named.
    """

    name: str
    type: pa.DataType | None
    from_cell: Callable[[object, str], ReadSample]
    from_file: Callable[[bytes, str], ReadSample]
    verify: Callable[[Sample], str] = lambda sample: ""
    limit_side: Callable[[Sample, int], Sample] | None = None
    extensions: tuple[str, ...] = ()
    hub_feature: str = ""

    @property
    def plural(self) -> str:
        """The word for several samples, for messages."""
        return SAMPLE_SETTINGS[self.name].plural

    @property
    def setting(self) -> str:
        """The setting of a source that names its column."""
        return SAMPLE_SETTINGS[self.name].column


def _image_of_cell(value: object, column: str) -> ReadSample:
    # Hugging Face keeps images as {"bytes": ..., "path": ...}.
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return data, ""
    if isinstance(data, list):
        return None, f"{len(data)} images in column {column}, need one"
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(path, str):
        return None, f"only a path in column {column}, and no such file beside the table: {path[-_SHOWN:]!r}"
    return None, f"no image bytes in column {column} (have {_type_name(data)})"


def _image_of_file(data: bytes, extension: str) -> ReadSample:
    return data, ""


def _verify_image(sample: Sample) -> str:
    assert isinstance(sample, bytes)
    try:
        verify_image(sample)
    except ImageError as error:
        return error.reason
    return ""


def _limit_image(sample: Sample, max_side: int) -> Sample:
    assert isinstance(sample, bytes)
    return limit_side_or_keep(sample, max_side)


def _text_of_cell(value: object, column: str) -> ReadSample:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None, f"text that is not UTF-8 in column {column}"
    if value is not None and not isinstance(value, str):
        return None, f"no text in column {column} (have {_type_name(value)})"
    return (value, "") if value and value.strip() else (None, f"empty text in column {column}")


def _text_of_file(data: bytes, extension: str) -> ReadSample:
    where = f".{extension}" if extension else "a file without an ending"
    if is_lfs_pointer(data):
        return None, f"{LFS} ({len(data)} bytes)"
    try:
        text = data.decode("utf-8-sig")  # Windows marks UTF-8 at the beginning
    except UnicodeDecodeError:
        return None, f"text that is not UTF-8 in {where}"
    return (text, "") if text.strip() else (None, f"empty text in {where}")


def _no_vector_of_cell(value: object, column: str) -> ReadSample:
    return None, f"no vector in column {column}"  # formats read vectors with their columns, see `vector_sample`


def _no_vector_of_file(data: bytes, extension: str) -> ReadSample:
    return None, f"no vector in .{extension}"


def vector_sample(vector: Float32Array | str, where: str) -> ReadSample:
    """A vector as a sample: the bytes of its numbers.

    Args:
        vector: float32[d], finite; or why there is none, see `cells.vectors`.
        where: its column or file, for the reason.
    """
    if isinstance(vector, str):
        return None, vector
    return (vector.tobytes(), "") if vector.any() else (None, f"zero vector in {where}")


def _type_name(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


_ALL = (
    Modality(
        "image",
        pa.binary(),
        _image_of_cell,
        _image_of_file,
        verify=_verify_image,
        limit_side=_limit_image,
        extensions=EXTENSIONS,
        hub_feature="Image",
    ),
    Modality(TEXT, pa.string(), _text_of_cell, _text_of_file, extensions=("txt",)),
    Modality(VECTOR, None, _no_vector_of_cell, _no_vector_of_file),
)
MODALITIES: dict[str, Modality] = {modality.name: modality for modality in _ALL}


def find_modality(name: str) -> Modality:
    """The modality of a name.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in MODALITIES:
        raise UsageError(
            f"samples of modality {name!r} are unknown to this version",
            f"it knows {', '.join(MODALITIES)}; install the version that made the pool",
        )
    return MODALITIES[name]


def by_modality(table: Mapping[str, EntryT], modality: str, stage: str) -> EntryT:
    """A stage's entry for a modality.

    Args:
        table: modality name -> entry.
        modality: name of the pool's modality.
        stage: as the message calls the stage.

    Raises:
        UsageError: the stage has no entry for the modality; names those that it has.
    """
    if modality not in table:
        plural = find_modality(modality).plural
        have = ", ".join(find_modality(name).plural for name in table)
        raise UsageError(f"{stage} does not support {plural}", f"give a pool of a supported modality: {have}")
    return table[modality]
