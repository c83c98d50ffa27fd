"""What a prior takes from a row of the pool, and what a pool has to offer.

Inputs are plain descriptions: the pipelines read the column and prepare its values on CPU tasks, so that the actor that
holds the model is handed arrays and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from coevo_ray.core.arrays import Int32Array

Modality = Literal["image", "text"]
Tokenizer = Callable[[list[str]], Int32Array]


@dataclass(frozen=True)
class Samples:
    """What a pool offers to priors.

    Attributes:
        modality: what its rows are.
        features: the user's own feature columns -> their dimension; 0 where it is not known yet.
    """

    modality: Modality = "image"
    features: Mapping[str, int] = field(default_factory=dict)


IMAGES = Samples()


@dataclass(frozen=True)
class ImageInput:
    """Decoded images uint8[b, size, size, 3].

    Attributes:
        size: pixels of the square.
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
    def dtype(self) -> np.dtype[Any]:
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
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        return np.dtype(np.int32)


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
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        return np.dtype(np.float32)


PriorInput = ImageInput | TextInput | ColumnInput
