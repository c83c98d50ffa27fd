"""Inputs of priors: which column of the pool they read, and how its values become arrays.

CPU tasks read the column and prepare its values, so that the actor that holds the model receives arrays only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import Float32Array, Int32Array
from coevo_ray.store.row_table import vectors

Tokenizer = Callable[[list[str]], Int32Array]


@dataclass(frozen=True)
class Samples:
    """The columns of a pool that priors can encode.

    Attributes:
        modality: name of its samples' modality.
        features: the user's own feature columns -> their dimension; 0 where it is not known yet.
    """

    modality: str = "image"
    features: Mapping[str, int] = field(default_factory=dict)


IMAGES = Samples()


@dataclass(frozen=True)
class ImageInput:
    """Decoded images uint8[b, size, size, 3].

    Attributes:
        size: side of the square in pixels.
        crop: centre crop after scaling the shorter side, or both sides squashed.
    """

    size: int
    crop: Literal["center", "squash"] = "center"

    @property
    def column(self) -> str:
        """Column of the pool."""
        return "image"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.size, self.size, 3)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Type of its values."""
        return np.dtype(np.uint8)


@dataclass(frozen=True)
class TextInput:
    """Tokens int32[b, context].

    Attributes:
        context: tokens of a row, padded and cut.
        tokenize: texts -> int32[b, context]; pickles, and loads its vocabulary where it is used.
    """

    context: int
    tokenize: Tokenizer

    @property
    def column(self) -> str:
        """Column of the pool."""
        return "text"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.context,)

    @property
    def dtype(self) -> np.dtype[np.int32]:
        """Type of its values."""
        return np.dtype(np.int32)

    def prepare(self, cells: pa.ChunkedArray) -> Int32Array:
        """Tokens int32[n, context] of n texts."""
        return self.tokenize(cells.to_pylist())


@dataclass(frozen=True)
class ColumnInput:
    """A feature column that the user brought along, float32[b, dim].

    Attributes:
        column: column of the pool.
        dim: its dimension.
    """

    column: str
    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.dim,)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Type of its values."""
        return np.dtype(np.float32)

    def prepare(self, cells: pa.ChunkedArray) -> Float32Array:
        """float32[n, dim] of n cells."""
        return vectors(cells)


# Images are prepared by the pipeline, which decodes each once for all priors; every other input prepares its own cells.
PriorInput = ImageInput | TextInput | ColumnInput
