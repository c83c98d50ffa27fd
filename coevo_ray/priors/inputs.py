"""Inputs of priors: which column of the pool they read, and how its values become arrays.

CPU tasks read the column and prepare its values, so that the actor that holds the model receives arrays only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from coevo_ray.core.arrays import BoolArray, Float32Array, Int32Array
from coevo_ray.store.row_table import vectors

Tokenizer = Callable[[list[str]], Int32Array]
PAD = -1  # behind the tokens of a text: no vocabulary has it
TOKENS, TEXTS, CUT = "tokens", "texts", "cut_texts"
NO_TOKENS = "text has no tokens"


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
        column, dtype: column of the pool, and type of the values.
    """

    context: int
    tokenize: Tokenizer
    column: ClassVar[str] = "text"
    dtype: ClassVar[np.dtype[np.int32]] = np.dtype(np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.context,)

    def prepare(self, cells: pa.ChunkedArray) -> Int32Array:
        """Tokens int32[n, context] of n texts."""
        return self.tokenize(cells.to_pylist())


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of b texts, in windows.

    Attributes:
        ids: int32[b, w, l], as wide as these texts need; `PAD` behind the end of each window, empty windows last.
        cut: bool[b], texts of which something was left out.
    """

    ids: Int32Array
    cut: BoolArray


@dataclass(frozen=True, eq=False)
class PreparedTexts:
    """Texts as an encoder takes them.

    Attributes:
        data: int32[n, w, l], see `Tokens`.
        reasons: cause of a row's rejection; "" for usable rows.
        counts: `TOKENS`, `TEXTS` and `CUT` -> their number.
    """

    data: Int32Array
    reasons: list[str]
    counts: dict[str, int]


@dataclass(frozen=True)
class TokenInput:
    """Tokens int32[b, w, l] of texts that keep their lengths: w windows at most, of context tokens at most.

    Attributes:
        context: most tokens of a window.
        windows: most windows of a text; 1 where longer texts are cut.
        tokenize: texts -> their tokens; pickles.
        column, dtype: column of the pool, and type of the values.
    """

    context: int
    windows: int
    tokenize: Callable[[list[str]], Tokens]
    column: ClassVar[str] = "text"
    dtype: ClassVar[np.dtype[np.int32]] = np.dtype(np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Largest shape of one row."""
        return (self.windows, self.context)

    def prepare(self, cells: pa.ChunkedArray) -> PreparedTexts:
        """Tokens of n texts; those without any are rejected."""
        tokens = self.tokenize(cells.to_pylist())
        there = tokens.ids != PAD
        reasons = ["" if any_there else NO_TOKENS for any_there in there.any(axis=(1, 2)).tolist()]
        counts = {TOKENS: int(there.sum()), TEXTS: len(reasons), CUT: int(tokens.cut.sum())}
        return PreparedTexts(tokens.ids, reasons, counts)


@dataclass(frozen=True)
class VectorInput:
    """Vectors float32[b, dim] that CPU tasks compute from texts, by a prior that needs no device.

    Attributes:
        dim: their dimension.
        transform: texts -> float32[b, dim]; pickles.
        column, dtype: column of the pool, and type of the values.
    """

    dim: int
    transform: Callable[[list[str]], Float32Array]
    column: ClassVar[str] = "text"
    dtype: ClassVar[np.dtype[np.float32]] = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.dim,)

    def prepare(self, cells: pa.ChunkedArray) -> Float32Array:
        """float32[n, dim] of n texts."""
        return self.transform(cells.to_pylist())


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
PriorInput = ImageInput | TextInput | TokenInput | VectorInput | ColumnInput
